"""What candidates are compared by: every figure counts rows by their weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdexport.dataset import Dataset, Split
from kdexport.nouns.metric import Metric
from kdexport.nouns.selection import Candidate, Labelling
from kdexport.nouns.teacher import TeacherMember
from kdexport.stages.select import Contender, judge, with_lessons

CLASSES = ("a", "b")
LABELS = np.array([0, 1, 0, 1])
WEIGHTS = np.array([1.0, 1.0, 1.0, 7.0])
LABELLING = Labelling(rows=4, rows_per_s=1.0, seconds=4.0)
MEMBER = TeacherMember(kind="onnx", name="m", classes=CLASSES, sha256="0", seen_dev=False)


def logits(*right: bool) -> np.ndarray:
    return 4.0 * np.eye(2, dtype=np.float32)[np.where(right, LABELS, 1 - LABELS)]


ALL, HEAVY_WRONG, LIGHT_WRONG = (
    logits(True, True, True, True),
    logits(True, True, True, False),
    logits(False, True, True, True),
)


def dataset(weights: np.ndarray | None) -> Dataset:
    dev = Split(("w", "x", "y", "z"), LABELS, weights)
    found = Dataset(CLASSES, dev, dev, dev, (), (), (), "0")
    return replace(found, query_rows=Split(("p", "q", "r", "s"), None, weights))


def judged(weights: np.ndarray | None, queries: bool) -> list[Candidate]:
    asked = (HEAVY_WRONG, ALL, ALL) if queries else (ALL[:0],) * 3
    one = Contender("one", (0,), None, HEAVY_WRONG, asked[0])
    other = Contender("other", (1,), None, ALL, asked[1])
    both = Contender("both", (0, 1), None, ALL, asked[2])
    everyone = [one, other, both]
    return [judge(c, everyone, [MEMBER, MEMBER], dataset(weights), Metric(), LABELLING) for c in everyone]


@pytest.mark.parametrize("queries", [False, True])
def test_agreement_and_calibration_of_a_teacher_count_rows_by_weight(queries: bool) -> None:
    one, _, both = judged(WEIGHTS, queries)
    assert one.agreement == pytest.approx(0.3)
    assert both.inner_disagreement == pytest.approx(0.7)
    sure = 1 / (1 + np.exp(-4))
    assert one.ece == pytest.approx(sure - 0.3)
    one, _, both = judged(None, queries)
    assert (one.agreement, both.inner_disagreement) == pytest.approx((0.75, 0.25))


def test_students_are_compared_by_the_weights_of_their_rows() -> None:
    """Each is wrong on one row; the one that is wrong on the heavy row keeps a third of the other's accuracy."""
    candidates = judged(WEIGHTS, False)[:2]
    first, second = with_lessons(candidates, [HEAVY_WRONG, LIGHT_WRONG], [1.0, 1.0], dataset(WEIGHTS), Metric())
    assert first.student is not None
    assert second.student is not None
    assert (first.student.quality.value, second.student.quality.value) == pytest.approx((0.3, 0.9))
    assert first.student.against_best == pytest.approx(0.3 / 0.9)
    assert second.student.against_best == 1.0
