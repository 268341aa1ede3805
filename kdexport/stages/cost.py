"""cost: what teacher, teacher quantised and student cost on a target, at its traffic and objective."""

from __future__ import annotations

from dataclasses import dataclass

from kdexport.latency.tail import TAIL_ASSUMED
from kdexport.nouns.bench import BenchResult, QualityResult, Timed
from kdexport.nouns.cost import Assumption, Capacity, CostLine, CostReport, Who
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.project import Incumbent
from kdexport.nouns.target import Target
from kdexport.pricing.capacity import capacity
from kdexport.pricing.cost import DEFAULT, compare, price

VERSION = 2
ASSUMED_INCUMBENT = "the teacher on this same target (assumed: the project names no incumbent)"


@dataclass(frozen=True)
class Side:
    """Where one model runs: its target, the device, how many of them answer at once, the tail of its latency."""

    target: Target
    profile: HardwareProfile
    workers: int
    tail_ratio: float | None


def cost(
    here: Side,
    bench: BenchResult,
    quality: QualityResult,
    quantised_quality: float | None,
    incumbent: Incumbent,
    incumbent_side: Side,
    incumbent_timed: Timed | None,
) -> CostReport | None:
    """None where there is no student latency to price. Without other word the incumbent is the teacher on this target;
    a bill in the project replaces its modelled cost. All lines are priced at this target's traffic."""
    if bench.student is None:
        return None
    label = f"{quality.student.metric} on test"

    def line(who: Who, side: Side, timed: Timed | None, value: float | None, billed: float | None = None) -> CostLine:
        found = _capacity(timed, side) if timed else None
        words = label if value is not None else "not measured"
        return price(
            who,
            side.target,
            side.profile,
            found,
            traffic=here.target.traffic,
            quality=value,
            quality_label=words,
            billed_usd_per_year=billed,
            capacity_assumes=_assumed_tail(timed, side) if timed else (),
        )

    student = line("student", here, bench.student, quality.student.value)
    teacher = line("incumbent", incumbent_side, incumbent_timed, quality.teacher.value, incumbent.usd_per_year)
    quantised = (
        line("teacher_quantised", here, bench.teacher_quantised, quantised_quality) if bench.teacher_quantised else None
    )
    report = compare(teacher, quantised, student)
    named = incumbent.target is not None or incumbent.usd_per_year is not None
    return report if named else report.model_copy(update={"incumbent": ASSUMED_INCUMBENT})


def _assumed_tail(timed: Timed, side: Side) -> tuple[Assumption, ...]:
    """The tail that an estimated median was given, where no calibration has measured it."""
    if timed.estimate is None or side.tail_ratio is not None:
        return ()
    key, unit = f"{side.target.id}.latency_tail", "p99 over p50"
    return (Assumption(key=key, value=TAIL_ASSUMED, unit=unit, source=DEFAULT, assumed=True),)


def _capacity(timed: Timed, side: Side) -> Capacity:
    service = timed.estimate if timed.estimate is not None else timed.service_ms
    objective, ceiling = side.target.objective, side.target.max_utilisation
    return capacity(service, objective, ceiling, side.workers, side.tail_ratio)
