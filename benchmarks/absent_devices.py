"""Latency of machines that are not here: fit the shipped coefficients on published rows, and say how far they miss.

    python -m benchmarks.absent_devices [--fit] [--seed N] [--quick] [--data FOLDER]

Every device is left out in turn, once with all models and once with the smaller half of them left out too, and with
none, one and five of its own rows given back. The interval of a left-out device comes from the others alone: the fits
that give it saw neither it nor the device that they are tried on. --fit also writes kdexport/latency/absent_prior.json;
no row and no device fact is copied into that file. Table on stderr, one document on stdout, exit 1 where a bar is
missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmarks._published import COLLECTED, Published, Row, by_device, read_rows
from benchmarks._results import environment, shared_folder, write_result
from kdexport.latency.absent import (
    FEWEST_DEVICES,
    PRIOR_FILE,
    SHARE_OF_FP32_BYTES,
    Known,
    PairSpread,
    Pool,
    Prior,
    Width,
    family_of,
    label_of,
    pair_growth,
    pool_of,
    usable_peak,
    work_of,
)
from kdexport.latency.absent_physics import (
    PoolName,
    State,
    Work,
    conditioned,
    join,
    narrowed,
    predicted,
)
from kdexport.nouns.profile import DeviceClass
from kdexport.storage.files import read_json, write_json

if TYPE_CHECKING:
    import numpy as np

NAME = "absent_devices"
LEVEL = 0.9
# Coverage of left-out devices. 0.9 is aimed at; with 13 and 10 devices one device is about a tenth of it, so below
# 0.85 the interval is too narrow, and above 0.97 it is wider than it says. Extrapolated: fewer devices have such rows.
COVERAGE = (0.85, 0.97)
EXTRAPOLATED_COVERAGE = 0.80
# Median half widths with none, one, five known rows, as factors: what makes an estimate of use for choosing a device.
HALF_WIDTH: dict[PoolName, dict[Known, float]] = {
    "gpu": {"none": 2.2, "one": 1.7, "several": 1.5},
    "cpu": {"none": 2.5, "one": 2.0, "several": 1.7},
}
KNOWN_ROWS: dict[Known, int] = {"none": 0, "one": 1, "several": 5}
DRAWS = 20  # of the known rows of a device
DIGITS = 4  # of shipped numbers; ln

Log = Callable[[str], None]


@dataclass
class Misses:
    """What left-out devices missed by, by device: ln(published / estimated), its standard deviation as predicted."""

    errors: dict[str, np.ndarray] = field(default_factory=dict)
    deviations: dict[str, np.ndarray] = field(default_factory=dict)

    def scaled(self) -> dict[str, np.ndarray]:
        return {device: self.errors[device] / self.deviations[device] for device in self.errors}


@dataclass(frozen=True)
class Table:
    """The rows of one pool as arrays."""

    pool: PoolName
    rows: tuple[Row, ...]
    as_published: Work  # for fitting: the cores that the row says
    as_estimated: Work  # for judging: the same call as for a user, who knows neither more nor less
    log_s: np.ndarray  # (N,)
    device: np.ndarray  # (N,) of str
    flops: np.ndarray

    @property
    def devices(self) -> list[str]:
        return sorted(set(self.device.tolist()))

    @property
    def classes(self) -> dict[str, DeviceClass]:
        return {row.device: row.profile.device_class for row in self.rows}


def table_of(pool: PoolName, rows: Sequence[Row]) -> Table:
    import numpy as np

    own = tuple(r for r in rows if pool_of(r.profile) == pool)
    works = [
        join([work_of(r.profile, [r.cost], r.precision, r.cores, label_of(r.profile, r.runtime), said) for r in own])
        for said in (True, False)
    ]
    return Table(
        pool=pool,
        rows=own,
        as_published=works[0],
        as_estimated=works[1],
        log_s=np.log([r.published_ms * 1e-3 for r in own]),
        device=np.array([r.device for r in own]),
        flops=np.array([r.cost.flops for r in own]),
    )


# ---- leaving out ----


def fit(table: Table, keep: np.ndarray) -> State:
    """The unknowns that all devices share, from the rows of a mask (N,)."""
    labels = {table.as_published.labels[i] for i in set(table.as_published.label[keep].tolist())}
    state = conditioned(table.pool, None, table.as_published.take(keep), table.log_s[keep])
    devices = [f"device {label.device}" for label in labels] + [f" on {label.device}" for label in labels]
    return narrowed(state, [n for n in state.names if not any(d in n for d in devices)])


def small_flops(table: Table) -> float:
    """Median FLOPs, every device weighing the same: at most this is a small model."""
    import numpy as np

    weight = device_weights(table.device)
    order = np.argsort(table.flops)
    return float(table.flops[order][np.searchsorted(np.cumsum(weight[order]), 0.5)])


def device_weights(device: np.ndarray) -> np.ndarray:
    """(N,), summing to 1."""
    import numpy as np

    _, at, counts = np.unique(device, return_inverse=True, return_counts=True)
    weights: np.ndarray = 1 / counts[at] / len(counts)
    return weights


def tried(
    table: Table, state: State, device: str, small: float | None, count: int, seed: int, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray] | None:
    """(errors, deviations) of a device's rows by a state that never saw it, `count` random rows of it given back.

    small: only models up to these FLOPs are judged and only larger ones are given. None: too few rows."""
    import numpy as np

    own = np.flatnonzero(table.device == device)
    judged = own if small is None else own[table.flops[own] <= small]
    given = own if small is None else own[table.flops[own] > small]
    if not len(judged) or len(given) < count or (small is None and len(own) <= count):
        return None
    chance = np.random.default_rng([seed, count, table.devices.index(device)])
    errors, deviations = [], []
    for shown in _draws(given, count, draws, chance):
        rest = np.setdiff1d(judged, shown)
        after = conditioned(table.pool, state, table.as_published.take(shown), table.log_s[shown]) if count else state
        log_s, deviation = predicted(table.pool, after, table.as_estimated.take(rest))
        errors.append(table.log_s[rest] - log_s)
        deviations.append(deviation)
    return np.concatenate(errors), np.concatenate(deviations)


def _draws(given: np.ndarray, count: int, draws: int, chance: np.random.Generator) -> list[np.ndarray]:
    """Ways to give back `count` rows: all of them where there are few, else random ones."""
    import numpy as np

    if math.comb(len(given), count) <= draws:
        return [np.array(rows, dtype=int) for rows in itertools.combinations(given.tolist(), count)]
    return [chance.choice(given, count, replace=False) for _ in range(draws)]


Case = tuple[Known, bool]  # rows known of the device, extrapolated
CASES: tuple[Case, ...] = tuple(itertools.product(get_args(Known), (False, True)))


@dataclass
class LeftOut:
    """By case: every device left out, and every device left out together with each other one."""

    single: dict[Case, Misses]
    paired: dict[Case, dict[str, Misses]]  # the device that is judged -> misses of the others, which never saw it


def leave_out(table: Table, seed: int, draws: int, log: Log) -> LeftOut:
    small = small_flops(table)
    found = LeftOut({c: Misses() for c in CASES}, {c: {d: Misses() for d in table.devices} for c in CASES})
    for extrapolated in (False, True):
        limit = small if extrapolated else None
        seen = table.flops > small if extrapolated else table.flops > 0
        for device in table.devices:
            state = fit(table, seen & (table.device != device))
            for name, count in KNOWN_ROWS.items():
                _note(found.single[name, extrapolated], device, tried(table, state, device, limit, count, seed, draws))
        for one, other in itertools.combinations(table.devices, 2):
            state = fit(table, seen & (table.device != one) & (table.device != other))
            for judged, left in ((one, other), (other, one)):
                for name, count in KNOWN_ROWS.items():
                    result = tried(table, state, left, limit, count, seed, draws)
                    _note(found.paired[name, extrapolated][judged], left, result)
        log(f"{table.pool}: every pair of {len(table.devices)} devices left out, extrapolated: {extrapolated}")
    return found


def _note(misses: Misses, device: str, result: tuple[np.ndarray, np.ndarray] | None) -> None:
    if result is not None:
        misses.errors[device], misses.deviations[device] = result


# ---- intervals ----


def device_quantile(values: dict[str, np.ndarray], level: float) -> float:
    """Quantile of the absolute values, every device weighing the same."""
    import numpy as np

    size = np.abs(np.concatenate(list(values.values())))
    weight = np.concatenate([np.full(len(e), 1 / len(e) / len(values)) for e in values.values()])
    order = np.argsort(size)
    at = min(int(np.searchsorted(np.cumsum(weight[order]), level)), len(size) - 1)
    return float(size[order][at])


def width_of(inside: Misses, extrapolated: Misses, classes: dict[str, DeviceClass], device_class: DeviceClass) -> Width:
    """The width of a class, from devices and the class of each. Where small models come out narrower that is chance,
    hence the maximum.

    A class with FEWEST_DEVICES has its own. Smaller ones are pooled with all; if most of that pool is a class with a
    width of its own, which it may fit alone, the small class takes the wider of the pool's and its own."""
    counts = _counted(classes.values())
    large = {name for name, count in counts.items() if count >= FEWEST_DEVICES}
    groups = [set(counts)] if device_class not in large else []
    groups += [{device_class}] if large else []

    def scale(misses: Misses) -> float:
        scaled = misses.scaled()
        parts = ({d: z for d, z in scaled.items() if classes[d] in group} for group in groups)
        return max((device_quantile(part, LEVEL) for part in parts if part), default=0.0)

    own = [d for d in inside.errors if any(classes[d] in group for group in groups)]
    alone = round(scale(inside), DIGITS)
    return Width(inside=alone, extrapolated=max(alone, round(scale(extrapolated), DIGITS)), devices=len(own))


