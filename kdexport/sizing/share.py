"""One student for several targets, where that is cheaper to own than one each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from kdexport.nouns.plan import Candidate, SharedStudent, TargetPlan
from kdexport.nouns.target import Target
from kdexport.sizing.choose import Wishes, bounds, told
from kdexport.sizing.options import Options

if TYPE_CHECKING:
    import numpy as np

CENT = 0.01  # USD a year: what rounding may hide
QUALITY_TIE = 0.001  # of retention: where quality is preferred, no target gives up more than this


@dataclass(frozen=True, eq=False)
class _Serving:
    """One target: USD a year of each of the N specs in its best cell (inf: it breaks a limit), and that option."""

    usd: np.ndarray
    option: np.ndarray


def share(
    plans: Sequence[TargetPlan],
    all_options: Sequence[Options],
    targets: Sequence[Target],
    wishes: Wishes,
    usd_per_student_year: float,
) -> tuple[list[TargetPlan], list[SharedStudent]]:
    """Groups are merged, the pair that saves most first, as long as the merged one costs no more to own. A target
    without a price costs nothing to serve; one that nothing fits keeps a student of its own.

    All options must hold the same specs in the same order."""
    servings = [_serving(o, wishes, t) for o, t in zip(all_options, targets, strict=True)]
    alone: dict[tuple[int, ...], int] = {
        (i,): _spec_of(all_options[i], plans[i]) for i in range(len(plans)) if plans[i].feasible
    }
    groups = dict(alone)

    def usd(group: tuple[int, ...], spec: int) -> float:
        return usd_per_student_year + sum(float(servings[i].usd[spec]) for i in group)

    while merge := _best_merge(groups, servings, plans, all_options, wishes, usd):
        first, second, spec = merge
        del groups[first], groups[second]
        groups[tuple(sorted(first + second))] = spec
    changed = list(plans)
    shared: list[SharedStudent] = []
    for group, spec in sorted(groups.items()):
        if len(group) < 2:
            continue
        apart = sum(usd((i,), alone[(i,)]) for i in group)
        told_as = _shared(group, spec, plans, all_options[group[0]], usd(group, spec), apart)
        shared.append(told_as)
        for i in group:
            if spec == alone[(i,)]:
                changed[i] = plans[i].model_copy(update={"reason": _reason(plans[i], told_as, wishes)})
                continue
            hard = [b for b in bounds(all_options[i], wishes, targets[i]) if b.constraint != "min_retention"]
            chosen = told(all_options[i], int(servings[i].option[spec]), hard)
            changed[i] = plans[i].model_copy(
                update={
                    "chosen": chosen,
                    "reason": _reason(plans[i], told_as, wishes),
                    "front": _with_chosen(plans[i].front, chosen),
                }
            )
    return changed, shared


def _best_merge(
    groups: dict[tuple[int, ...], int],
    servings: Sequence[_Serving],
    plans: Sequence[TargetPlan],
    all_options: Sequence[Options],
    wishes: Wishes,
    usd: Callable[[tuple[int, ...], int], float],
) -> tuple[tuple[int, ...], tuple[int, ...], int] | None:
    import numpy as np

    best: tuple[float, tuple[int, ...], tuple[int, ...], int] | None = None
    for first, second in combinations(sorted(groups), 2):
        together = first + second
        total = np.sum([servings[i].usd for i in together], 0)
        if wishes.prefer == "quality":
            floor = max(plans[i].chosen.quality.value for i in together) - QUALITY_TIE
            total = np.where(all_options[together[0]].retention.value >= floor, total, np.inf)
        if not np.isfinite(total).any():
            continue
        same = groups[first] == groups[second] and np.isfinite(total[groups[first]])
        spec = groups[first] if same else _cheapest_spec(total, all_options, together, wishes)
        saved = usd(first, groups[first]) + usd(second, groups[second]) - usd(together, spec)
        if saved >= -CENT and (best is None or saved > best[0]):
            best = (saved, first, second, spec)
    return best[1:] if best else None


def _cheapest_spec(total: np.ndarray, all_options: Sequence[Options], group: Sequence[int], wishes: Wishes) -> int:
    """Ties by quality where that is preferred, then by the sum of ln latency over the group's targets, then by name."""
    import numpy as np

    tied = np.flatnonzero(total <= total.min() * (1 + 1e-9))
    if wishes.prefer == "quality":
        kept = all_options[group[0]].retention.value
        tied = tied[kept[tied] == kept[tied].max()]
    speed = np.zeros(len(total))
    for i in group:
        columns = [np.log(e.p50_ms) for e in all_options[i].latency if e is not None]
        speed = speed + (np.min(columns, 0) if columns else 0.0)
    tied = tied[speed[tied] == speed[tied].min()]
    return int(min(tied, key=lambda s: all_options[group[0]].specs[s].model_dump_json()))


def _serving(options: Options, wishes: Wishes, target: Target) -> _Serving:
    import numpy as np

    fits = options.allowed.copy()
    for bound in bounds(options, wishes, target):
        fits &= bound.excess <= 1
    usd, latency = np.nan_to_num(options.usd_per_year), np.nan_to_num(options.p50_ms)
    least, option = np.full(len(options.specs), np.inf), np.full(len(options.specs), -1)
    for index in np.lexsort((latency, usd))[::-1]:
        if fits[index]:
            least[options.spec_of[index]], option[options.spec_of[index]] = usd[index], index
    return _Serving(least, option)


def _spec_of(options: Options, plan: TargetPlan) -> int:
    dumped = plan.chosen.spec
    return next(i for i, s in enumerate(options.specs) if s.model_dump() == dumped)


def _shared(
    group: tuple[int, ...], spec: int, plans: Sequence[TargetPlan], options: Options, usd: float, apart: float
) -> SharedStudent:
    saved = apart - usd
    unpriced = [plans[i].target for i in group if plans[i].chosen.usd_per_year is None]
    without = f" (serving on {', '.join(unpriced)} has no price and is not counted)" if unpriced else ""
    return SharedStudent(
        targets=tuple(plans[i].target for i in group),
        spec=options.specs[spec].model_dump(),
        num_params=next(int(n) for s, n in zip(options.spec_of, options.num_params, strict=True) if s == spec),
        usd_per_year=usd,
        usd_per_year_apart=apart,
        reason=(f"saves ${saved:,.0f} a year" if saved > 0.5 else "costs no more to own than one each") + without,
    )


def _with_chosen(front: tuple[Candidate, ...], chosen: Candidate) -> tuple[Candidate, ...]:
    """The shared student may lie off this target's front: it is shown there all the same."""
    found = [*front] if chosen in front else [*front, chosen]
    return tuple(sorted(found, key=lambda c: (c.latency.p50_ms if c.latency else 0.0, c.num_params)))


def _reason(plan: TargetPlan, shared: SharedStudent, wishes: Wishes) -> str:
    """Why this target gets the shared student, and what it would have had alone."""
    best = "the best" if wishes.prefer == "quality" else "the cheapest or fastest"
    other = f"; alone one of {plan.chosen.num_params:,} parameters would be {best} here"
    own = "" if plan.chosen.spec == shared.spec else other
    return (
        f"one student of {shared.num_params:,} parameters serves {len(shared.targets)} targets, "
        f"which {shared.reason}{own}"
    )
