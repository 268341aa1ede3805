"""Intervals, bounds and tests: how far a figure can be trusted. Every function is seeded or exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdexport.errors import BadInput

Interval = tuple[float, float]
Floats = NDArray[np.float64]

CONFIDENCE = 0.99  # of a percentile bound; MLPerf LoadGen's value
Z_95 = 1.959963984540054  # standard normal quantile 0.975
Z_POWER_80 = 0.8416212335729143  # standard normal quantile 0.8
RESAMPLES = 2_000


def binomial_cdf(n: int, p: float) -> Floats:
    """P(X <= k) for X ~ Binomial(n, p) and k = 0..n: (n + 1,). 0 < p < 1."""
    k = np.arange(n, dtype=np.float64)
    steps = np.log(n - k) - np.log(k + 1) + math.log(p) - math.log1p(-p)
    log_pmf = n * math.log1p(-p) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.cumsum(np.exp(log_pmf))


def _tail_share(percentile: float) -> float:
    if not 0 < percentile < 100:
        raise ValueError(f"percentile {percentile} is not between 0 and 100 (write 99, not 0.99)")
    return 1 - percentile / 100


@lru_cache
def percentile_needs(percentile: float) -> int:
    """Requests needed before `upper_bound` answers: 64 for p90, 130 for p95, 662 for p99, 6,636 for p99.9.

    The least n with P(Binomial(n, 1 - p) <= 1) < 1 - 0.99 (MLPerf LoadGen, loadgen/early_stopping.cc, t = 1)."""
    tail = _tail_share(percentile)
    p = 1 - tail
    n = math.ceil(math.log(1 - CONFIDENCE) / math.log(p))
    while p**n + n * tail * p ** (n - 1) >= 1 - CONFIDENCE:
        n += 1
    return n


def upper_bound(samples_ms: ArrayLike, percentile: float) -> float | None:
    """Upper bound of a percentile at 99 % confidence, in the unit of the samples (n,); None where n is too small.

    The t-th largest of n samples, t the largest with P(Binomial(n, 1 - p) <= t) < 0.01: MLPerf's early-stopping
    estimate for a single stream (loadgen/results.cc). It assumes independent requests."""
    samples = np.sort(np.asarray(samples_ms, dtype=np.float64).ravel())
    if len(samples) < percentile_needs(percentile):
        return None
    cdf = binomial_cdf(len(samples), _tail_share(percentile))
    t = max(int(np.searchsorted(cdf, 1 - CONFIDENCE, side="left")) - 1, 1)
    return float(samples[-t])


def median_ci95(samples: ArrayLike) -> Interval:
    """95 % interval of the median by order statistics, free of any distribution (n,). Raises ValueError if empty.

    Below 6 samples no such interval exists: it is then (least, greatest), which covers less than 95 %."""
    ordered = np.sort(np.asarray(samples, dtype=np.float64).ravel())
    n = len(ordered)
    if n == 0:
        raise ValueError("no samples: a median needs at least one")
    k = max(int(np.searchsorted(binomial_cdf(n, 0.5), 0.025, side="right")), 1)
    return float(ordered[k - 1]), float(ordered[n - k])


def ratio_of_medians(
    a_blocks: Sequence[ArrayLike], b_blocks: Sequence[ArrayLike], seed: int, resamples: int = RESAMPLES
) -> tuple[float, Interval]:
    """median(a) / median(b) and its 95 % interval, by bootstrap over interleaved blocks.

    Block i of a and of b ran one after the other, so they are drawn together: a slow spell of the machine hits
    both. Raises ValueError with fewer than 2 blocks, or if their numbers differ."""
    a = [np.asarray(block, dtype=np.float64) for block in a_blocks]
    b = [np.asarray(block, dtype=np.float64) for block in b_blocks]
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"blocks of a: {len(a)}, of b: {len(b)}; equal numbers are wanted, at least 2")
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(a), size=(resamples, len(a)))
    ratios = [_median(a, drawn) / _median(b, drawn) for drawn in draws]
    value = float(np.median(np.concatenate(a)) / np.median(np.concatenate(b)))
    return value, _percentile_interval(ratios, value)


def _median(blocks: list[Floats], drawn: NDArray[np.int64]) -> float:
    return float(np.median(np.concatenate([blocks[i] for i in drawn])))


def _percentile_interval(draws: ArrayLike, value: float) -> Interval:
    """95 % percentile interval, widened where needed to hold the point itself."""
    low, high = np.nanpercentile(np.asarray(draws, dtype=np.float64), [2.5, 97.5])
    return min(float(low), value), max(float(high), value)


def effective_rows(weights: ArrayLike) -> float:
    """How many equally weighted rows tell as much (Kish 1965): (sum w)^2 / sum w^2."""
    w = np.asarray(weights, dtype=np.float64)
    return float(w.sum() ** 2 / (w**2).sum())


def weighted_share_interval(draws: ArrayLike, share: float, weights: ArrayLike) -> Interval:
    """95 % interval of a weighted share of right rows: of the bootstrap's draws; where all rows are right, or none,
    those know no other, and Wilson's of as many equal rows as the weights tell of is taken."""
    if 0 < share < 1:
        return _percentile_interval(draws, share)
    n = effective_rows(weights)
    return wilson(n if share >= 1 else 0, n)


