from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdexport.dataset import Dataset, Split
from kdexport.nouns.project import Project
from kdexport.nouns.student import Recipe
from kdexport.tasks import load_task
from kdexport.training.recipe import recipe, transfer_set

TASK = load_task("text_classification")


def project(**changes: Any) -> Project:
    return Project.model_validate(
        {
            "name": "p",
            "task": "text_classification",
            "teachers": [{"function": "m:f"}],
            "data": {"train": {"path": "train.csv"}},
            "targets": ["l4"],
        }
        | changes
    )


def dataset(num_train: int, unlabelled: int = 0) -> Dataset:
    def split(count: int, word: str) -> Split:
        return Split(tuple(f"{word} query {i}" for i in range(count)), np.arange(count, dtype=np.int64) % 2)

    other = tuple(f"unlabelled {i}" for i in range(unlabelled))
    return Dataset(("a", "b"), split(num_train, "train"), split(4, "dev"), split(4, "test"), other, (), (), "hash")


def made(data: Dataset, kind: str = "text", **changes: Any) -> Recipe:
    return recipe(project(**changes), data, kind, 2)


@pytest.mark.parametrize(("num_train", "per_row"), [(100, 12), (10_000, 6), (200_000, 1)])
def test_fewer_rows_get_more_variants_each(num_train: int, per_row: int) -> None:
    assert made(dataset(num_train)).augment_per_row == per_row


def test_more_rows_get_fewer_epochs_within_bounds() -> None:
    epochs = [made(dataset(n)).epochs for n in (100, 10_000, 200_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[0], epochs[-1]) == (30, 8)


def test_a_teacher_that_is_a_file_of_scores_gets_no_variants() -> None:
    assert made(dataset(100), teachers=[{"scores": "scores.jsonl"}]).augment_per_row == 0


def test_what_the_project_asks_for_is_what_it_gets() -> None:
    wishes = {"epochs": 3, "augment_per_row": 0, "learning_rate": 0.1, "temperature": 2.0, "dropout": 0.3}
    found = made(dataset(100), training=wishes, seed=9)
    assert wishes.items() <= found.model_dump().items()
    assert (found.seed, found.threads) == (9, 2)


def test_the_student_learns_from_rows_then_variants_then_unlabelled_rows() -> None:
    data = dataset(6, unlabelled=3)
    rows = transfer_set(data, TASK, 2, seed=0)
    assert tuple(rows.inputs[:6]) == data.train.inputs
    assert rows.inputs[6:18] == TASK.augment(data.train.inputs, 2, 0)
    assert tuple(rows.inputs[18:]) == data.unlabelled
    assert rows.hard.tolist() == [0, 1, 0, 1, 0, 1] + [-1] * 15
