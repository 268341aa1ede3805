"""Plan: for each target the candidates with what they are estimated to be, and the chosen one with its reason."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from kdexport.nouns.base import Noun
from kdexport.nouns.graph import LatencyEstimate


class QualityEstimate(Noun):
    """Predicted retention (student's quality over the teacher's) with a 90 % interval."""

    value: float
    low: float
    high: float
    basis: str


class Candidate(Noun):
    spec: dict[str, Any]
    num_params: int
    artifact_bytes: int = Field(description="fp32 graph plus tokenizer, estimated from the parameter count")
    quality: QualityEstimate
    latency: LatencyEstimate | None = Field(description="end to end, single stream; none: facts are missing")
    objective_ms: float | None = Field(default=None, description="estimate of the objective's percentile")
    usd_per_year: float | None = None
    why_not: str = Field(default="", description="the limit that drops it; empty: feasible")


class TargetPlan(Noun):
    target: str
    chosen: Candidate
    reason: str
    feasible: bool = Field(description="does the chosen one meet every limit and min_retention?")
    nearest: str = Field(default="", description="infeasible: the nearest objective that is met, in words")
    num_candidates: int
    front: tuple[Candidate, ...] = Field(description="no other candidate is better in quality, latency and cost")
    notes: tuple[str, ...] = ()


class StageEstimate(Noun):
    """What a later stage will take, said before any of it is spent."""

    stage: str
    hours: float | None = Field(description="none: the teacher's arithmetic is not known")
    memory_gib: float
    basis: str


class Plan(Noun):
    targets: tuple[TargetPlan, ...]
    stages: tuple[StageEstimate, ...]
    warnings: tuple[str, ...] = ()

    @property
    def feasible(self) -> bool:
        return all(t.feasible for t in self.targets)

    def for_target(self, name: str) -> TargetPlan:
        return next(t for t in self.targets if t.target == name)
