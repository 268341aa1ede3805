"""Student: a trained model with its files; EngineResult: one engine tried for a target; EngineChoice: the one kept."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from kdexport.nouns.base import Noun
from kdexport.nouns.manifest import Preprocessor
from kdexport.nouns.measurement import Interval
from kdexport.nouns.profile import Precision


class Recipe(Noun):
    """How a student is trained; the project's wishes with every blank filled."""

    epochs: int
    batch_size: int
    learning_rate: float
    temperature: float
    hard_weight: float
    loss: str
    augment_per_row: int
    dropout: float
    averaging: float = 0.0
    seed: int
    threads: int


class Trial(Noun):
    """One balance of soft and hard targets, tried on a short complete schedule. Judged on dev, calibrated."""

    temperature: float
    hard_weight: float
    dev_quality: float
    dev_nll: float = Field(description="of the true labels, in nats, weighed as production does")
    gain_nll: float = Field(description="nats a row by which it beats the first trial; below 0: it is worse")
    gain_error: float = Field(description="standard error of that gain, over the same dev rows")
    seconds: float


class Tuning(Noun):
    """Temperature and hard weight, chosen on dev before the student is trained."""

    trials: tuple[Trial, ...]
    chosen: int = Field(description="index into trials; the first is the default")
    schedule_share: float = Field(description="of the full training's steps, each trial")
    reason: str


class Student(Noun):
    """Files are relative to the folder of the distil stage."""

    spec: dict[str, Any]
    num_params: int
    num_params_without_embeddings: int
    recipe: Recipe
    losses: tuple[float, ...]
    dev_quality: tuple[float, ...] = Field(description="after each epoch, under the project's metric")
    terms: tuple[dict[str, float], ...] = Field(default=(), description="parts of each epoch's loss, in nats")
    gradient_norms: tuple[dict[str, float], ...] = Field(default=(), description="of each part, L2, on a first batch")
    calibration_temperature: float = Field(default=1.0, description="divided the logits, fitted on dev")
    bf16: bool
    preprocessor: Preprocessor
    weights: str = "model.safetensors"
    graph: str = "model.onnx"
    tokenizer: str = ""
    weights_sha256: str


class Parity(Noun):
    """An engine against torch on real inputs and edge cases."""

    max_abs_err: float
    agreement: float = Field(description="share of inputs with the same top class")
    n: int


class EngineResult(Noun):
    runtime: str
    precision: Precision
    quality: float | None = Field(default=None, description="on dev, under the project's metric")
    p50_ms: float | None = Field(default=None, description="model alone; none where it was not timed")
    kind: Literal["measured", "estimated"] | None = None
    interval_ms: Interval | None = None
    bytes: int | None = None
    file: str = ""
    parity: Parity | None = None
    chosen: bool = False
    finished: bool = Field(default=False, description="of the student distilled on with int8 in the loop")
    reason: str = Field(default="", description="why it was kept or left")


class Int8Finish(Noun):
    """A short further distillation with int8 in the loop, and what it did for one runtime. Quality is on dev."""

    runtime: str
    scheme: Literal["dynamic", "static"] = Field(description="activations by each request's range, or by ranges seen")
    fp32: float
    before: float | None = Field(description="int8 of the student as it was distilled; none: it lost parity")
    after: float | None = Field(description="int8 of the finished student; none: it lost parity")
    kept: bool = Field(description="the finished student's int8 is the better of the two")


class EngineChoice(Noun):
    runtime: str
    precision: Precision
    artifact: Literal["engine", "recipe"]
    file: str = Field(description="relative to the folder of the engines stage; empty: the student's graph itself")
    graph: str = Field(default="", description="the graph it is built from, if that is not the student's own (fp16)")
    verified_on: str = Field(description="engine whose parity and quality stand for this artefact")
    parity: Parity
    threshold: float | None = None
    dev_quality: float
    tried: tuple[EngineResult, ...]
    finishes: tuple[Int8Finish, ...] = ()
    finished: Literal["dynamic", "static"] | None = Field(
        default=None, description="scheme of the finish whose student this is an engine of; none: the distilled one"
    )
    notes: tuple[str, ...] = ()
