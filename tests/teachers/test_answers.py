"""The file of what an endpoint has answered, on a full disk and under several threads."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdexport.errors import BadInput
from kdexport.teachers._answers import Answers


@pytest.fixture
def _any_size() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_any_size")
def test_a_disk_that_fills_up_in_mid_line_leaves_a_file_that_can_be_read_and_written_on(tmp_path: Path) -> None:
    """Other threads are still writing then: what they write must not be glued to half a line."""
    answers = Answers(tmp_path / "a.jsonl")
    answers.answer({"first": [1.0, 2.0]})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (answers.path.stat().st_size + 9, limits[1]))
    with pytest.raises(BadInput, match="cannot be written"):
        answers.answer({"second": [3.0, 4.0]})
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    answers.answer({"third": [5.0, 6.0]})
    again = Answers(answers.path)
    assert (len(again), again.logits("first"), again.logits("third")) == (2, [1.0, 2.0], [5.0, 6.0])


def test_money_is_never_out_of_sight_between_held_and_paid(tmp_path: Path) -> None:
    """A thread that looks into the purse in between must not find it fuller than it is."""
    answers = Answers(tmp_path / "a.jsonl")
    number = answers.hold(1.0)
    found: list[float] = []
    looks = threading.Thread(target=lambda: found.append(answers.spent_usd))
    with answers._lock:  # as `settle` has it
        answers._held.pop(number)
        looks.start()
        looks.join(0.1)
        answers._paid_usd += 1.0
    looks.join()
    assert found == [1.0]
