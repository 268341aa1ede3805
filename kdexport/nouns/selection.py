"""Selection: a project's teachers and their ensembles compared, as `kdexport teacher select` answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdexport.nouns.base import Noun
from kdexport.nouns.bench import Quality
from kdexport.nouns.measurement import Interval


class Lesson(Noun):
    """What one small student learnt from a candidate's labels, on a short complete schedule; the same for all."""

    quality: Quality = Field(description="of the student on dev, under the project's metric, measured")
    nll: float = Field(description="of the student, nats a dev row, measured")
    against_best: float = Field(default=1.0, description="its quality over that of the best student")
    against_best_ci95: Interval = Field(default=(1.0, 1.0), description="paired bootstrap of the dev rows")
    seconds: float = Field(description="measured: training alone")


class Labelling(Noun):
    """What it takes to label the transfer set."""

    rows: int
    rows_per_s: float = Field(description="measured on the dev rows")
    seconds: float
    usd: float | None = Field(default=None, description="none where the project states no price of an hour, or a call")
    kind: Literal["estimated"] = "estimated"


class Candidate(Noun):
    """One teacher, or an ensemble of some."""

    name: str
    members: tuple[int, ...] = Field(description="numbers of the project's teachers, from 1")
    seen_dev: bool = Field(description="may it have learnt from the dev rows? then they flatter it")
    combination: str = Field(default="", description="of an ensemble: mean, weights, calibration, and why")
    quality: Quality | None = Field(description="on dev, under the project's metric, measured; none without labels")
    nll: float | None = Field(description="nats a dev row, measured")
    ece: float | None = Field(description="expected calibration error on dev, measured")
    agreement: float | None = Field(description="with the ensemble of all, on the production queries held out")
    inner_disagreement: float | None = Field(description="share of those rows to which its own members differ")
    labelling: Labelling
    student: Lesson | None = None


class Selection(Noun):
    project: str
    dev_rows: int
    agreement_rows: int
    agreement_on: Literal["production queries", "dev rows"]
    student_spec: dict[str, object] | None = None
    student_params: int | None = None
    student_rows: int | None = Field(default=None, description="distinct, labelled by each candidate")
    student_epochs: int | None = None
    candidates: tuple[Candidate, ...]
    recommended: str
    sentence: str = Field(description="what to take, and why")
    warnings: tuple[str, ...] = ()
