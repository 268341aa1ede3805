"""From a median to a higher percentile, where only the median was estimated."""

from __future__ import annotations

from kdexport.nouns.target import Objective

TAIL_ASSUMED = 1.5  # p99 over p50 where no calibration has measured it
TAIL_SHARE = {50: 0.0, 90: 0.35, 95: 0.55, 99: 1.0, 99.9: 1.5}  # of the way from p50 to p99; about an exponential tail


def at_percentile(p50_ms: float, tail_ratio: float, objective: Objective) -> float:
    """The objective's percentile from the median and p99 / p50."""
    return p50_ms * (1 + TAIL_SHARE[objective.percentile] * (tail_ratio - 1))
