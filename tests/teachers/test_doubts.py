"""What speaks against a teacher's answers, each with its number."""

from __future__ import annotations

import re

import numpy as np
import pytest

from kdexport.dataset import Split
from kdexport.errors import BadInput
from kdexport.nouns.teacher import TeacherMember
from kdexport.teachers._doubts import (
    disagreement,
    doubts,
    mean_recall,
    refuse_constant,
    refuse_or_warn_swapped,
    refuse_worse_than_chance,
    swapped,
)

CLASSES = ("card", "loan", "pay", "refund", "theft")
TRUTH = np.repeat(np.arange(5), 20)


def nearly_right(seed: int = 0) -> np.ndarray:
    """Right on 90 of 100 rows."""
    chance = np.random.default_rng(seed)
    found = TRUTH.copy()
    wrong = chance.permutation(100)[:10]
    found[wrong] = (found[wrong] + chance.integers(1, 5, 10)) % 5
    return found


def renamed(predicted: np.ndarray, order: dict[int, int]) -> np.ndarray:
    return np.array([order.get(int(p), int(p)) for p in predicted])


def test_one_answer_to_every_row_is_refused_with_the_number_of_rows() -> None:
    with pytest.raises(BadInput, match="t: gives one and the same answer to each of 1,000 rows; are its weights zero"):
        refuse_constant(np.tile([0.0, 2.0, -1.0], (1000, 1)), "t")


def test_one_class_for_every_row_is_no_constant_answer_as_long_as_the_scores_differ() -> None:
    refuse_constant(np.column_stack([np.linspace(1, 2, 50), np.zeros(50)]), "t")


def test_a_few_rows_may_have_one_answer() -> None:
    refuse_constant(np.zeros((5, 3)), "t")


def test_mean_recall_weighs_classes_alike_and_rows_by_their_weight() -> None:
    truth, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0])
    assert mean_recall(predicted, truth) == pytest.approx((2 / 3 + 0) / 2)
    assert mean_recall(predicted, truth, np.array([1.0, 1.0, 8.0, 1.0])) == pytest.approx((2 / 10 + 0) / 2)


def test_chance_itself_is_let_through_and_less_is_not() -> None:
    always = np.zeros(100, dtype=np.int64)
    refuse_worse_than_chance(always, TRUTH, CLASSES, "t", "rows")
    with pytest.raises(BadInput, match=r"t is right on 0\.0% of the rows, chance is 20\.0%; with 5 classes exchanged"):
        refuse_worse_than_chance((TRUTH + 1) % 5, TRUTH, CLASSES, "t", "rows")


def test_rows_of_one_class_alone_say_nothing_about_chance() -> None:
    refuse_worse_than_chance(np.ones(30, dtype=np.int64), np.zeros(30, dtype=np.int64), CLASSES, "t", "rows")


def test_a_sound_teacher_has_no_class_swapped() -> None:
    assert swapped(nearly_right(), TRUTH, 5) == {}


def test_a_weak_teacher_has_no_class_swapped() -> None:
    guesses = np.random.default_rng(0).integers(0, 5, 100)
    half = np.where(np.arange(100) % 2 == 0, TRUTH, guesses)
    assert swapped(half, TRUTH, 5) == {}


def test_two_classes_in_the_wrong_order_are_found() -> None:
    assert swapped(renamed(nearly_right(), {1: 3, 3: 1}), TRUTH, 5) == {1: 3, 3: 1}


def test_classes_that_are_often_confused_are_not_swapped() -> None:
    """Of twenty rows each, eight are taken for the other's."""
    confused = TRUTH.copy()
    confused[20:28], confused[60:68] = 3, 1
    assert swapped(confused, TRUTH, 5) == {}


def test_a_cycle_of_three_is_found_in_the_direction_of_the_answers() -> None:
    answered = renamed(TRUTH, {0: 2, 2: 4, 4: 0})
    assert swapped(answered, TRUTH, 5) == {2: 0, 4: 2, 0: 4}