def wilson(k: float, n: float) -> Interval:
    """95 % Wilson score interval of the share k / n (Wilson 1927). Raises ValueError unless 0 <= k <= n, n > 0."""
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"{k} of {n} is not a share")
    share, z2 = k / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def paired_retention(
    correct_student: ArrayLike, correct_teacher: ArrayLike, seed: int, resamples: int = RESAMPLES
) -> tuple[float, Interval]:
    """Student's accuracy over the teacher's, and its 95 % interval by paired bootstrap of rows.

    correct_*: bool (N,), same rows in the same order. Raises BadInput if the teacher is never right.
    Rows differ only in which of the two is right, so drawing the counts of the four cases is drawing the rows."""
    student, teacher = _pair(correct_student, correct_teacher)
    cases = np.bincount(2 * student + teacher, minlength=4)
    if teacher.sum() == 0:
        raise BadInput("the teacher is right on no row of this set, so retention is not defined; check the labels")
    draws = np.random.default_rng(seed).multinomial(len(student), cases / len(student), size=resamples)
    student_right, teacher_right = draws[:, 2] + draws[:, 3], draws[:, 1] + draws[:, 3]
    ratios = np.where(teacher_right > 0, student_right / np.maximum(teacher_right, 1), np.nan)
    value = float(student.sum() / teacher.sum())
    return value, _percentile_interval(ratios, value)


def _pair(correct_student: ArrayLike, correct_teacher: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    student = np.asarray(correct_student, dtype=bool).astype(np.int64)
    teacher = np.asarray(correct_teacher, dtype=bool).astype(np.int64)
    if student.shape != teacher.shape or student.ndim != 1 or len(student) == 0:
        raise ValueError(f"student {student.shape} and teacher {teacher.shape}: the same (N,) is wanted, N > 0")
    return student, teacher


def bootstrap(
    statistic: Callable[[Floats], float], n: int, seed: int, value: float, resamples: int = RESAMPLES
) -> Interval:
    """95 % percentile interval of `statistic(counts)`, counts (n,): how often each row was drawn.

    `value` is the statistic of the rows themselves. NaN draws (statistic undefined) are left out."""
    rng = np.random.default_rng(seed)
    draws = [statistic(np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)) for _ in range(resamples)]
    return _percentile_interval(draws, value)


def paired_ratio(
    metric_fn: Callable[[Floats, NDArray[np.int64]], float],
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, Interval]:
    """metric_fn(student) / metric_fn(teacher) and its 95 % interval by paired bootstrap, for any metric.

    metric_fn takes logits (N, C) and labels (N,) and returns one number; it runs 2 * resamples times. Raises
    BadInput where the teacher scores 0. For a `Metric` noun `metrics.retention` is the faster form."""
    student, teacher = np.asarray(student_logits), np.asarray(teacher_logits)
    truth = np.asarray(labels, dtype=np.int64)
    whole = metric_fn(teacher, truth)
    if whole == 0:
        raise BadInput("the teacher scores 0 on this set, so retention is not defined; check the labels")

    def ratio(counts: Floats) -> float:
        rows = np.repeat(np.arange(len(truth)), counts.astype(np.int64))
        below = metric_fn(teacher[rows], truth[rows])
        return metric_fn(student[rows], truth[rows]) / below if below else math.nan

    value = metric_fn(student, truth) / whole
    return value, bootstrap(ratio, len(truth), seed, value, resamples)


