"""A figure is evidence: it travels with unit, n, interval, machine, and `measured` or `estimated`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kdexport.nouns.base import Noun

Interval = tuple[float, float]


class Environment(Noun):
    """The machine and software that a measurement was taken with."""

    id: str = Field(description="hash of the other fields; measurements refer to it")
    cpu: str
    isa: tuple[str, ...]
    cores_allowed: float = Field(description="by affinity and cgroup quota")
    memory_bytes: int
    threads: int
    platform: str
    python: str
    packages: dict[str, str]
    taken_at: str = Field(description="ISO 8601, UTC")


class Measurement(Noun):
    """One figure. Measured: n samples, 95 % confidence interval. Estimated: model and 90 % error interval."""

    value: float
    unit: str
    kind: Literal["measured", "estimated"]
    n: int = Field(default=0, ge=0)
    ci95: Interval | None = None
    error_interval: Interval | None = None
    model: str = Field(default="", description="estimated: what made the estimate")
    environment: str = Field(default="", description="measured: id of the Environment")

    @model_validator(mode="after")
    def _evidence_by_kind(self) -> Measurement:
        if self.kind == "measured" and not (self.n and self.environment):
            raise ValueError("a measured figure has n and an environment")
        if self.kind == "estimated" and not (self.error_interval and self.model):
            raise ValueError("an estimated figure has an error interval and names its model")
        return self


class Latency(Noun):
    """Percentiles of one latency. A percentile is absent where n is too small for its bound
    (MLPerf early stopping: p90 needs 64 requests, p95 130, p99 662, p99.9 6,636)."""

    kind: Literal["measured", "estimated"]
    p50_ms: float = Field(gt=0)
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    n: int = Field(default=0, ge=0)
    ci95: Interval | None = Field(default=None, description="measured: of the median, in ms")
    error_interval: Interval | None = Field(default=None, description="estimated: 90 % interval of the median, in ms")
    model: str = ""
    environment: str = ""

    def percentile_ms(self, percentile: float) -> float | None:
        names: dict[float, float | None] = {50: self.p50_ms, 90: self.p90_ms, 95: self.p95_ms, 99: self.p99_ms}
        names[99.9] = self.p999_ms
        return names.get(percentile)

    @model_validator(mode="after")
    def _evidence_by_kind(self) -> Latency:
        if self.kind == "measured" and not (self.n and self.environment and self.ci95):
            raise ValueError("a measured latency has n, ci95 and an environment")
        if self.kind == "estimated" and not (self.error_interval and self.model):
            raise ValueError("an estimated latency has an error interval and names its model")
        return self


class Decision(Noun):
    """A choice made by measurement: written once, before it is used, never remeasured on resume."""

    name: str
    choice: str
    reason: str
    candidates: dict[str, float] = Field(default={}, description="what was compared, and each one's figure")
    unit: str = ""
    environment: str = ""
