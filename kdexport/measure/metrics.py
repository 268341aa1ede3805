"""Quality of logits against labels, as a project's `Metric` defines it. Higher is better, and 1.0 is perfect.

Shapes everywhere: logits (N, C) float, labels (N,) int in 0..C-1, class_names C names, weights (N,) at least 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdexport.errors import BadInput, unknown_name
from kdexport.measure.statistics import (
    RESAMPLES,
    Floats,
    Interval,
    bootstrap,
    paired_retention,
    weighted_share_interval,
    wilson,
)
from kdexport.nouns.metric import Metric

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Score = Callable[[Floats], float]


def softmax(logits: ArrayLike) -> Floats:
    """Probabilities (N, C), in float64."""
    x = np.asarray(logits, dtype=np.float64)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def score(
    metric: Metric,
    logits: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    threshold: float | None = None,
    weights: ArrayLike | None = None,
) -> float:
    """Quality from 0 to 1. `threshold` comes from `fit_threshold` on dev rows, never from these.

    accuracy               share of rows answered right; an unanswered row (abstention) is not right
    macro_f1               mean F1 over the classes that occur in labels or answers; an unanswered row is a miss
    recall_at_false_alarm  share of positive rows whose probability of `positive` reaches the threshold
    cost_matrix            1 - expected cost / cost of the most expensive answer to every row, so 1.0 costs nothing

    Raises BadInput for unknown class names, bad labels, NaN logits, no rows, no positive rows."""
    rows = _rows(logits, labels, class_names)
    value = _scorer(metric, rows, class_names, threshold)(_weights(weights, len(rows.labels)))
    if math.isnan(value):
        raise BadInput(f"{metric.name} is not defined on these {len(rows.labels)} rows: {_UNDEFINED[metric.name]}")
    return value


_UNDEFINED = {
    "accuracy": "all weights are 0",
    "macro_f1": "all weights are 0",
    "recall_at_false_alarm": "no row has the positive class",
    "cost_matrix": "no answer to any of them costs anything; check costs_usd",
}


def fit_threshold(
    metric: Metric,
    logits: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    weights: ArrayLike | None = None,
) -> float | None:
    """The threshold for `score`, fitted on dev rows; None where the metric has none.

    recall_at_false_alarm: the lowest probability of the positive class above which at most max_false_alarm of the
    other rows (by weight) lie. Abstention: the lowest top probability from which up answers are as precise as
    min_precision; None if none is. Raises BadInput if no negative row tells the false-alarm rate."""
    rows = _rows(logits, labels, class_names)
    row_weights = _weights(weights, len(rows.labels))
    _refuse_two_thresholds(metric)
    if metric.name == "recall_at_false_alarm":
        return _alarm_threshold(metric, rows, class_names, row_weights)
    return _abstention_threshold(metric.abstention.min_precision, rows, row_weights) if metric.abstention else None


def check(metric: Metric, class_names: Sequence[str]) -> None:
    """That a metric names classes that there are: known before any model has answered. Raises BadInput."""
    _refuse_two_thresholds(metric)
    if metric.positive is not None:
        _index(metric.positive, class_names, "positive")
    if metric.costs_usd is not None:
        cost_matrix_usd(metric, class_names)


def retention(
    metric: Metric,
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    *,
    student_threshold: float | None = None,
    teacher_threshold: float | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, Interval]:
    """Student's score over the teacher's, and its 95 % interval by paired bootstrap of the same rows.

    Raises BadInput as `score` does, and where the teacher scores 0."""
    student, teacher = _rows(student_logits, labels, class_names), _rows(teacher_logits, labels, class_names)
    if metric.name == "accuracy" and weights is None:
        right_student = student.correct & _answered(metric, student, student_threshold)
        right_teacher = teacher.correct & _answered(metric, teacher, teacher_threshold)
        return paired_retention(right_student, right_teacher, seed, resamples)
    above = _scorer(metric, student, class_names, student_threshold)
    below = _scorer(metric, teacher, class_names, teacher_threshold)
    row_weights = _weights(weights, len(student.labels))

    def ratio(counts: Floats) -> float:
        drawn = counts * row_weights
        teacher_score = below(drawn)
        return above(drawn) / teacher_score if teacher_score > 0 else math.nan

    value = ratio(np.ones(len(student.labels)))
    if math.isnan(value):
        raise BadInput(f"the teacher's {metric.name} is 0 or not defined on this set, so retention is neither")
    return value, bootstrap(ratio, len(student.labels), seed, value, resamples)


def difference(
    metric: Metric,
    logits: ArrayLike,
    other_logits: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    *,
    threshold: float | None = None,
    other_threshold: float | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, Interval]:
    """One model's score minus another's, and its 95 % interval by paired bootstrap of the same rows.

    Raises BadInput as `score` does."""
    above = _scorer(metric, _rows(logits, labels, class_names), class_names, threshold)
    below = _scorer(metric, _rows(other_logits, labels, class_names), class_names, other_threshold)
    n = len(np.asarray(labels))
    row_weights = _weights(weights, n)

    def gap(counts: Floats) -> float:
        return above(counts * row_weights) - below(counts * row_weights)

    value = gap(np.ones(n))
    if math.isnan(value):
        raise BadInput(f"{metric.name} is not defined on these {n} rows: {_UNDEFINED[metric.name]}")
    return value, bootstrap(gap, n, seed, value, resamples)


def interval(
    metric: Metric,
    logits: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    threshold: float | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """95 % interval of `score`: Wilson for unweighted accuracy, and for a weighted one of 0 or 1; else bootstrap over
    rows."""
    value = score(metric, logits, labels, class_names, threshold, weights)
    rows = _rows(logits, labels, class_names)
    n = len(rows.labels)
    if metric.name == "accuracy" and weights is None:
        return wilson(round(value * n), n)
    scorer = _scorer(metric, rows, class_names, threshold)
    row_weights = _weights(weights, n)
    if metric.name == "accuracy" and value in (0.0, 1.0):
        return weighted_share_interval((), value, row_weights)
    return bootstrap(lambda counts: scorer(counts * row_weights), n, seed, value, resamples)


def expected_cost_usd(
    metric: Metric,
    logits: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    threshold: float | None = None,
    weights: ArrayLike | None = None,
) -> float:
    """Mean cost of an answer in USD (cost_matrix). Right answers cost nothing unless named; an unanswered row
    costs default_cost_usd: somebody has to look at it."""
    rows = _rows(logits, labels, class_names)
    row_usd, _ = _costs_usd(metric, rows, class_names, threshold)
    return float(np.average(row_usd, weights=_weights(weights, len(row_usd))))


def right_answers(
    metric: Metric, logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str], threshold: float | None = None
) -> Bools:
    """(N,): the label wins, and the answer is given where the metric abstains below a threshold."""
    rows = _rows(logits, labels, class_names)
    return rows.correct & _answered(metric, rows, threshold)


def expected_calibration_error(
    logits: ArrayLike, labels: ArrayLike, bins: int = 15, weights: ArrayLike | None = None
) -> float:
    """Mean gap between top probability and accuracy over equal-width bins (Guo et al. 2017, eq. 3), 0..1."""
    probabilities, truth = softmax(logits), np.asarray(labels)
    top, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    which = np.minimum((top * bins).astype(np.int64), bins - 1)
    row_weights = _weights(weights, len(truth))
    gaps = np.bincount(which, weights=row_weights * (top - correct), minlength=bins)
    return float(np.abs(gaps).sum() / row_weights.sum())


def per_class_recall(
    logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str], weights: ArrayLike | None = None
) -> dict[str, float]:
    """Share of each class's rows answered right; classes without rows are left out."""
    rows = _rows(logits, labels, class_names)
    row_weights = _weights(weights, len(rows.labels))
    support = np.bincount(rows.labels, weights=row_weights, minlength=len(class_names))
    hits = np.bincount(rows.labels, weights=row_weights * rows.correct, minlength=len(class_names))
    return {name: float(hits[i] / support[i]) for i, name in enumerate(class_names) if support[i]}


