"""Axes of the drawings: from values to pixels, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps `low`..`high` to the pixels `start`..`end`; logarithmic where said."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * self._share(value)

    def _share(self, value: float) -> float:
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def padded(values: Sequence[float], share: float = 0.1, least: float = 1e-3) -> tuple[float, float]:
    """The range of the values with room on both sides, at least `least` wide."""
    low, high = min(values), max(values)
    room = max((high - low) * share, least / 2)
    return low - room, high + room


def padded_log(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """The same on a logarithmic axis, at least a factor of 4 wide. Values above 0."""
    low, high = padded([math.log(v) for v in values], share, least=math.log(4))
    return math.exp(low), math.exp(high)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """At most about `wanted` multiples of 1, 2 or 5 times a power of ten, inside the range."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them where the range is under three decades."""
    steps = (1, 2, 5) if high / low < 1_000 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
