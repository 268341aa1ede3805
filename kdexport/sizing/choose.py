"""The choice rule: drop what breaks a limit, keep what is predicted good enough, take the cheapest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kdexport.nouns.plan import Candidate, Constraint, TargetPlan
from kdexport.nouns.target import Target
from kdexport.sizing.options import Options

if TYPE_CHECKING:
    import numpy as np

TIE = 1.02  # costs within 2 % are equal; then latency, then bytes decide
SHOWN = 40  # candidates of the front that a plan keeps


@dataclass(frozen=True)
class Wishes:
    """What is wanted of every target's student, besides the target's own limits."""

    min_retention: float
    prefer: Literal["cheapest", "quality"]
    max_params: int | None = None
    max_usd_per_million: float | None = None


@dataclass(frozen=True, eq=False)
class Bound:
    """A limit, and every option against it: broken where value > limit. `wording` has {value} and {limit}."""

    constraint: Constraint
    value: np.ndarray
    limit: float
    wording: str
    key: str
    shown: str

    @property
    def excess(self) -> np.ndarray:
        """Value over limit, (M,); 0 where the value is not known, which breaks nothing."""
        import numpy as np

        return np.nan_to_num(self.value / self.limit, nan=0.0)

    def words(self, index: int) -> str:
        if math.isinf(self.value[index]):
            return f"its price is not known, so {self.key} {self.limit:g} cannot be said to be kept"
        return self.wording.format(value=self._digits(self.value[index]), limit=self._digits(self.limit))

    def _digits(self, value: float) -> str:
        return format(value, ",.0f" if abs(value) >= 1000 else self.shown)

    def relaxed_to(self, index: int) -> str:
        """The limit that this option meets, rounded to the side on which it still does."""
        value = float(self.value[index])
        if self.constraint == "min_retention":
            return f"{self.key} {math.floor(1000 / value) / 1000:.3f}"
        if math.isinf(value):
            return "an offering with a price"
        unit = 1.0 if self.shown == ",.0f" else 10.0 ** min(math.floor(math.log10(value)) - 2, 0)
        rounded = math.ceil(value / unit - 1e-9) * unit
        return f"{self.key} {rounded:.0f}" if rounded >= 1000 else f"{self.key} {rounded:.4g}"


def bounds(options: Options, wishes: Wishes, target: Target) -> list[Bound]:
    """Every limit that was set, in the order in which a candidate is told why not. A price that is not known keeps no
    limit of money; a latency that is not known breaks none (and a plan notes it)."""
    import numpy as np

    objective, limits = target.objective, target.limits
    retention = options.retention.value[options.spec_of]
    bytes_, memory = options.artifact_bytes, options.memory_mib
    found: list[Bound | None] = [
        _bound("max_params", options.num_params, wishes.max_params,
               "{value} parameters are over max_params {limit}", "max_params", ",.0f"),
        _bound("artifact_bytes", bytes_, limits.artifact_bytes,
               "{value} bytes are over the target's artifact_bytes {limit}", "artifact_bytes", ",.0f"),
        _bound("memory", memory, limits.memory_mib,
               "{value} MiB are over the target's memory_mib {limit}", "memory_mib", ".4g"),
        _bound("latency", options.bound_ms, objective.limit_ms,
               f"p{objective.percentile:g} {{value}} ms is over limit_ms {{limit}}", "limit_ms", ".4g"),
        _bound("usd", np.nan_to_num(options.usd_per_million, nan=np.inf), wishes.max_usd_per_million,
               "{value} USD per million is over max_usd_per_million {limit}", "max_usd_per_million", ".4g"),
        _bound("min_retention", 1 / retention.clip(1e-9), 1 / wishes.min_retention if wishes.min_retention else None,
               "", "min_retention", ".3f"),
    ]  # fmt: skip
    return [b for b in found if b is not None]


def _bound(
    constraint: Constraint, value: np.ndarray, limit: float | None, wording: str, key: str, shown: str
) -> Bound | None:
    return None if limit is None else Bound(constraint, value, float(limit), wording, key, shown)


def choose(options: Options, wishes: Wishes, target: Target, notes: Sequence[str]) -> TargetPlan:
    """None feasible: the best quality within the limits, else what misses them least; and what could be met is said.

    The order of the options does not matter."""

    found = bounds(options, wishes, target)
    hard = [b for b in found if b.constraint != "min_retention"]
    within = options.allowed.copy()
    for bound in hard:
        within &= bound.excess <= 1
    good = within & (options.retention.value[options.spec_of] >= wishes.min_retention)
    pool = within if wishes.prefer == "quality" else good
    feasible = bool(good.any())
    if pool.any() and (feasible or wishes.prefer == "quality"):
        chosen = best_quality(options, pool) if wishes.prefer == "quality" else cheapest(options, pool)
        reason = _reason(options, chosen, wishes, int(pool.sum()))
    else:
        chosen = best_quality(options, within) if within.any() else _least_broken(options, hard)
        reason = "nothing meets every limit: " + (
            "the best quality within reach is taken" if within.any() else "what misses the limits least is taken"
        )
    on_front = front(options, within if within.any() else options.allowed)
    return TargetPlan(
        target=target.id,
        chosen=told(options, chosen, hard),
        reason=reason,
        feasible=feasible,
        nearest="" if feasible else _nearest(options, found, target),
        binding=None if feasible else _binding(options, found),
        percentile=target.objective.percentile,
        limit_ms=target.objective.limit_ms,
        min_retention=wishes.min_retention or None,
        num_candidates=len(options),
        front_size=len(on_front),
        front=tuple(told(options, i, hard) for i in _thinned(on_front, chosen)),
        notes=tuple(notes),
    )


def told(options: Options, index: int, hard: Sequence[Bound]) -> Candidate:
    """One option as a noun, with every limit that it breaks."""
    broken = [b for b in hard if b.excess[index] > 1]
    return options.candidate(index, broken[0].words(index) if broken else "", [b.constraint for b in broken])


def front(options: Options, among: np.ndarray) -> list[int]:
    """Options that no other beats in quality, latency, bytes and cost at once, fastest first; of equals, one.

    Non-dominated sorting by moocore (Lopez-Ibanez)."""
    import moocore
    import numpy as np

    rows = np.flatnonzero(among)
    columns = np.stack([-_quality(options), *_costs(options)], 1)[rows]
    kept = rows[moocore.is_nondominated(columns, keep_weakly=True)]
    ordered = sorted(kept, key=lambda i: (*(float(c[i]) for c in _costs(options)), options.name(i)))
    seen: set[tuple[float, ...]] = set()
    unique = []
    for index in ordered:
        point = (float(_quality(options)[index]), *(float(c[index]) for c in _costs(options)))
        if point not in seen:
            seen.add(point)
            unique.append(int(index))
    return unique


def _thinned(indices: Sequence[int], chosen: int) -> list[int]:
    """At most SHOWN, evenly spread, both ends kept, and the chosen one where it is on the front."""
    if len(indices) <= SHOWN:
        return list(indices)
    places = {round(i * (len(indices) - 1) / (SHOWN - 1)) for i in range(SHOWN)}
    kept = {indices[place] for place in places} | ({chosen} & set(indices))
    return [i for i in indices if i in kept]


def _quality(options: Options) -> np.ndarray:
    kept: np.ndarray = options.retention.value[options.spec_of]
    return kept


def _costs(options: Options) -> list[np.ndarray]:
    """What less of is better: latency (parameters where it is not known), bytes, money."""
    import numpy as np

    latency = options.p50_ms
    return [
        np.where(np.isnan(latency), options.num_params, latency),
        options.artifact_bytes,
        np.nan_to_num(options.usd_per_year),
    ]


def best_quality(options: Options, among: np.ndarray) -> int:
    latency, bytes_, usd = _costs(options)
    return _least(options, among, [-_quality(options), latency, bytes_, usd])


def cheapest(options: Options, among: np.ndarray) -> int:
    latency, bytes_, usd = _costs(options)
    tied = among & (usd <= usd[among].min() * TIE)
    return _least(options, tied, [latency, bytes_, usd, -_quality(options)])


def _least(options: Options, among: np.ndarray, columns: Sequence[np.ndarray]) -> int:
    """The row that is least in the first column, then the second, ...; equals by name."""
    import numpy as np

    rows = np.flatnonzero(among)
    for column in columns:
        rows = rows[column[rows] == column[rows].min()]
    return min(rows.tolist(), key=options.name)


def _total_excess(found: Sequence[Bound]) -> np.ndarray:
    """Sum of ln(value / limit) over the limits that are broken, (M,)."""
    import numpy as np

    return np.asarray(sum(np.log(np.maximum(b.excess, 1.0)) for b in found))


def _least_broken(options: Options, hard: Sequence[Bound]) -> int:

    return _least(options, options.allowed, [_total_excess(hard), -_quality(options), *_costs(options)])


def _binding(options: Options, found: Sequence[Bound]) -> Constraint:
    """The limit that gives way with the least change: by itself if one alone is enough, else the worst broken one of
    the option that misses least."""
    alone = _alone(options, found)
    if alone:
        return min(alone, key=lambda pair: float(pair[0].excess[pair[1]]))[0].constraint
    nearest = _least(options, options.allowed & (_total_excess(found) > 0), [_total_excess(found)])
    return max(found, key=lambda b: float(b.excess[nearest])).constraint


def _alone(options: Options, found: Sequence[Bound]) -> list[tuple[Bound, int]]:
    """(limit, the option that needs it relaxed least), for every limit whose relaxing alone is enough."""
    result = []
    for bound in found:
        others = [b.excess <= 1 for b in found if b is not bound]
        meets: np.ndarray = options.allowed & (bound.excess > 1)
        for other in others:
            meets = meets & other
        if meets.any():
            result.append((bound, _least(options, meets, [bound.excess, -_quality(options)])))
    return sorted(result, key=lambda pair: float(pair[0].excess[pair[1]]))


def _nearest(options: Options, found: Sequence[Bound], target: Target) -> str:
    """What could be met: each single limit that would have to give way and how far, nearest first."""
    alone = _alone(options, found)
    if alone:
        ways = [bound.relaxed_to(index) for bound, index in alone]
        return f"{_why(alone[0][0], alone[0][1], options)} (target {target.id}; met with {'; or '.join(ways)})"
    index = _least(options, options.allowed & (_total_excess(found) > 0), [_total_excess(found)])
    broken = sorted((b for b in found if b.excess[index] > 1), key=lambda b: -float(b.excess[index]))
    ways = [b.relaxed_to(index) for b in broken]
    return f"{_why(broken[0], index, options)} (target {target.id}; met only with {' and '.join(ways)} together)"


def _why(bound: Bound, index: int, options: Options) -> str:
    if bound.constraint != "min_retention":
        return bound.words(index)
    low, high = options.retention.low[options.spec_of[index]], options.retention.high[options.spec_of[index]]
    best = _quality(options)[index]
    return (
        f"min_retention {1 / bound.limit:g} is above what is predicted within the limits: "
        f"{best:.3f} ({low:.3f} to {high:.3f})"
    )


def _reason(options: Options, chosen: int, wishes: Wishes, within: int) -> str:
    how = "best predicted quality" if wishes.prefer == "quality" else "cheapest, then fastest"
    latency = options.p50_ms[chosen]
    fast = f", {latency:.3g} ms estimated" if latency == latency else ""
    kept = "every limit" if wishes.prefer == "quality" else "every limit and min_retention"
    return (
        f"{how} of {within:,} candidates of {int(options.allowed.sum()):,} that keep {kept}: "
        f"{int(options.num_params[chosen]):,} parameters, predicted retention {_quality(options)[chosen]:.3f}{fast}"
    )
