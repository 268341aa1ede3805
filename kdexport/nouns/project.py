"""Project: the one file that a user writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from kdexport.nouns.base import Noun
from kdexport.nouns.endpoint import Chat, OpenInference
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
    batch_size: int = Field(default=64, ge=1, description="rows a step")
    seed: int = 0
    seeds: tuple[int, ...] = Field(default=(), description="or several: as many members of an ensemble, in one entry")

    @model_validator(mode="after")
    def _one_start(self) -> Fit:
        if (self.base is None) == (self.spec is None):
            raise ValueError("give exactly one of 'base' and 'spec'")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} holds one twice: two equal members are one")
        return self


KINDS = ("model", "onnx", "function", "scores", "fit", "chat", "open_inference")


class TeacherSource(Noun):
    """Exactly one of model, onnx, function, scores, fit, chat, open_inference."""

    model: Path | None = Field(default=None, description="folder: config.json, safetensors, tokenizer")
    onnx: Path | None = Field(default=None, description="ONNX file whose first output is logits (B, C)")
    function: str | None = Field(default=None, description="'module:function', list of raw inputs -> (B, C) logits")
    scores: Path | None = Field(default=None, description="JSONL: input text or file name, and scores by class")
    fit: Fit | None = None
    chat: Chat | None = Field(default=None, description="language model behind an OpenAI-compatible server")
    open_inference: OpenInference | None = Field(default=None, description="classifier behind Triton, KServe, MLServer")
    labels: tuple[str, ...] | None = Field(default=None, description="class names in the order of the outputs")
    weight: float = Field(default=1.0, ge=0, description="share in an ensemble; of 'seeds', of all of them together")
    trained_on: tuple[Literal["train", "test"], ...] = Field(
        default=("train",), description="rows the teacher has seen; 'fit' holds dev out by itself"
    )
    licence: Licence = Licence()

    @model_validator(mode="before")
    @classmethod
    def _prompted_is_not_trained(cls, data: Any) -> Any:
        """A language model that is only asked has not been trained on the project's rows, unless the file says so."""
        if isinstance(data, dict) and data.get("chat") is not None:
            return {"trained_on": (), **data}
        return data

    @model_validator(mode="after")
    def _one_kind(self) -> TeacherSource:
        given = [k for k in KINDS if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)} (found: {given or 'none'})")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            twice = next(name for name in self.labels if self.labels.count(name) > 1)
            raise ValueError(f"labels: '{twice}' stands twice; name every output, in order")
        return self

    def members(self) -> tuple[TeacherSource, ...]:
        """Itself; a fit of several seeds as a member each, which share its weight."""
        if self.fit is None or not self.fit.seeds:
            return (self,)
        fits = [self.fit.model_copy(update={"seed": seed, "seeds": ()}) for seed in self.fit.seeds]
        return tuple(self.model_copy(update={"fit": f, "weight": self.weight / len(fits)}) for f in fits)

    @property
    def kind(self) -> str:
        return next(k for k in KINDS if getattr(self, k) is not None)

    @property
    def endpoint(self) -> Chat | OpenInference | None:
        """Where it is asked, if it answers over HTTP."""
        return self.chat or self.open_inference

    @property
    def learns(self) -> bool:
        """Do its answers depend on the project's own training rows?"""
        return self.fit is not None or (self.chat is not None and self.chat.examples not in (0, ()))


class Table(Noun):
    """Rows: CSV, JSONL, JSON, Parquet, or a folder per class. `file.json#key` reads one member of a JSON object."""

    path: str = Field(description="file, folder, or file.json#key")
    input: str | None = Field(default=None, description="column of the text or image; guessed if absent")
    label: str | None = Field(default=None, description="column of the class; guessed if absent")
    weight: str | None = Field(default=None, description="column: how often the request came in production, above 0")
    time: str | None = Field(default=None, description="column: when it came, ISO 8601 or seconds since 1970")
    slices: tuple[str, ...] = Field(default=(), description="columns by whose values quality is shown apart")