@dataclass(frozen=True)
class Judged:
    """Left-out devices under the interval that the other devices gave them. Shares and ln half widths by device."""

    covered: dict[str, float]
    half_widths: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]

    @property
    def coverage(self) -> float:
        return sum(self.covered.values()) / len(self.covered)

    def only(self, devices: Iterable[str]) -> Judged:
        kept = {d for d in devices if d in self.covered}
        return Judged(
            {d: v for d, v in self.covered.items() if d in kept},
            {d: v for d, v in self.half_widths.items() if d in kept},
            {d: v for d, v in self.errors.items() if d in kept},
        )


def judge(left_out: LeftOut, case: Case, classes: dict[str, DeviceClass]) -> Judged:
    import numpy as np

    known, extrapolated = case
    covered, half_widths, errors = {}, {}, {}
    for device, own in left_out.single[case].errors.items():
        inside, small = (left_out.paired[known, e][device] for e in (False, True))
        width = width_of(inside, small, classes, classes[device])
        scale = width.extrapolated if extrapolated else width.inside
        half_widths[device] = scale * left_out.single[case].deviations[device]
        covered[device] = float((np.abs(own) <= half_widths[device]).mean())
        errors[device] = own
    return Judged(covered, half_widths, errors)


# ---- ratios of two models on one device ----


