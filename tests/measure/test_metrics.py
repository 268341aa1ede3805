from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexport.errors import BadInput
from kdexport.measure.metrics import (
    cost_matrix_usd,
    expected_calibration_error,
    expected_cost_usd,
    fit_threshold,
    interval,
    per_class_recall,
    retention,
    score,
    softmax,
)
from kdexport.nouns.metric import Abstention, Metric

NAMES = ("card", "cash", "fraud")
ACCURACY = Metric()
MACRO_F1 = Metric(name="macro_f1")
RECALL = Metric(name="recall_at_false_alarm", positive="fraud", max_false_alarm=0.25)
COSTS = Metric(name="cost_matrix", costs_usd={"fraud": {"card": 10.0}}, default_cost_usd=2.0)
CAREFUL = Metric(abstention=Abstention(min_precision=0.75))
EVERY_METRIC = (ACCURACY, MACRO_F1, RECALL, COSTS)


def answering(*classes: int) -> np.ndarray:
    return np.asarray(np.eye(3)[list(classes)] * 4)


def with_probabilities(*positive: float) -> np.ndarray:
    """Logits whose softmax gives `fraud` these probabilities; the rest goes to `card`."""
    p = np.array(positive)
    return np.asarray(np.log(np.stack([1 - p, np.full_like(p, 1e-30), p], axis=1)))


@st.composite
def scored_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    seed, n = draw(st.integers(0, 10_000)), draw(st.integers(6, 40))
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1, 2], rng.integers(3, size=n - 3)])
    return np.round(np.eye(3)[labels] + rng.normal(size=(n, 3)), 1), labels


def test_softmax_rows_sum_to_one_even_for_large_logits():
    assert softmax([[1000.0, 1000.0], [0.0, np.log(3)]]) == pytest.approx(np.array([[0.5, 0.5], [0.25, 0.75]]))


def test_accuracy_is_the_share_of_right_answers():
    assert score(ACCURACY, answering(0, 1, 2, 0), [0, 1, 2, 2], NAMES) == 0.75


def test_a_weight_counts_a_row_as_often_as_it_occurs():
    assert score(ACCURACY, answering(0, 1, 2, 0), [0, 1, 2, 2], NAMES, weights=[1, 1, 1, 3]) == 0.5


def test_macro_f1_is_the_mean_over_classes_that_occur():
    # card: precision 1/2, recall 1, F1 2/3; fraud: precision 1, recall 1/2, F1 2/3; cash neither occurs nor is said
    assert score(MACRO_F1, answering(0, 2, 0), [0, 2, 2], NAMES) == pytest.approx(2 / 3)


@settings(deadline=None, max_examples=30)
@given(scored_rows())
def test_macro_f1_equals_scikit_learns(rows: tuple[np.ndarray, np.ndarray]):
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = rows
    expected = metrics.f1_score(labels, logits.argmax(1), average="macro")
    assert score(MACRO_F1, logits, labels, NAMES) == pytest.approx(expected)


def test_recall_is_taken_at_the_threshold():
    logits = with_probabilities(0.9, 0.6, 0.4, 0.7)
    assert score(RECALL, logits, [2, 2, 2, 0], NAMES, threshold=0.5) == pytest.approx(2 / 3)


def test_recall_without_a_threshold_is_refused():
    with pytest.raises(ValueError, match="fit_threshold"):
        score(RECALL, answering(2), [2], NAMES)


def test_the_alarm_threshold_lets_through_just_the_false_alarms_allowed():
    # four other rows, a quarter may be flagged: the one at 0.8, not the one at 0.5
    logits = with_probabilities(0.8, 0.5, 0.3, 0.1, 0.9, 0.6, 0.4)
    assert fit_threshold(RECALL, logits, [0, 0, 0, 0, 2, 2, 2], NAMES) == pytest.approx(0.6)


def test_the_alarm_threshold_passes_over_negative_rows_that_tie_at_the_top():
    logits = with_probabilities(0.8, 0.8, 0.3, 0.1, 0.8)
    threshold = fit_threshold(RECALL, logits, [0, 0, 0, 0, 2], NAMES)
    assert score(RECALL, logits, [0, 0, 0, 0, 2], NAMES, threshold) == 0


@given(scored_rows(), st.floats(0.01, 0.99))
def test_the_fitted_threshold_keeps_the_false_alarm_limit(rows: tuple[np.ndarray, np.ndarray], limit: float):
    logits, labels = rows
    metric = RECALL.model_copy(update={"max_false_alarm": limit})
    threshold = fit_threshold(metric, logits, labels, NAMES)
    assert threshold is not None
    flagged = softmax(logits)[:, 2] >= threshold
    assert np.mean(flagged[labels != 2]) <= limit


def test_false_alarms_need_rows_of_another_class():
    with pytest.raises(BadInput, match="rows of other classes"):
        fit_threshold(RECALL, answering(2), [2], NAMES)


def test_recall_needs_a_positive_row():
    with pytest.raises(BadInput, match="no row has the positive class"):
        score(RECALL, answering(0), [0], NAMES, threshold=0.5)


