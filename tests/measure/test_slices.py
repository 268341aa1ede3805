from __future__ import annotations

import numpy as np
import pytest

from kdexport.measure.slices import MAX_SHOWN, agreement_slices, groups, slices, told
from kdexport.nouns.bench import SliceQuality
from kdexport.nouns.metric import Metric

NAMES = ("card", "pay")


def answering(classes: np.ndarray) -> np.ndarray:
    return np.eye(2)[classes] * 4


def found(
    student: np.ndarray, labels: np.ndarray, kinds: dict[str, np.ndarray], weights: np.ndarray | None = None
) -> dict[tuple[str, str], SliceQuality]:
    """Of a teacher that is always right."""
    both = ((answering(labels), None), (answering(student), None))
    return {(s.by, s.name): s for s in slices(Metric(), *both, labels, NAMES, kinds, weights)}


def test_a_slice_that_lost_is_significant_and_said_in_words() -> None:
    labels = np.tile([0, 1], 200)
    team = np.array(["north"] * 200 + ["south"] * 200)
    student = np.where((team == "south") & (np.arange(400) % 4 < 2), 1 - labels, labels)
    all_found = found(student, labels, {"team": team})
    assert all_found["team", "north"].verdict == "no significant difference"
    south = all_found["team", "south"]
    assert (south.verdict, south.n, south.share) == ("lost", 200, 0.5)
    assert south.student.value == pytest.approx(0.5)
    assert any(line.startswith("team 'south': accuracy 1.000 → 0.500, significantly worse") for line in told([south]))


def test_no_slice_is_called_lost_where_students_err_by_chance() -> None:
    """One wrong answer of fifty in one slice of twenty: p is 1, whatever the correction."""
    labels = np.tile([0, 1], 500)
    student = labels.copy()
    student[0] = 1 - student[0]
    kinds = {"team": np.repeat([f"{i:02}" for i in range(20)], 50)}
    result = list(found(student, labels, kinds).values())
    assert {s.verdict for s in result} == {"no significant difference"}
    assert told(result) == ["no slice shown differs significantly from the teacher (22 tested)"]


def test_weights_count_in_every_slice() -> None:
    labels, student = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    result = found(student, labels, {}, np.array([1.0, 3.0, 1.0, 1.0]))
    assert result["class", "card"].student.value == 0.25
    assert result["class", "card"].share == pytest.approx(4 / 6)


def test_classes_come_worst_first_and_not_all_are_shown() -> None:
    names = tuple(f"{i:02}" for i in range(30))
    labels = np.repeat(np.arange(30), 4)
    student = labels.copy()
    student[4 * 7] = 0
    both = ((np.eye(30)[labels] * 4, None), (np.eye(30)[student] * 4, None))
    result = slices(Metric(), *both, labels, names, {})
    assert (len(result), result[0].name) == (MAX_SHOWN, "07")


@pytest.mark.parametrize(
    "metric", [Metric(name="macro_f1"), Metric(name="cost_matrix", costs_usd={"card": {"pay": 2.0}})]
)
def test_other_metrics_are_taken_slice_by_slice(metric: Metric) -> None:
    labels = np.tile([0, 1], 20)
    student = np.where(np.arange(40) < 10, 0, labels)
    both = ((answering(labels), None), (answering(student), None))
    part = np.array(["a"] * 20 + ["b"] * 20)
    result = {s.name: s for s in slices(metric, *both, labels, NAMES, {"part": part}) if s.by == "part"}
    assert result["b"].student.value == 1
    assert result["a"].metric == metric.name
    assert result["a"].student.value <= 1


def test_a_metric_that_rises_while_right_answers_fall_is_called_neither() -> None:
    """The teacher misses the rare class; the student finds it, and loses more rows of the frequent one."""
    labels = np.array([0] * 300 + [1] * 10)
    student = np.where((np.arange(310) < 40) | (labels == 1), 1, 0)
    both = ((answering(np.zeros(310, dtype=int)), None), (answering(student), None))
    kinds = {"part": np.array(["all"] * 310)}
    (part,) = (s for s in slices(Metric(name="macro_f1"), *both, labels, NAMES, kinds) if s.by == "part")
    assert part.student.value > part.teacher.value
    assert part.verdict == "no significant difference"


def test_words_say_that_the_test_is_of_right_answers() -> None:
    labels = np.tile([0, 1], 200)
    student = np.where(np.arange(400) < 40, 1 - labels, labels)
    both = ((answering(labels), None), (answering(student), None))
    found_slices = slices(Metric(name="macro_f1"), *both, labels, NAMES, {"part": np.array(["all"] * 400)})
    (line,) = (text for text in told(found_slices) if text.startswith("part"))
    assert "of right answers, after Holm's correction" in line


def test_names_that_are_padded_to_sort_are_said_without_the_padding() -> None:
    labels = np.tile([0, 1], 200)
    both = ((answering(labels), None), (answering(1 - labels), None))
    found_slices = slices(Metric(), *both, labels, NAMES, {"length": np.array([" 2 to 9 characters"] * 400)})
    assert any(line.startswith("length '2 to 9 characters'") for line in told(found_slices))


def test_a_slice_on_which_the_metric_is_not_defined_is_left_out() -> None:
    labels = np.array([0, 0, 1, 1])
    metric = Metric(name="recall_at_false_alarm", positive="pay", max_false_alarm=0.5)
    both = ((answering(labels), 0.5), (answering(labels), 0.5))
    kinds = {"part": np.array(["a", "a", "b", "b"])}
    assert [s.name for s in slices(metric, *both, labels, NAMES, kinds) if s.by == "part"] == ["b"]


def test_lengths_are_cut_at_quartiles_and_times_at_quarters_of_the_span() -> None:
    texts = tuple("x" * n for n in range(1, 101))
    times = np.array([0.0] * 97 + [86_400.0 * 100] * 3)
    kinds = groups(texts, times, {})
    assert sorted(np.unique(kinds["length"], return_counts=True)[1].tolist()) == [25, 25, 25, 25]
    assert dict(zip(*np.unique(kinds["time"], return_counts=True), strict=True)) == {
        "1970-01-01 to 1970-01-26": 97,
        "1970-03-17 to 1970-04-11": 3,
    }


def test_texts_of_one_length_are_one_slice() -> None:
    assert set(groups(("aa", "bb"), None, {})["length"].tolist()) == {"2 to 2 characters"}


def test_the_rarest_values_of_a_column_are_shown_as_one() -> None:
    values = [f"v{i}" for i in range(30) for _ in range(30 - i)]
    names = groups((), None, {"team": values})["team"]
    assert len(set(names.tolist())) == MAX_SHOWN
    assert "(11 other values)" in names


def test_of_queries_a_slice_is_the_agreement_with_the_teacher() -> None:
    teacher, student = answering(np.array([0, 0, 1, 1])), answering(np.array([0, 1, 1, 1]))
    kinds = {"team": np.array(["a", "a", "b", "b"])}
    result = {s.name: s for s in agreement_slices(teacher, student, kinds, np.array([3.0, 1.0, 1.0, 1.0]))}
    assert (result["a"].student.value, result["b"].student.value) == (0.75, 1.0)
    assert (result["a"].on, result["a"].metric, result["a"].p) == ("held-out queries", "agreement", None)
