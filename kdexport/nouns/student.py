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
    seed: int
    threads: int


class Student(Noun):
    """Files are relative to the folder of the distil stage."""

    spec: dict[str, Any]
    num_params: int
    num_params_without_embeddings: int
    recipe: Recipe
    losses: tuple[float, ...]
    dev_quality: tuple[float, ...] = Field(description="after each epoch, under the project's metric")
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
    reason: str = Field(default="", description="why it was kept or left")


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
    notes: tuple[str, ...] = ()
