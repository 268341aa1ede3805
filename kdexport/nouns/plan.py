"""Plan: for each target the candidates with what they are estimated to be, and the chosen one with its reason."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from kdexport.nouns.base import Noun
from kdexport.nouns.graph import LatencyEstimate
from kdexport.nouns.profile import Precision

Constraint = Literal["latency", "artifact_bytes", "memory", "max_params", "min_retention", "usd"]


class QualityEstimate(Noun):
    """Predicted retention (student's quality over the teacher's) with a 90 % interval."""

    value: float
    low: float
    high: float
    basis: str


class Candidate(Noun):
    """One student in one engine on one target. Parameters are counted, all else is estimated."""

    spec: dict[str, Any]
    num_params: int
    runtime: str = ""
    precision: Precision = "fp32"
    batch: int = Field(default=1, ge=1, description="requests answered in one run")
    artifact_bytes: int = Field(description="graph in this precision plus tokenizer, from the parameter count")
    memory_mib: float = Field(default=0.0, description="resident: the runtime's floor and the artefact; no activations")
    quality: QualityEstimate
    latency: LatencyEstimate | None = Field(description="of one run, in the objective's scope; none: facts are missing")
    objective_ms: float | None = Field(
        default=None, description="estimate of the objective's percentile; scenario server: with waiting at the peak"
    )
    bound_ms: float | None = Field(
        default=None, description="held against the limit: on a calibrated machine the upper end of objective_ms"
    )
    usd_per_year: float | None = None
    usd_per_million: float | None = Field(default=None, description="a million requests at the mean rate")
    why_not: str = Field(default="", description="the first limit that drops it, in words; empty: feasible")
    broken: tuple[Constraint, ...] = Field(default=(), description="every limit that it breaks")


class TargetPlan(Noun):
    target: str
    chosen: Candidate
    reason: str
    feasible: bool = Field(description="does the chosen one meet every limit and min_retention?")
    nearest: str = Field(default="", description="infeasible: the nearest objective that is met, in words")
    binding: Constraint | None = Field(default=None, description="infeasible: the limit to give way first")
    percentile: float = 99
    limit_ms: float | None = Field(default=None, description="the objective's, for drawing")
    min_retention: float | None = None
    num_candidates: int
    front_size: int = Field(default=0, description="of the whole front; `front` holds an even part of a long one")
    front: tuple[Candidate, ...] = Field(description="no other candidate is better in quality, latency, bytes and cost")
    notes: tuple[str, ...] = ()


class SharedStudent(Noun):
    """One student that serves several targets, and what that costs against one student each."""

    targets: tuple[str, ...]
    spec: dict[str, Any]
    num_params: int
    usd_per_year: float = Field(description="serving on all its targets, plus owning one student")
    usd_per_year_apart: float = Field(description="each target its own choice, owning as many students")
    reason: str


class StageEstimate(Noun):
    """What a later stage will take, said before any of it is spent."""

    stage: str
    hours: float | None = Field(description="none: the teacher's arithmetic is not known")
    memory_gib: float
    basis: str
    usd: float | None = Field(default=None, description="hours at the project's training price; none: not given")


class Plan(Noun):
    targets: tuple[TargetPlan, ...]
    stages: tuple[StageEstimate, ...]
    shared: tuple[SharedStudent, ...] = ()
    quality_basis: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def feasible(self) -> bool:
        return all(t.feasible for t in self.targets)

    def for_target(self, name: str) -> TargetPlan:
        return next(t for t in self.targets if t.target == name)