def test_a_small_swap_is_a_warning_that_names_the_labels() -> None:
    truth = np.concatenate([np.repeat(np.arange(5), 100), [1] * 5, [3] * 5])
    truth = truth[(truth != 1) & (truth != 3) | (np.arange(510) >= 500)]
    [warning] = refuse_or_warn_swapped(renamed(truth, {1: 3, 3: 1}), truth, CLASSES, "teacher 2 (m)", "310 dev rows")
    assert warning.startswith(
        "teacher 2 (m) is right on 96.8% of the 310 dev rows; with 2 classes exchanged it is on 100.0%"
    )
    assert "(it answers 'loan' for 'refund', 'refund' for 'loan'): check the order of its labels" in warning


def test_another_order_of_many_labels_is_an_error() -> None:
    told = "teacher 1 (m) is right on 60.0% of the dev rows; with 2 classes exchanged it is on 100.0%"
    with pytest.raises(BadInput, match=re.escape(told)):
        refuse_or_warn_swapped(renamed(TRUTH, {1: 3, 3: 1}), TRUTH, CLASSES, "teacher 1 (m)", "dev rows")


def test_a_sound_teacher_is_not_warned_of() -> None:
    assert refuse_or_warn_swapped(nearly_right(), TRUTH, CLASSES, "t", "dev rows") == []


def test_members_that_disagree_are_named_with_the_share_of_rows() -> None:
    one_hot = np.eye(5)
    answers = [one_hot[TRUTH], one_hot[nearly_right()], one_hot[renamed(TRUTH, {0: 4, 4: 0})]]
    [warning] = disagreement(answers, ("a", "b", "c"), "100 dev rows")
    assert re.fullmatch(
        r"teachers disagree: teacher 2 \(b\) and teacher 3 \(c\) give different answers to 4\d\.0% of the 100 dev rows",
        warning,
    )


def test_a_few_different_answers_are_what_an_ensemble_lives_from() -> None:
    one_hot = np.eye(5)
    other = nearly_right()
    other[np.flatnonzero(other != TRUTH)[:5]] = TRUTH[np.flatnonzero(other != TRUTH)[:5]]
    assert disagreement([one_hot[TRUTH], one_hot[other]], ("a", "b"), "dev rows") == []


def member(name: str) -> TeacherMember:
    return TeacherMember(kind="function", name=name, classes=CLASSES, sha256=name, seen_dev=False)


def logits(predicted: np.ndarray) -> np.ndarray:
    return 4 * np.eye(5)[predicted] + np.linspace(0, 1, len(predicted))[:, None]


def test_without_labels_a_member_is_judged_by_the_others_together() -> None:
    answers = [logits(TRUTH), logits(nearly_right()), logits(renamed(TRUTH, {0: 4, 4: 0}))]
    dev = Split(tuple(map(str, range(100))), None)
    told = r"teacher 3 \(c\) is right on 5\d\.0% of the 100 dev rows, by the other teachers; with 2 classes exchanged"
    with pytest.raises(BadInput, match=told):
        doubts([member(n) for n in "abc"], answers, dev, CLASSES)


def test_of_two_without_labels_neither_is_said_to_be_wrong() -> None:
    answers = [logits(TRUTH), logits(renamed(TRUTH, {0: 4, 4: 0}))]
    [warning] = doubts([member("a"), member("b")], answers, Split(tuple(map(str, range(100))), None), CLASSES)
    assert warning.startswith("teachers disagree: teacher 1 (a) and teacher 2 (b) give different answers to 40.0%")


def test_a_member_worse_than_chance_is_named_with_its_place() -> None:
    dev = Split(tuple(map(str, range(100))), TRUTH)
    wrong = np.where(np.arange(100) % 2 == 0, (TRUTH + 1) % 5, (TRUTH + 2) % 5)
    with pytest.raises(BadInput, match=r"teacher 2 \(b\) is right on 0\.0% of the 100 dev rows, chance is 20\.0%"):
        doubts([member("a"), member("b")], [logits(TRUTH), logits(wrong)], dev, CLASSES)
