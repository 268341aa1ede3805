"""From medians to a percentile: requests differ in length, and runs of one request differ from each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdexport.nouns.target import Objective

if TYPE_CHECKING:
    import numpy as np

TAIL_ASSUMED = 1.5  # p99 over p50 where no calibration has measured it
TAIL_SHARE = {"90": 0.35, "95": 0.55, "99": 1.0, "99.9": 1.5}  # of the way from p50 to p99; about an exponential tail
BISECTIONS = 30


def assumed_tail(tail_ratio: float = TAIL_ASSUMED) -> dict[str, float]:
    """Percentile over median by percentile, from p99 / p50 alone."""
    return {percentile: 1 + share * (tail_ratio - 1) for percentile, share in TAIL_SHARE.items()}


def at_percentile(p50_ms: float, tail_ratio: float, objective: Objective) -> float:
    """The objective's percentile of one kind of request from its median and p99 / p50."""
    return p50_ms * ({"50": 1.0} | assumed_tail(tail_ratio))[f"{objective.percentile:g}"]


def percentile_ms(medians_ms: np.ndarray, tail: Mapping[str, float], percentile: float) -> np.ndarray:
    """(N,) ms: the percentile of N candidates over requests of K equally frequent kinds.

    medians_ms: (N, K) of single runs of each kind; tail: percentile over median of repeated runs of one kind, taken
    as the same for all and piecewise linear between the given percentiles; runs faster than the median count as the
    median. Solves mean_k P(medians_k x ratio <= x) = percentile / 100 by bisection."""
    import numpy as np

    levels = [0.5, *(float(p) / 100 for p in tail), 1.0]
    ratios = np.maximum.accumulate([1.0, *tail.values(), 2 * max([1.0, *tail.values()]) - 1])
    wanted = percentile / 100
    low, high = medians_ms.min(1), medians_ms.max(1) * ratios[-1]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        quotient = middle[:, None] / medians_ms
        below = np.where(quotient < 1, 0.0, np.interp(quotient, ratios, levels)).mean(1)
        enough = below >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.asarray(high)