@dataclass(frozen=True, eq=False)
class _Rows:
    """Checked logits (N, C) and labels (N,), and what every metric derives from them."""

    logits: Floats
    labels: Ints
    predicted: Ints

    @property
    def correct(self) -> Bools:
        return np.asarray(self.predicted == self.labels)


def _rows(logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str]) -> _Rows:
    x, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if x.shape != (len(y), len(class_names)) or y.ndim != 1:
        raise BadInput(f"logits {x.shape} and labels {y.shape} do not fit {len(class_names)} classes: (N, C), (N,)")
    if len(y) == 0:
        raise BadInput("no rows: quality needs at least one labelled row")
    if y.min() < 0 or y.max() >= len(class_names):
        raise BadInput(f"labels run from {y.min()} to {y.max()}; 0 to {len(class_names) - 1} is wanted")
    # -inf is the log of a score of 0, and legal
    if np.isnan(x).any() or np.isposinf(x).any():
        raise BadInput("logits hold NaN or +inf: the model diverged or overflowed; check its precision")
    return _Rows(x, y.astype(np.int64), x.argmax(axis=1))


def _weights(weights: ArrayLike | None, n: int) -> Floats:
    """One number a row (N,): 1 without weights."""
    if weights is None:
        return np.ones(n)
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (n,) or not (w >= 0).all() or w.sum() == 0:
        raise BadInput(f"weights {w.shape} do not fit {n} rows: one number each is wanted, none below 0, not all 0")
    return w