def test_abstention_takes_the_lowest_threshold_that_is_precise_enough():
    # by falling probability: right, wrong, right, right, wrong; precision 1, 1/2, 2/3, 3/4, 3/5
    logits = with_probabilities(0.95, 0.9, 0.85, 0.8, 0.7)
    assert fit_threshold(CAREFUL, logits, [2, 0, 2, 2, 0], NAMES) == pytest.approx(0.8)


def test_abstention_that_is_never_precise_enough_has_no_threshold():
    assert fit_threshold(CAREFUL, with_probabilities(0.9, 0.8), [0, 0], NAMES) is None


@given(scored_rows())
def test_answers_above_the_abstention_threshold_are_as_precise_as_wanted(rows: tuple[np.ndarray, np.ndarray]):
    logits, labels = rows
    threshold = fit_threshold(CAREFUL, logits, labels, NAMES)
    if threshold is not None:
        answered = softmax(logits).max(1) >= threshold
        assert np.mean(logits.argmax(1)[answered] == labels[answered]) >= 0.75


def test_an_unanswered_row_is_not_right():
    logits = with_probabilities(0.95, 0.6)
    assert score(CAREFUL, logits, [2, 2], NAMES, threshold=0.9) == 0.5
    assert score(CAREFUL.model_copy(update={"name": "macro_f1"}), logits, [2, 2], NAMES, 0.9) == pytest.approx(2 / 3)


def test_metrics_without_a_threshold_fit_none():
    assert fit_threshold(ACCURACY, answering(0), [0], NAMES) is None


def test_recall_at_a_false_alarm_rate_takes_no_abstention():
    both = RECALL.model_copy(update={"abstention": Abstention(min_precision=0.9)})
    with pytest.raises(BadInput, match="leave one of them out"):
        score(both, answering(2), [2], NAMES, threshold=0.5)


def test_cost_is_named_or_default_and_a_right_answer_is_free():
    assert cost_matrix_usd(COSTS, NAMES).tolist() == [[0, 2, 2], [2, 0, 2], [10, 2, 0]]
    # fraud as card 10, card as cash 2, cash right 0
    assert expected_cost_usd(COSTS, answering(0, 1, 1), [2, 0, 1], NAMES) == pytest.approx(4)
    assert expected_cost_usd(COSTS, answering(0, 1, 1), [2, 0, 1], NAMES, weights=[0, 1, 1]) == pytest.approx(1)


def test_the_cost_score_is_one_where_nothing_is_wrong_and_zero_at_the_worst():
    assert score(COSTS, answering(0, 1, 2), [0, 1, 2], NAMES) == 1
    assert score(COSTS, answering(1, 0, 0), [0, 1, 2], NAMES) == 0
    # cost 12 of at most 14
    assert score(COSTS, answering(1, 1, 0), [0, 1, 2], NAMES) == pytest.approx(1 - 12 / 14)


def test_an_unanswered_row_costs_the_default():
    careful = COSTS.model_copy(update={"abstention": Abstention(min_precision=0.9)})
    assert expected_cost_usd(careful, with_probabilities(0.4), [2], NAMES, threshold=0.9) == 2


@pytest.mark.parametrize(
    "metric",
    [RECALL.model_copy(update={"positive": "frod"}), COSTS.model_copy(update={"costs_usd": {"fraud": {"cahs": 1.0}}})],
    ids=["positive", "costs"],
)
def test_an_unknown_class_is_refused_with_the_nearest(metric: Metric):
    with pytest.raises(BadInput, match=r"metric\..*did you mean '(fraud|cash)'"):
        score(metric, answering(2), [2], NAMES, threshold=0.5)


