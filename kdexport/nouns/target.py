"""Target: where a student must live, how fast it must answer, how often it is asked, what it costs there."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from kdexport.nouns.base import Noun
from kdexport.nouns.profile import Precision

LOCAL = "local"  # the profile id that means "this machine, detected and measured"
PERCENTILES = (50, 90, 95, 99, 99.9)


class Objective(Noun):
    """A latency percentile that must not exceed a limit."""

    percentile: int | float = 99
    limit_ms: float = Field(gt=0)
    scope: Literal["end_to_end", "model"] = Field(default="end_to_end", description="raw request in, answer out")
    scenario: Literal["single_stream", "server"] = Field(
        default="single_stream", description="one request after another, or open arrivals at the peak rate"
    )

    @field_validator("percentile")
    @classmethod
    def _known_percentile(cls, percentile: int | float) -> int | float:
        if percentile not in PERCENTILES:
            raise ValueError(f"percentile {percentile:g} is not one of {', '.join(f'{p:g}' for p in PERCENTILES)}")
        return percentile


class Traffic(Noun):
    """Requests per second over a year. `assumed` marks a default that no one has confirmed."""

    mean_requests_per_s: float = Field(gt=0)
    peak_requests_per_s: float = Field(gt=0)
    assumed: bool = False

    @model_validator(mode="after")
    def _peak_over_mean(self) -> Traffic:
        if self.peak_requests_per_s < self.mean_requests_per_s:
            raise ValueError("peak_requests_per_s is below mean_requests_per_s")
        return self


class Limits(Noun):
    memory_mib: float | None = Field(default=None, gt=0, description="resident memory of the serving process")
    artifact_bytes: int | None = Field(default=None, gt=0, description="every file loaded to answer one request")


class Target(Noun):
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    description: str = ""
    profile: str = Field(description="id of a hardware profile, or 'local' for this machine")
    offering: str | None = Field(default=None, description="id of one of the profile's offerings; none: cost is blank")
    runtimes: tuple[str, ...] = Field(min_length=1, description="allowed, e.g. onnxruntime, tensorrt")
    precisions: tuple[Precision, ...] = Field(min_length=1)
    objective: Objective
    traffic: Traffic
    limits: Limits = Limits()
    redundancy: int = Field(default=1, ge=0, description="replicas kept beyond what the peak needs")
    max_utilisation: float = Field(default=0.7, gt=0, le=1, description="share of capacity planned for use at peak")
    max_batch: int = Field(default=32, ge=1, description="largest batch that the planner may form")