def pair_errors(table: Table, errors: dict[str, np.ndarray], same_precision: bool, small: float) -> dict[str, Any]:
    """Differences of log errors between two models on one device, over pair_growth; the smaller up to `small` FLOPs.

    errors: of all rows of each device. One precision: different FLOPs, so that batch or model differ. Two precisions:
    one model against itself is a pair."""
    import numpy as np

    found = {}
    precision = np.array([r.precision for r in table.rows])
    for device, missed in errors.items():
        own = np.flatnonzero(table.device == device)
        flops_log, kind = np.log(table.flops[own]), precision[own]
        i, j = np.triu_indices(len(own), 1)
        same = kind[i] == kind[j]
        keep = same & (flops_log[i] != flops_log[j]) if same_precision else ~same
        keep &= np.minimum(flops_log[i], flops_log[j]) <= math.log(small)
        if keep.any():
            i, j = i[keep], j[keep]
            found[device] = (missed[i] - missed[j]) / pair_growth(abs(flops_log[i] - flops_log[j]))
    return found


def coverage(errors: dict[str, Any], level: float) -> float:
    """Mean share of a device's values within the interval that the other devices' values give."""
    shares = []
    for device, own in errors.items():
        width = device_quantile({d: e for d, e in errors.items() if d != device}, level)
        shares.append(float((abs(own) <= width).mean()))
    return sum(shares) / len(shares)


