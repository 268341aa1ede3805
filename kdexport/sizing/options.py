"""Options: all candidates of one target as columns, so that thousands are weighed in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdexport.latency.estimates import Estimates
from kdexport.nouns.plan import Candidate, Constraint, QualityEstimate
from kdexport.nouns.profile import Precision
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import numpy as np

    from kdexport.sizing.quality import Retentions


@dataclass(frozen=True)
class Cell:
    """One way to run on the target."""

    runtime: str
    precision: Precision
    batch: int = 1


@dataclass(frozen=True, eq=False)
class Options:
    """M = N specs x cells. Columns are float64 (M,); NaN where it is not known.

    objective_ms: the objective's percentile, estimated; bound_ms: what is held against the limit (its upper end on a
    machine that was calibrated, the estimate itself elsewhere)."""

    specs: Sequence[StudentSpec]
    cells: Sequence[Cell]
    spec_of: np.ndarray
    cell_of: np.ndarray
    num_params: np.ndarray
    artifact_bytes: np.ndarray
    memory_mib: np.ndarray
    retention: Retentions
    latency: Sequence[Estimates | None]  # by cell, each of N; end to end where the objective's scope is
    p50_ms: np.ndarray
    objective_ms: np.ndarray
    bound_ms: np.ndarray
    usd_per_year: np.ndarray
    usd_per_million: np.ndarray
    allowed: np.ndarray  # bool (M,): False where the planner takes another cell of the same student

    def __len__(self) -> int:
        return len(self.spec_of)

    def name(self, index: int) -> str:
        """Of one option, the same wherever it stands: the last tie-breaker."""
        return f"{self.specs[self.spec_of[index]].model_dump_json()} {self.cells[self.cell_of[index]]}"

    def candidate(self, index: int, why_not: str, broken: Sequence[Constraint]) -> Candidate:
        number, cell = int(self.spec_of[index]), self.cells[int(self.cell_of[index])]
        estimates = self.latency[int(self.cell_of[index])]
        kept = self.retention
        return Candidate(
            spec=self.specs[number].model_dump(),
            num_params=int(self.num_params[index]),
            runtime=cell.runtime,
            precision=cell.precision,
            batch=cell.batch,
            artifact_bytes=int(self.artifact_bytes[index]),
            memory_mib=float(self.memory_mib[index]),
            quality=QualityEstimate(
                value=float(kept.value[number]),
                low=float(kept.low[number]),
                high=float(kept.high[number]),
                basis=kept.basis,
            ),
            latency=estimates.one(number) if estimates and _known(self.p50_ms[index]) else None,
            objective_ms=_known(self.objective_ms[index]),
            bound_ms=_known(self.bound_ms[index]),
            usd_per_year=_known(self.usd_per_year[index]),
            usd_per_million=_known(self.usd_per_million[index]),
            why_not=why_not,
            broken=tuple(broken),
        )


def _known(value: float) -> float | None:
    return float(value) if value == value else None
