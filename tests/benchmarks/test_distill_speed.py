from __future__ import annotations

from typing import Any

import pytest

from benchmarks import distill_speed
from benchmarks.distill_speed import USUAL, common_target, compared, document_of, estimated, seconds_to, told

OURS = {"seconds": 12.0, "rows_seen": 10, "timeline": [[6.0, 0.80], [9.0, 0.90], [11.0, 0.92]]}
THEIRS = {"seconds": 130.0, "rows_seen": 10, "timeline": [[40.0, 0.70], [80.0, 0.90], [120.0, 0.91]]}


def test_the_time_to_a_target_is_that_of_the_first_evaluation_that_reaches_it() -> None:
    assert seconds_to(OURS["timeline"], 0.90) == 9.0  # type: ignore[arg-type]
    assert seconds_to(OURS["timeline"], 0.93) is None  # type: ignore[arg-type]


def test_the_target_is_just_below_the_lower_of_two_last_accuracies() -> None:
    assert common_target([[1.0, 0.92]], [[1.0, 0.99], [2.0, 0.91]]) == pytest.approx(0.91 - distill_speed.TARGET_SLACK)


def test_both_are_timed_to_the_same_accuracy() -> None:
    found = compared([OURS], THEIRS)  # to 0.908: ours in 11 s, theirs in 120 s
    assert (found["ours_s"], found["theirs_s"]) == (11.0, 120.0)
    assert found["ratio"] == pytest.approx(120 / 11)
    assert found["whole_schedule_ratio"] == pytest.approx(130 / 12)
    assert found["kind"] == "measured"


def test_ours_is_the_median_of_its_runs() -> None:
    slower = OURS | {"timeline": [[22.0, 0.92]], "seconds": 24.0}
    assert compared([OURS, slower, slower], THEIRS)["ours_s"] == 22.0


def test_a_run_of_ours_that_ends_lower_lowers_the_target_and_is_not_left_out() -> None:
    slower = OURS | {"timeline": [[22.0, 0.85], [44.0, 0.88]], "seconds": 46.0}
    found = compared([OURS, slower], THEIRS)
    assert found["target_dev_accuracy"] == pytest.approx(0.88 - distill_speed.TARGET_SLACK)
    assert found["ours_s_all"] == [9.0, 44.0]


def test_a_schedule_that_was_stopped_is_estimated_from_its_epochs() -> None:
    begun = {"seconds": 55.0, "training_s": 50.0, "timeline": [[55.0, 0.5]], "stopped": True}
    found = estimated([OURS], begun, epochs=4)
    assert found["kind"] == "estimated"
    assert found["theirs_s"] == pytest.approx(5 + 4 * 50)
    assert found["whole_schedule_ratio"] == pytest.approx(205 / 12)
    assert told("x", found).endswith("17.1 times as long (estimated from 1 epoch)")


def _document(trainer_s: float) -> dict[str, Any]:
    names = ("spec", "rows", "embedding_epochs", "temperature", "hard_weight", "seed")
    begun = {"seconds": 9.0, "training_s": 9.0, "rows_seen": 5, "timeline": [[9.0, 0.1]], "stopped": True}
    other = THEIRS | {"timeline": [[12.0, 0.92]]}
    usual = THEIRS | {"timeline": [[trainer_s, 0.92]]}
    found = {"kdexport 1": OURS, USUAL: usual, "Trainer, batch 128": begun, "sentence-transformers": other}
    return document_of(found, dict.fromkeys(names, 0) | {"epochs": 2})


def test_the_bar_is_judged_by_the_measured_trainer_alone() -> None:
    (bar,) = _document(11.0 * 6)["bars"]
    assert bar["value"] == pytest.approx(6.0)
    assert USUAL in bar["name"]
    assert bar["passed"]


def test_the_bar_is_missed_below_five_times() -> None:
    assert not _document(11.0 * 4.9)["bars"][0]["passed"]


def test_a_figure_that_is_estimated_says_so() -> None:
    kinds = {name: entry["kind"] for name, entry in _document(60.0)["figures"]["against"].items()}
    assert kinds == {USUAL: "measured", "Trainer, batch 128": "estimated", "sentence-transformers": "measured"}