def _scorer(metric: Metric, rows: _Rows, class_names: Sequence[str], threshold: float | None) -> Score:
    """Weights (N,) -> score. What does not depend on weights is computed once: a bootstrap calls it 2,000 times."""
    _refuse_two_thresholds(metric)
    if metric.name == "accuracy":
        right = rows.correct & _answered(metric, rows, threshold)
        return lambda w: _share(w, right)
    if metric.name == "macro_f1":
        answered = _answered(metric, rows, threshold)
        return lambda w: _macro_f1(rows, answered, w, len(class_names))
    if metric.name == "recall_at_false_alarm":
        return _recall_scorer(metric, rows, class_names, threshold)
    row_usd, worst_usd = _costs_usd(metric, rows, class_names, threshold)
    return lambda w: 1 - _ratio(float(w @ row_usd), float(w @ worst_usd))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan


def _share(weights: Floats, hits: Bools) -> float:
    return _ratio(float(weights[hits].sum()), float(weights.sum()))


def _macro_f1(rows: _Rows, answered: Bools, weights: Floats, classes: int) -> float:
    truth = np.bincount(rows.labels, weights=weights, minlength=classes)
    answers = np.bincount(rows.predicted, weights=weights * answered, minlength=classes)
    hits = np.bincount(rows.labels, weights=weights * (rows.correct & answered), minlength=classes)
    occurs = truth + answers > 0
    return float(np.mean(2 * hits[occurs] / (truth + answers)[occurs])) if occurs.any() else math.nan


def _recall_scorer(metric: Metric, rows: _Rows, class_names: Sequence[str], threshold: float | None) -> Score:
    if threshold is None:
        raise ValueError("recall_at_false_alarm needs the threshold that fit_threshold found on dev rows")
    probability, positive = _positive(metric, rows, class_names)
    flagged = probability[positive] >= threshold
    return lambda w: _share(w[positive], flagged)


def _positive(metric: Metric, rows: _Rows, class_names: Sequence[str]) -> tuple[Floats, Bools]:
    """Probability of the positive class (N,), and which rows have it (N,)."""
    assert metric.positive is not None  # Metric checks it
    index = _index(metric.positive, class_names, "metric.positive")
    return softmax(rows.logits)[:, index], np.asarray(rows.labels == index)


