"""Calibration: what one machine was measured to do with one runtime and precision."""

from __future__ import annotations

from pydantic import Field

from kdexport.nouns.base import Noun


class BackboneCurve(Noun):
    """Coefficients of the physical model of one backbone, all >= 0, in ms per unit of each feature."""

    coefficients: dict[str, float]
    relative_error: float = Field(ge=0, description="90 % of leave-one-graph-out predictions are within this share")
    num_points: int


class Calibration(Noun):
    fingerprint: str
    environment: str
    runtime: str
    precision: str
    threads: int
    curves: dict[str, BackboneCurve] = Field(description="by backbone")
    preprocess_ms: float = Field(description="median, one raw request to tensors, on this project's inputs")
    tail_ratio: float = Field(ge=1, description="p99 over p50, single stream, measured")
    seconds: float
