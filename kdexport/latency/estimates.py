"""Latencies of many candidates at once: what every latency model answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdexport.nouns.graph import LatencyEstimate

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Estimates:
    """Median ms of one run of each of N candidates with its 90 % interval; float64 (N,), extrapolated bool (N,)."""

    p50_ms: np.ndarray
    low_ms: np.ndarray
    high_ms: np.ndarray
    extrapolated: np.ndarray
    model: str
    basis: str

    def one(self, index: int) -> LatencyEstimate:
        return LatencyEstimate(
            p50_ms=float(self.p50_ms[index]),
            low_ms=float(self.low_ms[index]),
            high_ms=float(self.high_ms[index]),
            model=self.model,
            basis=self.basis,
            extrapolated=bool(self.extrapolated[index]),
        )