def _index(name: str, class_names: Sequence[str], where: str) -> int:
    if name not in class_names:
        raise unknown_name("class", name, class_names, where)
    return list(class_names).index(name)


def _answered(metric: Metric, rows: _Rows, threshold: float | None) -> Bools:
    """Rows whose top probability reaches the threshold; all of them without abstention or threshold."""
    if metric.abstention is None or threshold is None:
        return np.ones(len(rows.labels), dtype=bool)
    return np.asarray(softmax(rows.logits).max(axis=1) >= threshold)


def _refuse_two_thresholds(metric: Metric) -> None:
    if metric.name == "recall_at_false_alarm" and metric.abstention:
        raise BadInput(
            "metric: recall_at_false_alarm has its own threshold and takes no 'abstention'; leave one of them out"
        )


def _costs_usd(
    metric: Metric, rows: _Rows, class_names: Sequence[str], threshold: float | None
) -> tuple[Floats, Floats]:
    """USD (N,) of each answer, and of the most expensive answer that each row could have had."""
    matrix = cost_matrix_usd(metric, class_names)
    answered = _answered(metric, rows, threshold)
    row_usd = np.where(answered, matrix[rows.labels, rows.predicted], metric.default_cost_usd)
    worst_usd = matrix.max(axis=1)[rows.labels]
    return row_usd, np.maximum(worst_usd, metric.default_cost_usd) if metric.abstention else worst_usd


def cost_matrix_usd(metric: Metric, class_names: Sequence[str]) -> Floats:
    """(C, C) USD, [true, predicted]: as named, default_cost_usd elsewhere, 0 on the diagonal unless named.

    Raises BadInput for unknown classes, negative costs, or a metric without costs."""
    if metric.costs_usd is None:
        raise BadInput(f"metric.costs_usd: '{metric.name}' states no costs; use name: cost_matrix and give them")
    matrix = np.full((len(class_names), len(class_names)), metric.default_cost_usd)
    np.fill_diagonal(matrix, 0.0)
    for true, by_answer in metric.costs_usd.items():
        row = _index(true, class_names, "metric.costs_usd")
        for answer, usd in by_answer.items():
            if usd < 0:
                raise BadInput(f"metric.costs_usd.{true}.{answer} is {usd:g}; 0 or more is wanted")
            matrix[row, _index(answer, class_names, f"metric.costs_usd.{true}")] = usd
    return matrix


def _alarm_threshold(metric: Metric, rows: _Rows, class_names: Sequence[str], weights: Floats) -> float:
    assert metric.max_false_alarm is not None  # Metric checks it
    probability, positive = _positive(metric, rows, class_names)
    order = np.argsort(-probability[~positive], kind="stable")
    negatives, mass = probability[~positive][order], np.cumsum(weights[~positive][order])
    if len(negatives) == 0 or mass[-1] == 0:
        raise BadInput(f"every dev row is of class '{metric.positive}': false alarms need rows of other classes")
    # the epsilon keeps 0.29 * 100 = 28.999999999999996 at 29 rows
    allowed = metric.max_false_alarm * mass[-1] + 1e-9
    first_refused = float(negatives[np.flatnonzero(mass > allowed)[0]])
    above = probability[probability > first_refused]
    return float(above.min()) if len(above) else math.nextafter(first_refused, math.inf)


def _abstention_threshold(min_precision: float, rows: _Rows, weights: Floats) -> float | None:
    top = softmax(rows.logits).max(axis=1)
    order = np.argsort(-top, kind="stable")
    with np.errstate(invalid="ignore"):  # 0 / 0 of rows without weight at the top: no precision is known there yet
        precision = np.cumsum((weights * rows.correct)[order]) / np.cumsum(weights[order])
    descending = top[order]
    # rows of equal probability are answered together: only the last of a tie is a possible threshold
    last_of_tie = np.append(descending[1:] < descending[:-1], True)
    precise = np.flatnonzero(last_of_tie & (precision >= min_precision))
    return float(descending[precise[-1]]) if len(precise) else None
