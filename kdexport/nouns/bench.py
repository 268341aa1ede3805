"""BenchResult: what one target's artefact and its teacher were measured, or estimated, to do."""

from __future__ import annotations

from typing import Literal

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


class SliceQuality(Noun):
    """Teacher and student on a part of the rows. Of production queries without labels: agreement with the teacher."""

    by: str = Field(description="class, length, time, source table, nearness to train, or a column of the user's")
    name: str
    on: Literal["test rows", "held-out queries"] = "test rows"
    n: int
    share: float = Field(description="of all rows, by weight")
    metric: str = Field(description="the project's; of a class its recall, of queries the agreement")
    teacher: Ratio
    student: Ratio
    retention: Ratio | None = Field(description="none where the teacher scores 0")
    p: float | None = Field(default=None, description="paired test of right answers, after Holm's correction")
    verdict: Literal["lost", "gained", "no significant difference", ""] = ""


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
    weighted: bool = Field(default=False, description="by how often each row came in production")
    effective_n: float | None = Field(default=None, description="how many rows of equal weight tell as much (Kish)")
    slices: tuple[SliceQuality, ...] = ()


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
