"""BenchResult: what one target's artefact and its teacher were measured, or estimated, to do."""

from __future__ import annotations

from pydantic import Field

from kdexport.nouns.base import Noun
from kdexport.nouns.graph import LatencyEstimate
from kdexport.nouns.measurement import Interval, Latency


class Quality(Noun):
    metric: str
    value: float
    ci95: Interval
    n: int


class Ratio(Noun):
    value: float
    ci95: Interval = Field(description="95 %; of an estimate: its 90 % error interval")


class ClassChange(Noun):
    name: str
    n: int
    teacher: float
    student: float


class QualityResult(Noun):
    """On the test set, predicted once after every choice."""

    teacher: Quality
    student: Quality
    retention: Ratio
    per_class: tuple[ClassChange, ...]
    teacher_ece: float
    student_ece: float
    agreement: float = Field(description="share of test inputs with the teacher's top class")
    query_agreement: Ratio | None = Field(default=None, description="the same on held-out production queries")
    query_n: int = 0


class Timed(Noun):
    """One model on one target: raw request to answer, and engine alone; the sample itself for queueing."""

    label: str
    end_to_end: Latency
    model: Latency
    service_ms: tuple[float, ...] = Field(default=(), description="measured: end-to-end sample, at most 2,000")
    estimate: LatencyEstimate | None = Field(default=None, description="estimated: end to end")
    bytes: int
    quality: float | None = None


class BenchResult(Noun):
    target: str
    teacher: Timed | None = Field(description="the reference; none where the teacher is no graph")
    teacher_quantised: Timed | None = None
    student: Timed | None = Field(description="none where facts of the device are missing")
    speedup: Ratio | None = None
    speedup_model: Ratio | None = None
    notes: tuple[str, ...] = ()
