"""The recipe: what the project asks for, and what the size of the data decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdexport.dataset import Dataset
from kdexport.nouns.project import Project
from kdexport.nouns.student import Recipe
from kdexport.storage.tables import Raw
from kdexport.tasks import Task

if TYPE_CHECKING:
    import numpy as np

AUGMENTED_ROWS = {"text": 60_000, "image": 15_000}  # more than this bought nothing on 10 k queries
ROWS_SEEN = {"text": 750_000, "image": 200_000}  # rows times epochs: 8 epochs of 90 k texts
EPOCHS = (8, 30)
LEARNING_RATE = {"text": 3e-3, "image": 3e-3}


def recipe(project: Project, dataset: Dataset, input_kind: str, threads: int) -> Recipe:
    """Blanks of `training` filled from the number of rows. A teacher that is a file of scores cannot label variants."""
    wishes, num_train = project.training, len(dataset.train)
    fixed = any(t.kind == "scores" for t in project.teachers)
    per_row = wishes.augment_per_row
    if per_row is None:
        per_row = 0 if fixed else min(max(round(AUGMENTED_ROWS[input_kind] / num_train), 1), 12)
    rows = num_train * (1 + per_row) + len(dataset.unlabelled)
    epochs = wishes.epochs or min(max(round(ROWS_SEEN[input_kind] / rows), EPOCHS[0]), EPOCHS[1])
    return Recipe(
        epochs=epochs,
        batch_size=wishes.batch_size,
        learning_rate=wishes.learning_rate or LEARNING_RATE[input_kind],
        temperature=wishes.temperature,
        hard_weight=wishes.hard_weight,
        loss=wishes.loss,
        augment_per_row=per_row,
        dropout=wishes.dropout,
        seed=project.seed,
        threads=threads,
    )


@dataclass(frozen=True)
class TransferSet:
    """What the teacher labels and the student learns from. hard: int64 (N,), -1 where there is no true label."""

    inputs: Sequence[Raw]
    hard: np.ndarray


def transfer_set(dataset: Dataset, task: Task, per_row: int, seed: int) -> TransferSet:
    """Train rows, their variants, then unlabelled rows; the same list for the same seed."""
    import numpy as np

    variants = task.augment(dataset.train.inputs, per_row, seed) if per_row else []
    hard = np.full(len(dataset.train) + len(variants) + len(dataset.unlabelled), -1, dtype=np.int64)
    if dataset.train.labels is not None:
        hard[: len(dataset.train)] = dataset.train.labels
    return TransferSet([*dataset.train.inputs, *variants, *dataset.unlabelled], hard)
