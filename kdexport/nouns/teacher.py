"""TeacherMember: one teacher made ready to answer; TeacherSet: one teacher or an ensemble, and how it is combined."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdexport.nouns.base import Noun
from kdexport.nouns.manifest import Preprocessor
from kdexport.nouns.project import Licence, Redact


class TeacherMember(Noun):
    """Paths are relative to the folder of the teach stage."""

    kind: Literal["model", "onnx", "function", "scores", "fit", "chat", "open_inference"]
    name: str
    classes: tuple[str, ...] = Field(min_length=2, description="in the order of the outputs")
    weight: float = 1.0
    num_params: int | None = None
    num_embedding_params: int | None = None
    graph: str | None = Field(default=None, description="fp32 ONNX file; none where the teacher is no graph")
    plain_graph: str | None = Field(default=None, description="the same before fusions: only standard operators")
    input_names: tuple[str, ...] = ()
    preprocessor: Preprocessor | None = None
    tokenizer: str | None = None
    question: str | None = Field(default=None, description="of an endpoint: JSON file of how it is asked")
    embedding: str | None = Field(default=None, description="safetensors file with 'embedding' (V, D)")
    source: str = Field(default="", description="path or name from the project file")
    sha256: str = Field(description="of the weights, or of the scores file, or of the function's name")
    seen_dev: bool = Field(description="was it trained on rows that the dev split holds?")
    licence: Licence = Licence()
    redact: tuple[Redact, ...] = Field(
        default=(), description="what the project takes out of texts before they are asked"
    )


class Combination(Noun):
    """How the members of an ensemble answer as one; decided once, before anything is labelled."""

    mean: Literal["logits", "probabilities"]
    weights: tuple[tuple[float, ...], ...] = Field(description="each member's: one, or one a class; sum over members 1")
    temperatures: tuple[float, ...] = Field(description="each member's logits are divided by its own first")
    reason: str = ""
    nll: dict[str, float] = Field(
        default={}, description="of every way compared: nats a dev row that it was not fitted on"
    )
    dev_rows: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def numbers(self) -> list[object]:
        """What the answers depend on, for keys."""
        return [self.mean, self.weights, self.temperatures]


class TeacherSet(Noun):
    members: tuple[TeacherMember, ...] = Field(min_length=1)
    combination: Combination | None = Field(default=None, description="of several members; absent: weights as given")

    @property
    def is_graph(self) -> bool:
        """Can it be run and timed here as ONNX graphs?"""
        return all(m.graph for m in self.members)

    @property
    def num_params(self) -> int | None:
        counts = [m.num_params for m in self.members]
        return sum(c for c in counts if c is not None) if all(c is not None for c in counts) else None

    @property
    def seen_dev(self) -> bool:
        return any(m.seen_dev for m in self.members)
