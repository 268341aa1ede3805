"""Tasks: `tasks/NAME.py` is the task NAME: raw input, preprocessing, augmentation. A task knows nothing of backbones.

Each module offers
    input_kind: "text" | "image"
    VARIANTS_KEEP_CLASS: does a variant of a row still belong to the row's class?
    prepare(inputs, teacher_tokenizer, vocab_size) -> Prepared
    vocab_sizes(inputs, teacher_tokenizer) -> sizes worth trying (empty for images)
    encode(prepared, inputs) -> Encoded
    augment(inputs, per_row, seed, labels, neighbours) -> per_row * len(inputs) further rows, the same for the same seed
    near_words(inputs, teacher_tokenizer, embedding) -> neighbours of words, for augment (empty for images)
    worth_pieces(variants, per_row, neighbours) -> those of augment's rows that the vocabulary is counted on, too
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast, overload

from kdexport import registry
from kdexport.backbones import InputShape
from kdexport.nouns.manifest import Preprocessor
from kdexport.storage.tables import Raw

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Prepared:
    """How raw requests become tensors for one model. kept_ids: rows of the teacher's token embedding, (V,)."""

    preprocessor: Preprocessor
    tokenizer_json: str = ""
    kept_ids: tuple[int, ...] = ()

    @property
    def vocab_size(self) -> int:
        return len(self.kept_ids)


class View(Protocol):
    """A row that stands for a changed input, which is made when it is asked for: what a teacher reads."""

    def render(self) -> Raw: ...


Row = Raw | View
Neighbours = Mapping[str, tuple[str, ...]]  # of a word in lower case, the nearest first
NONE: Neighbours = {}


def as_raw(row: Row) -> Raw:
    return row if isinstance(row, str | bytes) else row.render()


class Asked(Sequence[Raw]):
    """Rows as a teacher reads them: a view is made each time that it is read, never kept."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Raw: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Raw]: ...
    def __getitem__(self, index: int | slice) -> Raw | Sequence[Raw]:
        if isinstance(index, slice):
            return [as_raw(row) for row in self._rows[index]]
        return as_raw(self._rows[index])


class Encoded(Protocol):
    """Inputs as tensors. lengths: (N,) tokens of each row (1 for an image): what batches are sorted by."""

    lengths: np.ndarray

    def batch(self, rows: np.ndarray) -> np.ndarray:
        """int64 (B, T) ids padded to the longest row, or float32 (B, C, H, W) pixels."""
        ...

    def shape(self, batch: int = 1) -> InputShape: ...


class Task(Protocol):
    input_kind: Literal["text", "image"]
    VARIANTS_KEEP_CLASS: bool

    def prepare(self, inputs: Sequence[Raw], teacher_tokenizer: str, vocab_size: int) -> Prepared: ...
    def vocab_sizes(self, inputs: Sequence[Raw], teacher_tokenizer: str) -> list[int]: ...
    def encode(self, prepared: Prepared, inputs: Sequence[Row]) -> Encoded: ...
    def augment(
        self,
        inputs: Sequence[Raw],
        per_row: int,
        seed: int,
        labels: np.ndarray | None = None,
        neighbours: Neighbours = NONE,
    ) -> Sequence[Row]: ...
    def near_words(self, inputs: Sequence[Raw], teacher_tokenizer: str, embedding: np.ndarray | None) -> Neighbours: ...
    def worth_pieces(self, variants: Sequence[Row], per_row: int, neighbours: Neighbours) -> Sequence[Raw]: ...


def load_task(name: str, where: str = "") -> Task:
    return cast(Task, registry.load("tasks", name, where))