def mcnemar_p(
    correct_student: ArrayLike,
    correct_teacher: ArrayLike,
    weights: ArrayLike | None = None,
    seed: int = 0,
    flips: int = 10_000,
) -> float:
    """Two-sided p of 'both are right equally often', exact binomial on the rows where just one is right (N,).

    With weights: how often the weighted difference is at least as large where each such row's winner is drawn anew
    (a sign-flip test, which the binomial is where all weights are equal); at least 1 / (flips + 1)."""
    student, teacher = _pair(correct_student, correct_teacher)
    if weights is not None:
        signed = (student - teacher) * np.asarray(weights, dtype=np.float64)
        return _sign_flip_p(signed[signed != 0], seed, flips)
    gained, lost = int(np.sum(student > teacher)), int(np.sum(student < teacher))
    if gained + lost == 0:
        return 1.0
    return min(1.0, 2 * float(binomial_cdf(gained + lost, 0.5)[min(gained, lost)]))


def _sign_flip_p(signed: Floats, seed: int, flips: int) -> float:
    if len(signed) == 0:
        return 1.0
    rng, found, size = np.random.default_rng(seed), abs(signed.sum()) * (1 - 1e-12), np.abs(signed)
    beyond, block = 0, max(1, 10_000_000 // len(size))  # at most 10 M signs at once
    for start in range(0, flips, block):
        signs = rng.integers(0, 2, size=(min(block, flips - start), len(size))) * 2 - 1
        beyond += int((np.abs(signs @ size) >= found).sum())
    return (beyond + 1) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p of each of several tests, such that calling those below 5 % significant errs in 5 % of such families at most
    (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class PairedShares:
    """Weighted shares of right answers and their ratio, with 95 % intervals; no ratio where the teacher's is 0."""

    student: float
    student_ci95: Interval
    teacher: float
    teacher_ci95: Interval
    ratio: float | None
    ratio_ci95: Interval | None


def paired_shares(
    correct_student: ArrayLike,
    correct_teacher: ArrayLike,
    weights: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedShares:
    """Wilson's intervals and a bootstrap of the four cases; with weights, all three from one bootstrap of rows."""
    student, teacher = _pair(correct_student, correct_teacher)
    n = len(student)
    if weights is None:
        ratio = paired_retention(student, teacher, seed, resamples) if teacher.any() else (None, None)
        k, m = int(student.sum()), int(teacher.sum())
        return PairedShares(k / n, wilson(k, n), m / n, wilson(m, n), *ratio)
    w = np.asarray(weights, dtype=np.float64)
    columns = np.stack([w * student, w * teacher, w], axis=1)
    rng = np.random.default_rng(seed)
    block = max(1, 300_000 // n)  # so many rows at once: 7 MB
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    draws = np.concatenate([columns[rng.integers(n, size=(size, n))].sum(axis=1) for size in sizes])
    above, below, total = columns.sum(axis=0)
    whole = above / below if below > 0 else None
    ratios = draws[:, 0] / np.where(draws[:, 1] > 0, draws[:, 1], np.nan)
    return PairedShares(
        float(above / total),
        weighted_share_interval(draws[:, 0] / draws[:, 2], float(above / total), w),
        float(below / total),
        weighted_share_interval(draws[:, 1] / draws[:, 2], float(below / total), w),
        None if whole is None else float(whole),
        None if whole is None else _percentile_interval(ratios, float(whole)),
    )


def smallest_detectable_loss(n_test: int, accuracy: float) -> float:
    """Smallest loss of accuracy (0..1) that a paired two-sided test at 5 % finds with 80 % power on n_test rows.

    Solves n d^2 = (z sqrt(psi) + z' sqrt(psi - d^2))^2 for d (Connor 1987, McNemar's test). psi, the share of rows
    where just one model is right, is not known beforehand: assumed 1 - accuracy (Banking77's students showed about
    0.8 of that), never below d. A value at or above `accuracy` means that this set can detect no loss at all."""
    if n_test < 1 or not 0 < accuracy <= 1:
        raise ValueError(f"n_test {n_test} must be positive, accuracy {accuracy} above 0 and at most 1")

    def found(loss: float) -> bool:
        differing = max(1 - accuracy, loss)
        noise = Z_95 * math.sqrt(differing) + Z_POWER_80 * math.sqrt(max(differing - loss**2, 0.0))
        return loss * math.sqrt(n_test) >= noise

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high
