"""The recipe: what the project asks for, and what the size of the data decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdexport.dataset import Dataset
from kdexport.nouns.project import Project
from kdexport.nouns.student import Recipe
from kdexport.tasks import NONE, Neighbours, Row, Task

if TYPE_CHECKING:
    import numpy as np

AUGMENTED_ROWS = {"text": 120_000, "image": 180_000}
ROWS_SEEN = {"text": 600_000, "image": 1_100_000}  # rows times epochs, where there are rows enough
SEEN_PER_ROW, SEEN_AT_LEAST = 150, 200_000  # of train rows, and in all: a small set is not read for an hour
EPOCHS = {"text": (2, 30), "image": (4, 30)}
AUGMENTATION = 3  # version of what tasks make of a row: raised, labels are made anew
AUGMENTATION_SEED = 0  # not the project's: students of several seeds share the labels, which cost most
AVERAGING = 0.998  # of the weights, a step: over some 500 steps
TEMPERATURE, HARD_WEIGHT = 1.0, 0.1  # where the search on dev finds nothing better
IMBALANCE = 10.0  # largest class over smallest; Banking77 has 5
LEARNING_RATE = {"text": 3e-3, "image": 3e-3}


def recipe(project: Project, dataset: Dataset, input_kind: str, threads: int) -> Recipe:
    """Blanks of `training` filled from the number of rows. A teacher that is a file of scores cannot
    label variants, and one that is paid by the answer is not asked about them unless the project says so."""
    wishes, num_train = project.training, len(dataset.train)
    fixed = any(t.kind in ("scores", "chat") for t in project.teachers)
    per_row = wishes.augment_per_row
    if per_row is None:
        per_row = 0 if fixed else min(max(round(AUGMENTED_ROWS[input_kind] / num_train), 1), 12)
    rows = num_train * (1 + per_row) + len(dataset.unlabelled)
    fewest, most = EPOCHS[input_kind]
    seen = min(ROWS_SEEN[input_kind], max(SEEN_PER_ROW * num_train, SEEN_AT_LEAST))
    epochs = wishes.epochs or min(max(round(seen / rows), fewest), most)
    return Recipe(
        epochs=epochs,
        batch_size=wishes.batch_size,
        learning_rate=wishes.learning_rate or LEARNING_RATE[input_kind],
        temperature=wishes.temperature or TEMPERATURE,
        hard_weight=HARD_WEIGHT if wishes.hard_weight is None else wishes.hard_weight,
        loss=wishes.loss,
        augment_per_row=per_row,
        dropout=wishes.dropout,
        averaging=AVERAGING,
        seed=project.seed,
        threads=threads,
    )


@dataclass(frozen=True)
class TransferSet:
    """What the teacher labels and the student learns from.

    hard: int64 (N,), the true class, -1 where there is none (a variant may have lost its source's). source: int64 (N,),
    the train row that a row is, or is a variant of; -1 for unlabelled rows. weights: float32 (N,), how often a row
    came in production, mean 1; None: all alike."""

    inputs: Sequence[Row]
    hard: np.ndarray
    source: np.ndarray
    weights: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> TransferSet:
        """Those rows, int64 (n,), in that order."""
        weights = None if self.weights is None else self.weights[rows]
        return TransferSet([self.inputs[i] for i in rows], self.hard[rows], self.source[rows], weights)


def transfer_set(dataset: Dataset, task: Task, per_row: int, neighbours: Neighbours = NONE) -> TransferSet:
    """Train rows, per_row variants of each, then unlabelled rows; always the same list. neighbours: see
    `Task.near_words`."""
    import numpy as np

    train, num_unlabelled = dataset.train, len(dataset.unlabelled)
    drawn = rows_to_vary(train.labels, len(train), AUGMENTATION_SEED)
    labels = train.labels[drawn] if train.labels is not None else None
    varied = [train.inputs[i] for i in drawn]
    variants = task.augment(varied, per_row, AUGMENTATION_SEED, labels, neighbours) if per_row else []
    source = np.concatenate([np.arange(len(train)), np.tile(drawn, per_row), np.full(num_unlabelled, -1)])
    hard = np.full(len(source), -1, dtype=np.int64)
    if train.labels is not None:
        known = len(train) * (1 + per_row) if task.VARIANTS_KEEP_CLASS else len(train)
        hard[:known] = train.labels[source[:known]]
    weights = _weights(dataset, drawn, per_row)
    return TransferSet([*train.inputs, *variants, *dataset.unlabelled], hard, source, weights)


def _weights(dataset: Dataset, drawn: np.ndarray, per_row: int) -> np.ndarray | None:
    """A variant weighs what its source does; the mean over all rows is 1."""
    import numpy as np

    known = (dataset.train.weights, dataset.unlabelled_weights)
    if all(w is None for w in known):
        return None
    sizes = (len(dataset.train), len(dataset.unlabelled))
    train, unlabelled = (np.ones(n) if w is None else w / w.mean() for w, n in zip(known, sizes, strict=True))
    weights = np.concatenate([train, np.tile(train[drawn], per_row), unlabelled])
    found: np.ndarray = (weights / weights.mean()).astype(np.float32)
    return found


def rows_to_vary(labels: np.ndarray | None, num_rows: int, seed: int) -> np.ndarray:
    """int64 (num_rows,): each train row once; where the largest class has over IMBALANCE times the rows of the
    smallest, rows drawn so that a class is met in proportion to the root of its size (Mahajan et al. 2018): soft
    labels stay what they are, but the student meets rare classes often enough to learn them."""
    import numpy as np

    if labels is None:
        return np.arange(num_rows)
    counts = np.bincount(labels)
    if counts.max() <= IMBALANCE * counts[counts > 0].min():
        return np.arange(num_rows)
    share = counts[labels] ** -0.5
    positions = (np.arange(num_rows) + 0.5) / num_rows  # systematic: each class gets its share to the row
    drawn: np.ndarray = np.searchsorted(np.cumsum(share) / share.sum(), positions).astype(np.int64)
    return np.random.default_rng([seed, num_rows]).permutation(drawn)
