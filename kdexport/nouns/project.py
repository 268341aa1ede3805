"""Project: the one file that a user writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from kdexport.nouns.base import Noun
from kdexport.nouns.metric import Metric


class Licence(Noun):
    """May this teacher be distilled? `forbidden` stops the run, `unknown` is a warning in every report."""

    distillation: Literal["allowed", "forbidden", "unknown"] = "unknown"
    source: str = Field(default="", description="the licence text or contract clause that says so")


class Fit(Noun):
    """A teacher that kdexport trains on the project's own training rows, dev held out."""

    base: Path | None = Field(default=None, description="folder of a pretrained model to fine-tune")
    spec: dict[str, Any] | None = Field(default=None, description="or a backbone to train from nothing")
    epochs: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _one_start(self) -> Fit:
        if (self.base is None) == (self.spec is None):
            raise ValueError("give exactly one of 'base' and 'spec'")
        return self


class TeacherSource(Noun):
    """Exactly one of model, onnx, function, scores, fit."""

    model: Path | None = Field(default=None, description="folder: config.json, safetensors, tokenizer")
    onnx: Path | None = Field(default=None, description="ONNX file whose first output is logits (B, C)")
    function: str | None = Field(default=None, description="'module:function', list of raw inputs -> (B, C) logits")
    scores: Path | None = Field(default=None, description="JSONL: input text or file name, and scores by class")
    fit: Fit | None = None
    labels: tuple[str, ...] | None = Field(default=None, description="class names in the order of the outputs")
    weight: float = Field(default=1.0, gt=0, description="share in an ensemble")
    trained_on: tuple[Literal["train", "test"], ...] = Field(
        default=("train",), description="rows the teacher has seen; 'fit' holds dev out by itself"
    )
    licence: Licence = Licence()

    @model_validator(mode="after")
    def _one_kind(self) -> TeacherSource:
        given = [k for k in ("model", "onnx", "function", "scores", "fit") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of model, onnx, function, scores, fit (found: {given or 'none'})")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            twice = next(name for name in self.labels if self.labels.count(name) > 1)
            raise ValueError(f"labels: '{twice}' stands twice; name every output, in order")
        return self

    @property
    def kind(self) -> str:
        return next(k for k in ("model", "onnx", "function", "scores", "fit") if getattr(self, k) is not None)


class Table(Noun):
    """Rows: CSV, JSONL, JSON, Parquet, or a folder per class. `file.json#key` reads one member of a JSON object."""

    path: str = Field(description="file, folder, or file.json#key")
    input: str | None = Field(default=None, description="column of the text or image; guessed if absent")
    label: str | None = Field(default=None, description="column of the class; guessed if absent")


class Data(Noun):
    train: Table
    test: Table | None = Field(default=None, description="absent: a tenth of train is held out")
    queries: tuple[Table, ...] = Field(default=(), description="production queries, unlabelled: the real distribution")
    unlabelled: tuple[Table, ...] = Field(default=(), description="further text or images for the teacher to label")
    labelled: bool = Field(default=True, description="false: no true labels; quality is agreement with the teacher")
    dev_fraction: float = Field(default=0.1, gt=0, lt=0.5, description="of train, held out for every choice")


class Training(Noun):
    """None: kdexport decides from the data."""

    epochs: int | None = Field(default=None, ge=1, description="passes over all teacher-labelled rows")
    temperature: float = Field(default=1.0, gt=0, description="divides the logits before the softmax")
    hard_weight: float = Field(default=0.1, ge=0, le=1, description="weight of cross-entropy to the true labels")
    loss: str = Field(default="kl", description="a file of kdexport/losses/")
    augment_per_row: int | None = Field(default=None, ge=0, description="teacher-labelled variants of each row")
    learning_rate: float | None = Field(default=None, gt=0, description="peak of the schedule")
    batch_size: int = Field(default=128, ge=1, description="rows a step")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="while training")
    usd_per_hour: float | None = Field(default=None, ge=0, description="of the machine that trains; none: not stated")
    ladder_minutes: float | None = Field(
        default=None,
        ge=0,
        description="granted for short trainings that predict quality; absent: none, unless `plan --ladder`",
    )


class Incumbent(Noun):
    """Where the teacher runs today. Savings are against this. Default: on the same target, in the precision planned
    for it: fp16 on GPUs that may use it, else fp32."""

    target: str | None = Field(default=None, description="id of a target: the teacher's device, runtime, price")
    usd_per_year: float | None = Field(default=None, ge=0, description="from the bill, if the user has it")


class Project(Noun):
    """The one file that a user writes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="stands in reports and manifests")
    task: str = Field(description="a file of kdexport/tasks/")
    teachers: tuple[TeacherSource, ...] = Field(min_length=1, description="several make a weighted ensemble")
    data: Data
    metric: Metric = Metric()
    targets: tuple[str, ...] = Field(min_length=1, description="ids, or paths of target files")
    incumbent: Incumbent = Incumbent()
    min_retention: float = Field(default=0.97, gt=0, le=1.5, description="student's quality over the teacher's")
    max_params: int | None = Field(default=None, gt=0, description="numbers in the student's graph, at most")
    prefer: Literal["cheapest", "quality"] = Field(
        default="cheapest", description="cheapest that reaches min_retention, or best quality within the limits"
    )
    gate: Literal["point", "lower_bound"] = Field(
        default="point", description="what must reach min_retention: the estimate, or its 95 % interval's lower end"
    )
    training: Training = Training()
    student_usd_per_year: float = Field(
        default=0.0,
        ge=0,
        description="of owning one more student: validation, approval, monitoring; shared where that is cheaper",
    )
    threads: int = Field(default=1, ge=1, description="threads of every engine, in bench and in the bundle")
    seed: int = Field(default=0, description="of initialisation, batches and augmentation")
