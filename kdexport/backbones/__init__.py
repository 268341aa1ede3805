"""Student architectures: `backbones/NAME.py` is the backbone NAME. A backbone knows nothing of runtimes and tasks.

Each module offers
    input_kind: "text" | "image"
    Spec: a StudentSpec with the sizes that fix the graph
    SIZE_FIELDS: the fields of Spec of which more is never cheaper, in any figure of its cost
    build(spec, num_classes) -> torch.nn.Module, forward(input) -> logits (B, C)
    cost(spec, num_classes, shape) -> GraphCost
    candidates(num_classes, shape, vocab_sizes) -> specs of the search space
    initialise(module, embedding) -> start from the teacher's token embedding, where that means something
and, where a trained student has an equal that runs faster, `fold` and `folded_cost` (see Folding).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

from pydantic import ValidationError

from kdexport import registry
from kdexport.errors import BadInput
from kdexport.nouns.graph import GraphCost, InputShape
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["InputShape"]  # part of the interface that a backbone implements


class Backbone(Protocol):
    input_kind: Literal["text", "image"]
    Spec: type[StudentSpec]
    SIZE_FIELDS: tuple[str, ...]

    def build(self, spec: Any, num_classes: int, dropout: float = 0.0) -> torch.nn.Module: ...
    def cost(self, spec: Any, num_classes: int, shape: InputShape) -> GraphCost: ...
    def candidates(self, num_classes: int, shape: InputShape, vocab_sizes: Sequence[int]) -> Iterable[StudentSpec]: ...
    def initialise(self, module: torch.nn.Module, embedding: np.ndarray) -> None: ...


@runtime_checkable
class Folding(Protocol):
    """What a backbone may offer besides: a trained module as an equal one, with tables in place of linear layers.

    fold(module, spec): forward takes the same input and gives the same logits to rounding; `module` is not changed.
    folded_cost: that of the folded graph; SIZE_FIELDS hold for it too."""

    def fold(self, module: torch.nn.Module, spec: Any) -> torch.nn.Module: ...
    def folded_cost(self, spec: Any, num_classes: int, shape: InputShape) -> GraphCost: ...


@cache  # the entry points of every installed package are read: 5 ms, and a search space has thousands of specs
def _load(name: str, where: str = "") -> Backbone:
    return cast(Backbone, registry.load("backbones", name, where))


def backbone_of(spec: StudentSpec) -> Backbone:
    return _load(spec.backbone)


def folding_of(spec: StudentSpec) -> Folding | None:
    """How students of this backbone are folded; None where they cannot be."""
    backbone = _load(spec.backbone)
    return backbone if isinstance(backbone, Folding) else None


def backbones_for(input_kind: str) -> list[Backbone]:
    found = [_load(name) for name in registry.names("backbones")]
    return [b for b in found if b.input_kind == input_kind]


def parse_spec(fields: dict[str, Any], where: str = "spec") -> StudentSpec:
    """A dict (from YAML or JSON) as the Spec of its backbone. Raises BadInput."""
    backbone = _load(str(fields.get("backbone")), where)
    try:
        return backbone.Spec.model_validate(fields)
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{where}: {field + ': ' if field else ''}{message}") from e


def count_params(module: torch.nn.Module) -> int:
    """Numbers in the graph that ships: parameters and buffers that are floats."""
    tensors = [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]
    return sum(t.numel() for t in tensors)


def initialise_embedding(module: torch.nn.Module, embedding: np.ndarray) -> None:
    """Token embedding from the teacher's (V, D), projected; the row of a padding token, where there is one, stays 0."""
    import torch

    table = module.embedding
    assert isinstance(table, torch.nn.Embedding)
    with torch.no_grad():
        table.weight.copy_(torch.from_numpy(embedding_to_width(embedding, table.embedding_dim)))
        if table.padding_idx is not None:
            table.weight[table.padding_idx] = 0.0


def no_embedding(module: torch.nn.Module, embedding: np.ndarray) -> None:
    """A picture has no token embedding: nothing to take over from the teacher."""


def embedding_to_width(embedding: np.ndarray, width: int) -> np.ndarray:
    """The teacher's token embedding (V, D) projected to (V, width) by truncated SVD of the centred matrix,
    scaled to unit standard deviation: keeps the directions in which tokens differ most (Eckart-Young)."""
    import numpy as np

    centred = embedding.astype(np.float64) - embedding.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    basis = vectors[:, np.argsort(values)[::-1][: min(width, embedding.shape[1])]]
    projected = centred @ basis
    projected /= projected.std() + 1e-12
    if width > projected.shape[1]:
        projected = np.pad(projected, ((0, 0), (0, width - projected.shape[1])))
    result: np.ndarray = projected.astype(np.float32)
    return result