class RedactRule(Noun):
    """What to take out of texts besides the built-in rules: exactly one of pattern and file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="stands in counts, and in the replacement")
    pattern: str | None = Field(default=None, description="regular expression of what is taken out")
    file: Path | None = Field(default=None, description="or a text file: one name or phrase a line, in any case")
    replace: str | None = Field(default=None, description="what stands there instead; absent: the name, as [NAME]")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            empty = pattern is not None and re.search(pattern, "") is not None
        except re.error as e:
            raise ValueError(f"not a regular expression ({e}); correct it") from e
        if empty:
            raise ValueError("it also matches where nothing stands; let it match one character at least")
        return pattern

    @model_validator(mode="after")
    def _one_source(self) -> RedactRule:
        if (self.pattern is None) == (self.file is None):
            raise ValueError("give exactly one of 'pattern' and 'file'")
        return self


RedactName = Literal["url", "email", "iban", "card", "nric", "ip", "phone", "name"]
Redact = Annotated[
    Annotated[RedactName, Tag("built_in")] | Annotated[RedactRule, Tag("own")],
    Discriminator(lambda rule: "built_in" if isinstance(rule, str) else "own"),
]


class Data(Noun):
    train: Table
    test: Table | None = Field(default=None, description="absent: a tenth of train is held out")
    queries: tuple[Table, ...] = Field(default=(), description="production queries, unlabelled: the real distribution")
    unlabelled: tuple[Table, ...] = Field(default=(), description="further text or images for the teacher to label")
    labelled: bool = Field(default=True, description="false: no true labels; quality is agreement with the teacher")
    dev_fraction: float = Field(default=0.1, gt=0, lt=0.5, description="of train, held out for every choice")
    split: Literal["content", "time"] = Field(
        default="content", description="what is held out: rows by their hash, or the latest (needs train's `time`)"
    )
    redact: tuple[Redact, ...] = Field(
        default=(), description="personal data taken out of every text on import: rules by name, or your own"
    )

    @model_validator(mode="after")
    def _time_is_known(self) -> Data:
        if self.split == "time" and self.train.time is None:
            raise ValueError("split: time needs the column of train that holds the time; give data.train.time")
        return self


class Training(Noun):
    """None: kdexport decides from the data."""

    epochs: int | None = Field(default=None, ge=1, description="passes over all teacher-labelled rows")
    temperature: float | None = Field(
        default=None, gt=0, description="divides the logits before the softmax; absent: searched on dev, from 1"
    )
    hard_weight: float | None = Field(
        default=None, ge=0, description="of cross-entropy to the true labels; absent: searched on dev, from 0.1"
    )
    loss: str = Field(default="kl", description="a file of kdexport/losses/")
    augment_per_row: int | None = Field(default=None, ge=0, description="teacher-labelled variants of each row")
    learning_rate: float | None = Field(default=None, gt=0, description="peak of the schedule")
    batch_size: int = Field(default=128, ge=1, description="rows a step")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="while training")
    baselines: bool = Field(
        default=True,
        description="train what the student is judged against: itself on hard labels only, and a plain linear model",
    )
    quantisation_aware: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="a short further distillation with int8 in the loop; auto: where int8 loses over 0.003 on dev",
    )
    usd_per_hour: float | None = Field(default=None, ge=0, description="of the machine that trains; none: not stated")
    ladder_minutes: float | None = Field(
        default=None,
        ge=0,
        description="granted for short trainings that predict quality; absent: none, unless `plan --ladder`",
    )


class Ensemble(Noun):
    """How several teachers answer as one. `auto` is decided on dev by negative log-likelihood, where no member has seen
    the dev rows; else the mean of probabilities, weights as given, nothing calibrated."""

    mean: Literal["auto", "logits", "probabilities"] = "auto"
    weights: Literal["auto", "given", "dev", "per_class"] = Field(
        default="auto", description="given: each teacher's `weight`; dev: fitted there; per_class: one a class, too"
    )
    calibrate: Literal["auto"] | bool = Field(
        default="auto", description="each member by its own temperature, fitted on dev, before they are averaged"
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
    ensemble: Ensemble = Field(default=Ensemble(), description="how several teachers answer as one")
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
    seed: int = Field(default=0, description="of initialisation and batches")

    @field_validator("teachers", mode="after")
    @classmethod
    def _a_member_each(cls, given: tuple[TeacherSource, ...]) -> tuple[TeacherSource, ...]:
        members = tuple(member for source in given for member in source.members())
        if not any(m.weight for m in members):
            raise ValueError(f"the weights of all {len(members)} teachers are 0; give one of them a weight above 0")
        return members