def pair_spread(
    table: Table, same_precision: bool, inside: dict[str, Any], small_left_out: dict[str, Any]
) -> PairSpread:
    errors = pair_errors(table, inside, same_precision, math.inf)
    small = pair_errors(table, small_left_out, same_precision, small_flops(table))
    half_width = device_quantile(errors, LEVEL)
    return PairSpread(
        half_width_log=round(half_width, DIGITS),
        extrapolated_half_width_log=round(max(half_width, device_quantile(small, LEVEL)), DIGITS),
        coverage=round(coverage(errors, LEVEL), DIGITS),
        pairs=sum(len(e) for e in errors.values()),
        devices=len(errors),
    )


def no_narrower(spread: PairSpread, than: PairSpread) -> PairSpread:
    """Two precisions cannot share more than one does: where few devices have both and it looks so, that is chance."""
    widest = {n: max(getattr(spread, n), getattr(than, n)) for n in ("half_width_log", "extrapolated_half_width_log")}
    return spread.model_copy(update=widest)


def all_rows_of_small_fit(table: Table) -> dict[str, Any]:
    """Errors of every row of each left-out device by the fit that saw no small model either."""
    small = small_flops(table)
    found = {}
    for device in table.devices:
        state = fit(table, (table.flops > small) & (table.device != device))
        result = tried(table, state, device, None, 0, 0)
        assert result is not None
        found[device] = result[0]
    return found


# ---- the shipped file ----


def pool_prior(table: Table, left_out: LeftOut) -> Pool:
    import numpy as np

    state = fit(table, table.flops > 0)
    flops = np.sort(table.flops)
    small = small_flops(table)
    profiles = [own[0].profile for own in by_device(table.rows).values()]
    inside = left_out.single["none", False]
    widths = {
        c: {k: width_of(left_out.single[k, False], left_out.single[k, True], table.classes, c) for k in get_args(Known)}
        for c in sorted(set(table.classes.values()))
    }
    spreads = [pair_spread(table, same, inside.errors, all_rows_of_small_fit(table)) for same in (True, False)]
    half = {d: widths[table.classes[d]]["none"].inside * s for d, s in inside.deviations.items()}
    return Pool(
        names=state.names,
        means=tuple(round(float(m), DIGITS) for m in state.mean),
        covariance=tuple(
            tuple(round(float(v), DIGITS) for v in state.covariance[i, : i + 1]) for i in range(len(state.names))
        ),
        widths=widths,
        half_width_log=round(device_quantile(half, 0.5), DIGITS),
        span_log=round(math.log(flops[flops > small][0] / flops[0]), DIGITS),
        min_flops=float(flops[0]),
        max_flops=float(flops[-1]),
        min_params=min(r.cost.num_params for r in table.rows),
        min_operators=min(r.cost.num_operators for r in table.rows),
        rows=len(table.rows),
        devices=len(profiles),
        classes=_counted(p.device_class for p in profiles),
        families=_counted(family_of(p) for p in profiles),
        same_precision=spreads[0],
        other_precision=no_narrower(spreads[1], spreads[0]),
    )


