"""cost: what teacher, teacher quantised and student cost on a target, at its traffic and objective."""

from __future__ import annotations

from kdexport.nouns.bench import BenchResult, QualityResult, Timed
from kdexport.nouns.cost import Capacity, CostLine, CostReport, Who
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.project import Incumbent
from kdexport.nouns.target import Target
from kdexport.pricing.capacity import capacity
from kdexport.pricing.cost import compare, price

VERSION = 1


def cost(
    target: Target,
    profile: HardwareProfile,
    bench: BenchResult,
    quality: QualityResult,
    quantised_quality: float | None,
    incumbent: Incumbent,
    workers: int,
    tail_ratio: float | None,
) -> CostReport | None:
    """None where there is no student latency to price. The incumbent is the teacher on this target, or the bill."""
    if bench.student is None:
        return None
    label = f"{quality.student.metric} on test"

    def line(who: Who, timed: Timed | None, value: float | None, billed: float | None = None) -> CostLine:
        found = _capacity(timed, target, workers, tail_ratio) if timed else None
        words = label if value is not None else "not measured"
        return price(
            who,
            target,
            profile,
            found,
            traffic=target.traffic,
            quality=value,
            quality_label=words,
            billed_usd_per_year=billed,
        )

    student = line("student", bench.student, quality.student.value)
    teacher = line("incumbent", bench.teacher, quality.teacher.value, incumbent.usd_per_year)
    quantised = (
        line("teacher_quantised", bench.teacher_quantised, quantised_quality) if bench.teacher_quantised else None
    )
    return compare(teacher, quantised, student)


def _capacity(timed: Timed, target: Target, workers: int, tail_ratio: float | None) -> Capacity:
    service = timed.estimate if timed.estimate is not None else timed.service_ms
    return capacity(service, target.objective, target.max_utilisation, workers, tail_ratio)
