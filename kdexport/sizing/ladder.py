"""Which students climb the ladder, how far, and what that costs: successive halving over short complete schedules
(Jamieson and Talwalkar 2016), under a budget of training time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdexport.nouns.ladder import Rung
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import numpy as np

CLIMBERS = 8  # students of the first round: ends and middles of two or three backbones
FIRST_SHARES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)  # of the full schedule
SHORTEST_STEPS = 80  # of a rung: warm-up and decay of fewer say next to nothing of a student
LONGER = 4  # the better half's next schedule is so many times as long
LONGEST_SHARE = 1 / 2  # beyond it a rung costs what it is to predict
DEAREST = (4.0, 2.0, 1.0)  # times the median training: dearer students do not climb, the curve is extended to them
FLOPS_PER_S_PER_CORE = 30e9  # small graphs, forward and backward: 9e9 to 41e9 measured on Zen 4 in fp32, 2026-11
STEP_OVERHEAD_S = 0.005  # of the smallest graph's step, the same machine


@dataclass(frozen=True)
class Climb:
    """A ladder before it is climbed. first: indices of the students of the first round; seconds: all rounds."""

    first: tuple[int, ...]
    shares: tuple[float, ...]
    seconds: float


def training_seconds(flops_per_row: float, rows_seen: float, batch_size: int, cores: float) -> float:
    """Estimated seconds of one training, within a factor of three; a backward pass counts as two forward ones."""
    arithmetic = 3 * flops_per_row * rows_seen / (FLOPS_PER_S_PER_CORE * cores)
    return arithmetic + STEP_OVERHEAD_S * rows_seen / batch_size


def climb(
    specs: Sequence[StudentSpec],
    num_params: np.ndarray,
    full_seconds: np.ndarray,
    full_steps: float,
    budget_seconds: float,
) -> Climb:
    """num_params, full_seconds: (N,); the latter of a full training, estimated; full_steps: of every full training.
    The order of specs does not matter.

    The dearest students that a ladder of several rounds has a budget for, on the longest schedules that it then
    allows: a size or a backbone that did not climb is guessed, a schedule is extrapolated by all. Where not even the
    cheapest ladder fits it is planned all the same: the stage stops when the budget is spent."""
    every = []
    for dearest in DEAREST:
        first = spread(specs, num_params, _affordable(specs, full_seconds, dearest), CLIMBERS)
        training_s = float(full_seconds[first].sum())
        every += [Climb(tuple(first), shares, training_s * _relative_cost(shares)) for shares in _ladders(full_steps)]
    fitting = [c for c in every if c.seconds <= budget_seconds]
    if not fitting:
        return min(every, key=lambda c: c.seconds)
    # a single round says nothing of how quality grows with the schedule
    return next((c for c in fitting if len(c.shares) > 1), fitting[0])


def _affordable(specs: Sequence[StudentSpec], full_seconds: np.ndarray, dearest: float) -> list[int]:
    """Students that take at most `dearest` median trainings, and of each backbone the cheapest, whatever it takes."""
    import numpy as np

    allowed = set(np.flatnonzero(full_seconds <= dearest * np.median(full_seconds)).tolist())
    for name in {s.backbone for s in specs}:
        own = [i for i, s in enumerate(specs) if s.backbone == name]
        allowed.add(min(own, key=lambda i: (full_seconds[i], specs[i].model_dump_json())))
    return sorted(allowed)


def _ladders(full_steps: float) -> list[tuple[float, ...]]:
    """Shares of the rounds of every ladder that may be climbed, the dearest first."""
    firsts = [share for share in FIRST_SHARES if share * full_steps >= SHORTEST_STEPS]
    whole = [_shares(first) for first in firsts or FIRST_SHARES[:1]]
    cut = {shares[:rounds] for shares in whole for rounds in range(1, len(shares) + 1)}
    return sorted(cut, key=_relative_cost, reverse=True)


def _shares(first_share: float) -> tuple[float, ...]:
    shares = [first_share]
    while shares[-1] < LONGEST_SHARE:
        shares.append(min(shares[-1] * LONGER, LONGEST_SHARE))
    return tuple(shares)


def _relative_cost(shares: Sequence[float]) -> float:
    """Over one full training of each climber. Which half goes on is not known yet: half of the sum."""
    return sum(share * 0.5**number for number, share in enumerate(shares))


def spread(specs: Sequence[StudentSpec], num_params: np.ndarray, allowed: Sequence[int], count: int) -> list[int]:
    """`count` of the allowed students, each backbone in turn: its smallest, its largest, then always the one
    farthest from those taken (Gonzalez 1985) in its logarithmic sizes, each scaled to 0..1."""
    by_backbone: dict[str, list[int]] = defaultdict(list)
    for index in sorted(allowed, key=lambda i: (num_params[i], specs[i].model_dump_json())):
        by_backbone[specs[index].backbone].append(index)
    queues = [_farthest_first(specs, num_params, by_backbone[name]) for name in sorted(by_backbone)]
    turns = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
    return turns[:count]


def _farthest_first(specs: Sequence[StudentSpec], num_params: np.ndarray, ordered: Sequence[int]) -> list[int]:
    """The smallest, the largest, then by distance; `ordered`: by size."""
    import numpy as np

    points = np.column_stack([_log_sizes([specs[i] for i in ordered]), np.log2(num_params[list(ordered)])])
    reach = np.ptp(points, axis=0)
    points = points[:, reach > 0] / reach[reach > 0]
    taken = [0, len(ordered) - 1] if len(ordered) > 1 else [0]
    while len(taken) < min(len(ordered), CLIMBERS):
        nearest = np.min([np.linalg.norm(points - points[t], axis=1) for t in taken], axis=0)
        taken.append(int(nearest.argmax()))
    return [ordered[t] for t in taken]


def _log_sizes(specs: Sequence[StudentSpec]) -> np.ndarray:
    """log2(1 + field) of every whole-number field of one backbone's specs, (N, fields) float64."""
    import numpy as np

    fields = [{k: v for k, v in spec.model_dump().items() if isinstance(v, int)} for spec in specs]
    return np.log2(1.0 + np.array([[f[k] for k in sorted(fields[0])] for f in fields], dtype=np.float64))


def better_half(rungs: Sequence[Rung]) -> list[Rung]:
    """Of one round, those that go on: few others are at least as good with no more parameters. Of equals in this,
    sizes from all over: how quality grows with the schedule differs between small and large students, and which of
    them is wanted depends on the target."""
    ordered = sorted(rungs, key=lambda r: (r.num_params, -r.dev_quality, json.dumps(r.spec, sort_keys=True)))
    beaten = [sum(o.dev_quality >= r.dev_quality and o.num_params <= r.num_params for o in ordered) for r in ordered]
    kept: list[Rung] = []
    for level in sorted(set(beaten)):
        equals = [r for r, count in zip(ordered, beaten, strict=True) if count == level]
        kept += _evenly(equals, len(rungs) // 2 - len(kept))
    return kept


def _evenly(ordered: Sequence[Rung], count: int) -> list[Rung]:
    """At most `count` of them, the last and the first among them before those between."""
    if count >= len(ordered):
        return list(ordered)
    steps = [len(ordered) - 1 - round(i * (len(ordered) - 1) / max(count - 1, 1)) for i in range(count)]
    return [ordered[i] for i in sorted(steps)]
