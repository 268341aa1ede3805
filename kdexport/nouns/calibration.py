"""Calibration: what one machine was measured to do with one runtime and precision."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from kdexport.nouns.base import Noun
from kdexport.nouns.graph import InputShape
from kdexport.nouns.profile import Precision


class TimedPoint(Noun):
    """One untrained graph at one shape: single runs, model alone."""

    spec: dict[str, Any]
    num_classes: int
    shape: InputShape
    p50_ms: float = Field(gt=0, description="median of single runs in the quickest of several visits")
    spread: float = Field(ge=0, description="of the second quickest visit over it, less 1; 1: visited once")
    n: int = Field(ge=1, description="runs timed")


class Calibration(Noun):
    """Points of one (machine, runtime, version, precision, threads). Every latency model here is fitted from them."""

    fingerprint: str = Field(description="of the machine: CPU, ISA, cores, quota, governor, threads, runtimes")
    environment: str
    taken_at: str = Field(description="ISO 8601, UTC")
    runtime: str
    version: str = Field(description="of the runtime's package")
    precision: Precision
    threads: int
    points: tuple[TimedPoint, ...]
    noise: float = Field(ge=0, description="typical relative difference of two medians of the same point, measured")
    tail: dict[str, float] = Field(description="percentile ('90', '95', '99', '99.9') over the median, single stream")
    seconds: float

    @property
    def cell(self) -> str:
        return f"{self.runtime}/{self.precision}"


class LocalSpeed(Noun):
    """What this machine was measured to do: engines by cell, and the project's own preprocessing."""

    cells: tuple[Calibration, ...] = Field(min_length=1)
    preprocess_ms: float = Field(description="median, one raw request to tensors, on this project's inputs")
    preprocess_tail: dict[str, float] = Field(description="percentile over the median of preprocessing")
