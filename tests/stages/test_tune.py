from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdexport.nouns.project import Training
from kdexport.nouns.student import Recipe, Trial
from kdexport.stages import tune
from kdexport.training.soft_labels import SoftLabels
from tests.stages.test_distil import Case, recipe


def trial(gain: float, error: float = 0.01, quality: float = 0.9) -> Trial:
    return Trial(
        temperature=1.0, hard_weight=0.1, dev_quality=quality, dev_nll=0.3, gain_nll=gain, gain_error=error, seconds=1.0
    )


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([trial(-0.1), trial(0.015)], 0),  # within two standard errors
        ([trial(0.03), trial(0.05)], 2),
        ([trial(0.05, quality=0.89), trial(0.03)], 2),  # likelier on average, and wrong more often
        ([], 0),
    ],
)
def test_another_balance_is_taken_only_where_it_is_clearly_better_and_no_worse_by_the_metric(
    others: list[Trial], chosen: int
) -> None:
    assert tune.choose([trial(0.0, error=0.0), *others]) == chosen


def made(**wishes: Any) -> list[tuple[float, float]]:
    training = Training(**wishes)
    changes = {k: v for k, v in wishes.items() if v is not None}
    return tune.candidates(training, recipe(**changes))


def test_what_the_project_names_is_not_searched() -> None:
    assert made() == [(1.0, 0.1), (1.0, 0.5), (1.0, 1.0), (2.0, 0.1)]
    assert made(temperature=3.0) == [(3.0, 0.1), (3.0, 0.5), (3.0, 1.0)]
    assert made(hard_weight=0.0) == [(1.0, 0.0), (2.0, 0.0)]
    assert made(temperature=3.0, hard_weight=0.0) == [(3.0, 0.0)]


def test_the_search_costs_at_most_a_fifth_of_the_training() -> None:
    assert len(tune.TRIED) * tune.SHARE <= 0.2


def test_true_labels_win_where_the_teacher_is_mostly_wrong(tmp_path: Path) -> None:
    """A teacher that calls nearly every row by the next class, and is sure of it."""
    case = Case("text")
    wrong = np.full((30, 3), -8.0, dtype=np.float16)
    wrong[np.arange(30), (case.rows.hard + 1) % 3] = -0.01
    settings: Recipe = recipe(epochs=200, learning_rate=0.05, dropout=0.0)
    found = tune.tune(
        [(1.0, 0.1), (1.0, 20.0)], case.spec, replace(case.curriculum(settings), labels=SoftLabels("key", wrong)),
        tmp_path, None,
    )  # fmt: skip
    assert (found.chosen, found.trials[1].dev_quality) == (1, 1.0)
    assert found.trials[0].dev_quality < 0.5
    assert found.schedule_share == pytest.approx(tune.SHARE)
    assert "nats a dev row better" in found.reason