def test_a_negative_cost_is_refused():
    refund = COSTS.model_copy(update={"costs_usd": {"fraud": {"card": -1.0}}})
    with pytest.raises(BadInput, match=r"metric\.costs_usd\.fraud\.card is -1"):
        score(refund, answering(2), [2], NAMES)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), [0], "do not fit"),
        (np.zeros((1, 2)), [0], "3 classes"),
        (np.zeros((0, 3)), [], "no rows"),
        (np.zeros((1, 3)), [3], "0 to 2 is wanted"),
        (np.full((1, 3), np.nan), [0], "NaN"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(logits: np.ndarray, labels: list[int], message: str):
    with pytest.raises(BadInput, match=message):
        score(ACCURACY, logits, labels, NAMES)


def test_weights_below_zero_are_refused():
    with pytest.raises(BadInput, match="none below 0"):
        score(ACCURACY, answering(0, 1), [0, 1], NAMES, weights=[1, -1])


@pytest.mark.parametrize("metric", EVERY_METRIC, ids=lambda m: m.name)
@settings(deadline=None, max_examples=20)
@given(rows=scored_rows())
def test_equal_weights_change_nothing(metric: Metric, rows: tuple[np.ndarray, np.ndarray]):
    logits, labels = rows
    weighted = score(metric, logits, labels, NAMES, 0.5, np.full(len(labels), 7.0))
    assert weighted == pytest.approx(score(metric, logits, labels, NAMES, 0.5))


@pytest.mark.parametrize("metric", EVERY_METRIC, ids=lambda m: m.name)
@settings(deadline=None, max_examples=20)
@given(rows=scored_rows())
def test_the_interval_holds_the_score_and_the_score_is_a_share(metric: Metric, rows: tuple[np.ndarray, np.ndarray]):
    logits, labels = rows
    low, high = interval(metric, logits, labels, NAMES, 0.5, resamples=50)
    assert 0 <= low <= score(metric, logits, labels, NAMES, 0.5) <= high <= 1


@pytest.mark.parametrize("metric", EVERY_METRIC, ids=lambda m: m.name)
def test_a_teacher_retains_all_of_itself_under_every_metric(metric: Metric):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    logits = 2 * np.eye(3)[labels] + rng.normal(size=(200, 3))
    value, ci = retention(
        metric, logits, logits, labels, NAMES, student_threshold=0.5, teacher_threshold=0.5, resamples=100
    )
    assert (value, *ci) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("metric", EVERY_METRIC, ids=lambda m: m.name)
def test_retention_is_the_ratio_of_scores_and_lies_in_its_interval(metric: Metric):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    teacher = 2 * np.eye(3)[labels] + rng.normal(size=(200, 3))
    student = teacher + rng.normal(size=(200, 3))
    value, (low, high) = retention(
        metric, student, teacher, labels, NAMES, student_threshold=0.5, teacher_threshold=0.5, resamples=200
    )
    scores = [score(metric, logits, labels, NAMES, 0.5) for logits in (student, teacher)]
    assert value == pytest.approx(scores[0] / scores[1])
    assert low < value < high < 1.1


def test_retention_of_a_teacher_that_scores_zero_is_refused():
    with pytest.raises(BadInput, match="retention"):
        retention(MACRO_F1, answering(0), answering(1), [0], NAMES)


def test_calibration_error_is_the_gap_between_probability_and_accuracy():
    # both rows at 0.8, one right: |0.8 - 0.5|
    assert expected_calibration_error(with_probabilities(0.8, 0.8), [2, 0]) == pytest.approx(0.3)


def test_a_certain_and_right_model_is_calibrated():
    assert expected_calibration_error(np.eye(3) * 1000, [0, 1, 2]) == 0


def test_recall_by_class_leaves_out_classes_without_rows():
    assert per_class_recall(answering(0, 0, 2), [0, 2, 2], NAMES) == {"card": 1.0, "fraud": 0.5}


@st.composite
def counted_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logits, labels = draw(scored_rows())
    counts = draw(st.lists(st.integers(1, 4), min_size=len(labels), max_size=len(labels)))
    return logits, labels, np.array(counts)


def figures_of(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> list[object]:
    """Every evaluation that takes weights; the second model answers in another order of the classes."""
    other = logits[:, [0, 2, 1]] + logits
    found: list[object] = [
        expected_calibration_error(logits, labels, weights=weights),
        per_class_recall(logits, labels, NAMES, weights),
        expected_cost_usd(COSTS, logits, labels, NAMES, weights=weights),
    ]
    for metric in (*EVERY_METRIC, CAREFUL):
        threshold = fit_threshold(metric, logits, labels, NAMES, weights)
        found += [threshold, score(metric, logits, labels, NAMES, threshold, weights)]
        cut = fit_threshold(metric, other, labels, NAMES, weights)
        if score(metric, other, labels, NAMES, cut, weights) > 0:
            both = {"student_threshold": threshold, "teacher_threshold": cut, "weights": weights}
            found.append(retention(metric, logits, other, labels, NAMES, **both, resamples=10)[0])
    return found


@settings(deadline=None, max_examples=40)
@given(counted_rows())
def test_a_whole_weight_is_the_same_as_the_row_repeated(rows: tuple[np.ndarray, np.ndarray, np.ndarray]):
    logits, labels, counts = rows
    weighted = figures_of(logits, labels, counts.astype(float))
    repeated = figures_of(np.repeat(logits, counts, axis=0), np.repeat(labels, counts), None)
    for one, other in zip(weighted, repeated, strict=True):
        assert one == pytest.approx(other)


@settings(deadline=None, max_examples=20)
@given(scored_rows())
def test_weights_of_one_change_no_figure(rows: tuple[np.ndarray, np.ndarray]):
    logits, labels = rows
    for one, other in zip(
        figures_of(logits, labels, np.ones(len(labels))), figures_of(logits, labels, None), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(counted_rows(), st.floats(0.1, 100))
def test_only_the_ratios_of_weights_matter(rows: tuple[np.ndarray, np.ndarray, np.ndarray], scale: float):
    logits, labels, counts = rows
    assert score(MACRO_F1, logits, labels, NAMES, weights=counts * scale) == pytest.approx(
        score(MACRO_F1, logits, labels, NAMES, weights=counts)
    )


def test_weighted_accuracy_of_a_few_rows_that_are_all_right_is_not_certain() -> None:
    low, high = interval(ACCURACY, np.eye(2), [0, 1], ("a", "b"), weights=[1.0, 3.0])
    assert low < 0.5
    assert high == 1.0