def _counted(names: Iterable[Any]) -> dict[Any, int]:
    counts: dict[Any, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def prior_of(tables: Sequence[Table], left_out: dict[PoolName, LeftOut]) -> Prior:
    rows, devices = sum(len(t.rows) for t in tables), sum(len(t.devices) for t in tables)
    provenance = (
        f"fitted on {rows} published rows of {devices} devices collected {COLLECTED}, sources named row by row in that "
        "table (published_latency.csv); ratios of two models on pairs of these rows that share a device; written by "
        "benchmarks/absent_devices.py"
    )
    return Prior(provenance=provenance, pools={t.pool: pool_prior(t, left_out[t.pool]) for t in tables})


# ---- baselines ----


def roofline_errors(table: Table) -> dict[str, np.ndarray]:
    """ln(published / datasheet roofline): the slower of arithmetic and bytes at full speed."""
    import numpy as np

    errors = np.array([math.log(r.published_ms / 1e3 / max(_roofline_s(r))) for r in table.rows])
    return {d: errors[table.device == d] for d in table.devices}


def _roofline_s(row: Row) -> tuple[float, float]:
    cores, bandwidth = row.profile.facts.cores, row.profile.facts.memory_bandwidth_gb_per_s
    assert cores is not None
    assert bandwidth is not None
    share = row.cores / cores.value if row.cores else 1.0
    moved = (row.cost.weight_bytes + row.cost.activation_bytes) * SHARE_OF_FP32_BYTES[row.precision]
    return row.cost.flops / (usable_peak(row.profile, row.precision)[1] * share), moved / (bandwidth.value * 1e9)


def nearest_device_errors(table: Table, same_model: bool) -> dict[str, np.ndarray]:
    """ln(published / nearest): the row of the nearest other device (ln peak and bandwidth) that is nearest in FLOPs, of
    the same precision where there is one, scaled by the ratio of FLOPs over the ratio of peaks.

    same_model: rows of the very network count too, which nobody has published of a student that is not built yet."""
    import numpy as np

    own = by_device(table.rows)
    found: dict[str, list[float]] = {device: [] for device in own}
    for row in table.rows:
        others = [r for r in table.rows if r.device != row.device and (same_model or r.model != row.model)]
        near = min(others, key=lambda r: math.dist(_speed(row), _speed(r))).device
        found[row.device].append(_scaled_error(row, [r for r in others if r.device == near]))
    return {device: np.array(errors) for device, errors in found.items()}


def _speed(row: Row) -> tuple[float, float]:
    peak, bandwidth = row.profile.facts.peak_fp32_tflops, row.profile.facts.memory_bandwidth_gb_per_s
    assert peak is not None
    assert bandwidth is not None
    return math.log(peak.value), math.log(bandwidth.value)


def _scaled_error(row: Row, candidates: Sequence[Row]) -> float:
    def distance(other: Row) -> tuple[bool, float]:
        return other.precision != row.precision, abs(math.log(other.cost.flops / row.cost.flops))

    other = min(candidates, key=distance)
    return math.log(row.published_ms / (other.published_ms * _roofline_s(row)[0] / _roofline_s(other)[0]))


# ---- report ----


def report(
    published: Published, tables: Sequence[Table], left_out: dict[PoolName, LeftOut], prior: Prior, log: Log
) -> dict[str, Any]:
    """The document. Shares from 0 to 1; half widths as factors."""
    figures: dict[str, Any] = {
        "rows": len(published.rows),
        "rows_left_out": published.left_out,
        "not_fitted": "throughput; a batch is counted as a run with more work, not as a setting of its own",
        "buckets": [],
    }
    baselines: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    for table in tables:
        judged = {case: judge(left_out[table.pool], case, table.classes) for case in CASES}
        figures[table.pool] = {
            "devices": len(table.devices),
            "rows": len(table.rows),
            "pooled": pooled_words(prior.pools[table.pool]),
            "median_log_error": device_quantile(judged["none", False].errors, 0.5),
            "small_up_to_flops": small_flops(table),
        }
        for case, result in judged.items():
            figures["buckets"] += buckets(table, case, result)
            bars += bars_of(table.pool, case, result)
        pool = prior.pools[table.pool]
        for kind, spread in (("same", pool.same_precision), ("other", pool.other_precision)):
            bars.append(coverage_bar(f"{table.pool}_{kind}_precision_ratio_coverage", spread.coverage))
        baselines[table.pool] = {
            f"{name}_median_log_error": device_quantile(errors, 0.5)
            for name, errors in (
                ("roofline", roofline_errors(table)),
                ("nearest_device_by_peak_same_network", nearest_device_errors(table, same_model=True)),
                ("nearest_device_by_peak_other_network", nearest_device_errors(table, same_model=False)),
            )
        }
    for line in bucket_lines(figures["buckets"]):
        log(line)
    shipped = Prior.model_validate(read_json(PRIOR_FILE))
    same = shipped_agrees(shipped, prior)
    bars.append({"name": "shipped_coefficients_are_of_these_rows", "value": float(same), "floor": 1.0, "passed": same})
    return {"figures": figures, "baselines": baselines, "bars": bars, "environment": environment()}


def shipped_agrees(shipped: Prior, fitted: Prior) -> bool:
    """Are the coefficients in the package those of this fit, to two digits more than their spread?"""
    return all(
        shipped.pools[name].names == pool.names
        and all(abs(a - b) <= 0.002 for a, b in zip(shipped.pools[name].means, pool.means, strict=True))
        for name, pool in fitted.pools.items()
    )


def pooled_words(pool: Pool) -> str:
    few = [f"{count} {name}" for name, count in pool.classes.items() if count < FEWEST_DEVICES]
    alone = [f"{count} {name}" for name, count in pool.classes.items() if count >= FEWEST_DEVICES]
    words = f"{' and '.join(few)} devices are fewer than {FEWEST_DEVICES} and pooled"
    return words + (f" with {' and '.join(alone)}, which has its own interval" if alone else "")


def buckets(table: Table, case: Case, judged: Judged) -> list[dict[str, Any]]:
    """The pool, and each of its classes under the pool's interval."""
    classes = table.classes
    groups: list[tuple[str, list[str]]] = [(table.pool, table.devices)]
    groups += [(c, [d for d in table.devices if classes[d] == c]) for c in sorted(set(classes.values()))]
    found = []
    for name, devices in groups:
        part = judged.only(devices)
        if part.covered:
            found.append(
                {
                    "class": name,
                    "known_rows": KNOWN_ROWS[case[0]],
                    "extrapolated": case[1],
                    "devices": len(part.covered),
                    "coverage": part.coverage,
                    "median_half_width": math.exp(device_quantile(part.half_widths, 0.5)),
                    "median_log_error": device_quantile(part.errors, 0.5),
                }
            )
    return found


def bars_of(pool: PoolName, case: Case, judged: Judged) -> list[dict[str, Any]]:
    known, extrapolated = case
    name = f"{pool}_{KNOWN_ROWS[known]}_known" + ("_extrapolated" if extrapolated else "")
    value = judged.coverage
    if extrapolated:
        bar = {"name": f"{name}_coverage", "value": value, "floor": EXTRAPOLATED_COVERAGE}
        return [{**bar, "passed": value >= EXTRAPOLATED_COVERAGE}]
    width, ceiling = math.exp(device_quantile(judged.half_widths, 0.5)), HALF_WIDTH[pool][known]
    return [
        coverage_bar(f"{name}_coverage", value),
        {"name": f"{name}_median_half_width", "value": width, "ceiling": ceiling, "passed": width <= ceiling},
    ]


def coverage_bar(name: str, value: float) -> dict[str, Any]:
    low, high = COVERAGE
    return {"name": name, "value": value, "floor": low, "ceiling": high, "passed": low <= value <= high}


def bucket_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'class':16}{'known':>6}{'extrapolated':>14}{'devices':>9}{'coverage':>10}"
        f"{'half width':>12}{'|ln error|':>12}"
    ]
    for b in found:
        extrapolated = "yes" if b["extrapolated"] else "no"
        lines.append(
            f"{b['class']:16}{b['known_rows']:>6}{extrapolated:>14}{b['devices']:>9}{b['coverage']:>10.3f}"
            f"{'x' + format(b['median_half_width'], '.2f'):>12}{b['median_log_error']:>12.3f}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with published_latency.csv and devices.csv")
    parser.add_argument("--fit", action="store_true", help="write the coefficients that the package ships")
    parser.add_argument("--seed", type=int, default=0, help="of the rows that are given back")
    parser.add_argument("--quick", action="store_true", help="4 draws of known rows, result not written")
    options = parser.parse_args(arguments)
    folder = options.data or shared_folder() / "data" / "hardware"

    def log(line: str) -> None:
        print(line, file=sys.stderr)

    try:
        published = read_rows(folder)
    except OSError as e:
        log(f"{e.filename}: {e.strerror}; name the folder of the two tables with --data")
        return 2
    tables = [table_of(pool, published.rows) for pool in get_args(PoolName)]
    left_out = {t.pool: leave_out(t, options.seed, 4 if options.quick else DRAWS, log) for t in tables}
    prior = prior_of(tables, left_out)
    if options.fit:
        write_json(PRIOR_FILE, prior)
    document = report(published, tables, left_out, prior, log)
    if not options.quick:
        write_result(NAME, document)
    print(json.dumps(document, indent=1))
    return 0 if all(bar["passed"] for bar in document["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())
