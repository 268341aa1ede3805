from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kdexport.dataset import Dataset, Split
from kdexport.nouns.project import Project
from kdexport.nouns.student import Recipe
from kdexport.tasks import load_task
from kdexport.training.recipe import recipe, rows_to_vary, transfer_set
from tests.tasks.conftest import picture

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


@pytest.mark.parametrize(("num_train", "per_row"), [(100, 12), (10_000, 12), (30_000, 4), (200_000, 1)])
def test_fewer_rows_get_more_variants_each(num_train: int, per_row: int) -> None:
    assert made(dataset(num_train)).augment_per_row == per_row


def test_more_rows_get_fewer_epochs_within_bounds() -> None:
    epochs = [made(dataset(n)).epochs for n in (100, 10_000, 200_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[0], epochs[-1]) == (30, 2)


@pytest.mark.parametrize(
    "teacher", [{"scores": "scores.jsonl"}, {"chat": {"url": "http://127.0.0.1:1/v1", "model": "m"}}]
)
def test_a_teacher_that_cannot_answer_or_is_paid_for_each_answer_gets_no_variants(teacher: dict[str, Any]) -> None:
    assert made(dataset(100), teachers=[teacher]).augment_per_row == 0
    asked = {"training": {"augment_per_row": 2}} if "chat" in teacher else {}
    assert made(dataset(100), teachers=[teacher], **asked).augment_per_row == (2 if asked else 0)


def test_what_the_project_asks_for_is_what_it_gets() -> None:
    wishes = {"epochs": 3, "augment_per_row": 0, "learning_rate": 0.1, "temperature": 2.0, "dropout": 0.3}
    found = made(dataset(100), training=wishes, seed=9)
    assert wishes.items() <= found.model_dump().items()
    assert (found.seed, found.threads) == (9, 2)


def test_the_student_learns_from_rows_then_variants_then_unlabelled_rows() -> None:
    data = dataset(6, unlabelled=3)
    rows = transfer_set(data, TASK, 2)
    assert tuple(rows.inputs[:6]) == data.train.inputs
    assert rows.inputs[6:18] == TASK.augment(data.train.inputs, 2, 0)
    assert tuple(rows.inputs[18:]) == data.unlabelled
    assert rows.hard.tolist() == [0, 1, 0, 1, 0, 1] + [-1] * 15
    assert rows.source.tolist() == [*range(6), *range(6), *range(6), -1, -1, -1]


def test_rare_classes_are_varied_more_often_where_classes_are_very_unlike() -> None:
    """100 rows against 4: they are met in proportion to the root of their size, 10 to 2."""
    labels = np.array([0] * 100 + [1] * 4, dtype=np.int64)
    drawn = rows_to_vary(labels, 104, seed=0)
    shares = np.bincount(labels[drawn])
    assert shares.tolist() == [87, 17]
    assert set(np.bincount(drawn, minlength=104)[100:]) <= {4, 5}


def test_classes_within_a_factor_of_ten_are_varied_alike() -> None:
    labels = np.array([0] * 10 + [1], dtype=np.int64)
    assert rows_to_vary(labels, 11, seed=0).tolist() == list(range(11))


def test_a_part_of_the_rows_keeps_what_belongs_to_them() -> None:
    rows = transfer_set(dataset(6, unlabelled=3), TASK, 1)
    some = rows.take(np.array([14, 1, 7]))
    assert list(some.inputs) == [rows.inputs[14], rows.inputs[1], rows.inputs[7]]
    assert (some.hard.tolist(), some.source.tolist()) == ([-1, 1, -1], [-1, 1, 1])


def test_a_variant_weighs_what_its_source_does_and_the_mean_weight_is_one() -> None:
    data = dataset(4, unlabelled=2)
    data = replace(data, train=replace(data.train, weights=np.array([1.0, 1.0, 1.0, 5.0])))
    weights = transfer_set(data, TASK, 1).weights
    assert weights is not None
    assert weights.mean() == pytest.approx(1.0)
    assert (weights / weights[0]).tolist() == pytest.approx([1, 1, 1, 5, 1, 1, 1, 5, 2, 2])


def test_a_view_of_a_picture_keeps_its_class_and_a_variant_of_a_text_does_not() -> None:
    pictures = tuple(picture("L", 8, 8, seed) for seed in range(4))
    data = dataset(4)
    seen = replace(data, train=replace(data.train, inputs=pictures))
    assert transfer_set(seen, load_task("image_classification"), 2).hard.tolist() == [0, 1, 0, 1] * 3
    assert transfer_set(data, TASK, 2).hard.tolist() == [0, 1, 0, 1] + [-1] * 8
