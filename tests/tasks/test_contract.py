"""What every task promises, run over every file in kdexport/tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from kdexport import registry
from kdexport.storage.tables import Raw
from kdexport.tasks import Asked, Task, as_raw, load_task
from tests.tasks.conftest import picture, queries

TASKS = registry.names("tasks")


def inputs(task: Task) -> Sequence[Raw]:
    return queries(40, 5) if task.input_kind == "text" else [picture("L", 9, 7, seed) for seed in range(40)]


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param)


def test_preparing_twice_gives_the_same(task: Task) -> None:
    rows = inputs(task)
    size = task.vocab_sizes(rows, "")[0]
    assert len({task.prepare(rows, "", size) for _ in range(3)}) == 1
    assert task.prepare(rows, "", size).preprocessor.kind == task.input_kind


def test_encoding_twice_gives_the_same_tensors(task: Task) -> None:
    rows = inputs(task)
    prepared = task.prepare(rows, "", task.vocab_sizes(rows, "")[0])
    every = np.arange(len(rows))
    one, other = (task.encode(prepared, rows) for _ in range(2))
    assert len(one.lengths) == len(rows)
    np.testing.assert_array_equal(one.batch(every), other.batch(every))


def test_a_batch_holds_the_rows_asked_for_in_that_order(task: Task) -> None:
    rows = inputs(task)
    encoded = task.encode(task.prepare(rows, "", task.vocab_sizes(rows, "")[0]), rows)
    whole, chosen = encoded.batch(np.arange(len(rows))), np.array([7, 3, 3, 20])
    batch = encoded.batch(chosen)
    width = batch.shape[1]
    np.testing.assert_array_equal(batch, whole[chosen][:, :width])
    assert batch.dtype == (np.int64 if task.input_kind == "text" else np.float32)


def test_the_shape_of_a_run_is_that_of_a_batch(task: Task) -> None:
    rows = inputs(task)
    encoded = task.encode(task.prepare(rows, "", task.vocab_sizes(rows, "")[0]), rows)
    shape = encoded.shape(batch=3)
    assert shape.batch == 3
    if task.input_kind == "text":
        assert shape.tokens == int(np.median(encoded.lengths))
    else:
        assert (3, shape.channels, shape.height, shape.width) == encoded.batch(np.arange(3)).shape


@pytest.mark.parametrize("per_row", [0, 1, 7])
def test_so_many_variants_a_row_are_made(task: Task, per_row: int) -> None:
    rows = inputs(task)
    variants = task.augment(rows, per_row, seed=1)
    assert len(variants) == per_row * len(rows)
    assert {type(as_raw(v)) for v in variants} <= {type(rows[0])}


def test_the_same_seed_gives_the_same_variants_and_another_seed_others(task: Task) -> None:
    rows = inputs(task)
    assert task.augment(rows, 2, seed=1) == task.augment(rows, 2, seed=1)
    assert task.augment(rows, 2, seed=1) != task.augment(rows, 2, seed=2)


def test_variants_differ_from_the_rows_that_they_came_from(task: Task) -> None:
    rows = inputs(task)
    variants = task.augment(rows, 3, seed=1)
    same = sum(as_raw(variant) == rows[i % len(rows)] for i, variant in enumerate(variants))
    assert same < len(variants) / 2


def test_variants_can_be_encoded(task: Task) -> None:
    rows = inputs(task)
    prepared = task.prepare(rows, "", task.vocab_sizes(rows, "")[0])
    assert len(task.encode(prepared, task.augment(rows, 6, seed=3)).lengths) == 240


def test_a_teacher_is_asked_about_exactly_what_the_student_sees(task: Task) -> None:
    rows = inputs(task)
    prepared = task.prepare(rows, "", task.vocab_sizes(rows, "")[0])
    both = [*rows, *task.augment(rows, 4, seed=3)]
    every = np.arange(len(both))
    seen, asked = (task.encode(prepared, given).batch(every) for given in (both, list(Asked(both))))
    np.testing.assert_array_equal(seen, asked)
