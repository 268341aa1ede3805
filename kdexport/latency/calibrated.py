"""The latency of a student on this machine before it exists: small graphs are timed, a model of them is asked.

`calibrate` times untrained graphs that span every backbone's sizes and shapes, whatever the project. `estimates` fits
`physics` to them, one sum a backbone, and gives each estimate the 90 % interval of graphs left out (split-conformal,
Vovk et al. 2005, each graph weighing the same however many shapes it was timed at)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING

from kdexport.backbones import InputShape, backbone_of, parse_spec
from kdexport.errors import BadInput, MissingPackage
from kdexport.latency import physics, spending, timing
from kdexport.latency.estimates import Estimates
from kdexport.latency.spending import InputKind
from kdexport.latency.timing import OpenGraph
from kdexport.measure.environment import fingerprint
from kdexport.nouns.calibration import Calibration, TimedPoint
from kdexport.nouns.measurement import Environment
from kdexport.nouns.profile import Precision
from kdexport.nouns.spec import StudentSpec
from kdexport.runtimes import distribution, load_runtime
from kdexport.storage.files import content_key

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
MODEL = "calibrated on this machine"
Progress = Callable[[int, int, str], None]  # seconds spent, seconds allowed, what was timed

TAIL_SHARE = 0.05  # of the time: one input again and again
TAIL_SHAPES, TAIL_NEAR_MS = 3, 0.5
TAIL_PERCENTILES = (90, 95, 99, 99.9)
LEAST_SHARE = 0.7  # of the time is for graphs, however long the libraries take to load

COVERAGE = 0.9
FOLDS = 10
END_SHARE = 0.7  # of a graph's sizes at an end of the range: it marks the range, and stays in every fold
FEWEST_GRAPHS, ENOUGH_GRAPHS = 4, 16  # of a backbone, to fit it alone; and to learn speeds that change with size
MIN_HALF_WIDTH = 0.02  # of ln: no interval is narrower than the agreement of two visits
TRUSTED_SPREAD, MIN_TRUSTED_SHARE = 0.02, 0.3
POOLED_HALF_WIDTH = 0.7  # at least, of ln, for a backbone that was never timed: a factor of two
OUTSIDE_HALF_WIDTH = 0.1  # of ln, added for each factor of e outside the range that was timed: assumed
FARTHER = 4.0  # a run of this many times the most multiply-adds timed is outside the range


def calibrate(
    runtime: str,
    precision: Precision,
    environment: Environment,
    max_seconds: float,
    input_kinds: Sequence[InputKind] = ("text", "image"),
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Time as many graphs as fit into max_seconds, all backbones of the input kinds in turn, the costly ones as long.

    Every graph stays open and is visited again after all others, so that a slow spell of the machine is seen as one.
    Raises MissingPackage where the runtime is not installed."""
    started = monotonic()
    version = version_of(runtime)
    tell = progress or (lambda done, allowed, what: None)

    def report(what: str) -> None:
        tell(min(int(monotonic() - started), int(max_seconds)), int(max_seconds), what)

    report("loads the runtime")
    queues = spending.queues_of(input_kinds, seed, max_seconds)
    small = spending.smallest(queues[0].backbone)
    timing.open_graph(small, runtime, precision, environment.threads)
    end = max(started + max_seconds, monotonic() + LEAST_SHARE * max_seconds)
    deadline = end - TAIL_SHARE * max_seconds
    dear = spending.dear_of(small, runtime, precision, environment.threads, max_seconds)
    hurried = max_seconds <= spending.HURRY_SECONDS
    graphs = spending.open_graphs(queues, dear, runtime, precision, environment.threads, deadline, hurried, report)
    spending.visit_again(graphs, deadline, report)
    points = [point for graph in graphs for point in _points(graph)]
    tail = _tail(graphs, max_seconds * TAIL_SHARE)
    found = Calibration(
        fingerprint=fingerprint(environment),
        environment=environment.id,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        runtime=runtime,
        version=version,
        precision=precision,
        threads=environment.threads,
        points=tuple(points),
        noise=_noise(graphs),
        tail=tail,
        seconds=monotonic() - started,
    )
    log.info("calibrated=%s graphs=%d points=%d seconds=%.1f", found.cell, len(graphs), len(points), found.seconds)
    return found


def version_of(runtime: str) -> str:
    """Of the runtime's package. Raises MissingPackage where none provides it."""
    found = distribution(runtime)
    if found is None:
        raise MissingPackage(
            f"{runtime} is not installed: {load_runtime(runtime).missing() or 'no package provides it'}"
        )
    return found[1]


def _points(graph: OpenGraph) -> Iterator[TimedPoint]:
    for shape, visits in zip(graph.planned.shapes, graph.visits, strict=True):
        yield TimedPoint(
            spec=graph.planned.spec.model_dump(),
            num_classes=graph.planned.num_classes,
            shape=shape,
            p50_ms=timing.quiet_median_ms(visits),
            spread=timing.spread(visits),
            n=sum(len(block) for block in visits),
        )


def _noise(graphs: Sequence[OpenGraph]) -> float:
    """Median relative difference of the first two visits of a shape."""
    pairs = [(median(v[0]), median(v[1])) for graph in graphs for v in graph.visits if len(v) > 1]
    return median(abs(a - b) / min(a, b) for a, b in pairs) if pairs else 0.0


def _tail(graphs: Sequence[OpenGraph], max_seconds: float) -> dict[str, float]:
    """Percentiles over the median of single runs of a few inputs, back to back; slow spells are part of it."""
    timed = [(g, i, timing.quiet_median_ms(visits)) for g in graphs for i, visits in enumerate(g.visits)]
    typical = sorted(timed, key=lambda t: abs(math.log(t[2] / TAIL_NEAR_MS)))[:TAIL_SHAPES]
    ratios: list[float] = []
    for graph, shape, p50_ms in typical:
        timing.warm(graph.engine, graph.feeds[shape], at_least=2)
        share_s = max_seconds / len(typical)
        samples_ms = timing.time_runs(graph.engine, graph.feeds[shape], int(share_s / p50_ms * 1e3) + 2, share_s)
        middle_ms = median(samples_ms)
        ratios += [ms / middle_ms for ms in samples_ms]
    return tail_of(ratios)


def tail_of(samples: Sequence[float]) -> dict[str, float]:
    """TAIL_PERCENTILES over the median."""
    import numpy as np

    middle = median(samples)
    return {f"{p:g}": max(1.0, float(np.quantile(samples, p / 100)) / middle) for p in TAIL_PERCENTILES}


# --- the model


@dataclass(frozen=True, eq=False)
class Fitted:
    """One backbone's sum, how far it misses graphs left out, and the range it was timed in."""

    law: physics.Physics
    half_width_log: float
    lowest: np.ndarray
    highest: np.ndarray
    most_flops: float
    graphs: int
    quantities: physics.Quantities


@dataclass(frozen=True, eq=False)
class Model:
    """backbones: those timed. pooled: of what every backbone's cost tells, for those that were not."""

    backbones: dict[str, Fitted]
    pooled: Fitted


def estimates(calibration: Calibration, specs: Sequence[StudentSpec], num_classes: int, shape: InputShape) -> Estimates:
    """Median of one run of each of N students at one shape, model alone, with its 90 % interval."""
    return estimates_at(calibration, specs, num_classes, [shape] * len(specs))


def estimates_at(
    calibration: Calibration, specs: Sequence[StudentSpec], num_classes: int, shapes: Sequence[InputShape]
) -> Estimates:
    """The same, each student at its own shape: len(specs) == len(shapes)."""
    import numpy as np

    model = _model(calibration)
    p50_ms, half_width_log = np.empty(len(specs)), np.empty(len(specs))
    extrapolated = np.zeros(len(specs), bool)
    by_backbone: dict[str, list[int]] = {}
    for index, spec in enumerate(specs):
        by_backbone.setdefault(spec.backbone, []).append(index)
    for name, members in by_backbone.items():
        fitted = model.backbones.get(name, model.pooled)
        mine, at = [specs[i] for i in members], [shapes[i] for i in members]
        found = physics.quantities(mine, [num_classes] * len(mine), at)
        p50_ms[members] = np.maximum(fitted.law.predict_ms(found), 1e-6)
        distance = _distance_log(fitted, _sizes(mine, [num_classes] * len(mine), at), found["flops"])
        extrapolated[members] = (distance > 0) | (fitted is model.pooled)
        half_width_log[members] = fitted.half_width_log * (1 + distance) + OUTSIDE_HALF_WIDTH * distance
    factor = np.exp(half_width_log)
    return Estimates(
        p50_ms=p50_ms,
        low_ms=p50_ms / factor,
        high_ms=p50_ms * factor,
        extrapolated=extrapolated,
        model=MODEL,
        basis=f"{len(calibration.points)} timed points, {calibration.runtime} {calibration.precision}, "
        f"{calibration.threads} thread{'s' if calibration.threads > 1 else ''}; 90 % interval of graphs left out",
    )


def half_widths(calibration: Calibration) -> dict[str, float]:
    """By backbone: half the width of the 90 % interval of ln latency, from graphs left out."""
    model = _model(calibration)
    return {name: fitted.half_width_log for name, fitted in model.backbones.items()}


@dataclass(frozen=True)
class _Keyed:
    """A calibration that equals another of the same points: fitted once."""

    key: str
    calibration: Calibration = field(compare=False)


def _model(calibration: Calibration) -> Model:
    return _fit(_Keyed(content_key(calibration.points), calibration))


@lru_cache(maxsize=32)
def _fit(keyed: _Keyed) -> Model:
    """Raises BadInput for a calibration without points."""
    points = keyed.calibration.points
    if not points:
        raise BadInput(f"the calibration of {keyed.calibration.cell} has no points; run `kdexport profiles calibrate`")
    specs = {id(p): parse_spec(p.spec) for p in points}
    by_backbone: dict[str, list[TimedPoint]] = {}
    for point in points:
        by_backbone.setdefault(specs[id(point)].backbone, []).append(point)
    fitted, common = {}, []
    for name, mine in by_backbone.items():
        alone = _fit_points(mine, [specs[id(p)] for p in mine])
        common.append(alone.quantities)
        if alone.graphs >= FEWEST_GRAPHS:
            fitted[name] = alone
    return Model(fitted, _pool(list(by_backbone.values()), common))


def _fit_points(points: Sequence[TimedPoint], specs: Sequence[StudentSpec]) -> Fitted:
    import numpy as np

    shapes, classes = [p.shape for p in points], [p.num_classes for p in points]
    found = physics.quantities(specs, classes, shapes)
    median_ms = np.array([p.p50_ms for p in points])
    groups = _numbered([content_key(p.spec, p.num_classes) for p in points])
    sizes = _sizes(specs, classes, shapes)
    of_spec = sizes[:, : -len(RUN_SIZES)]
    ends = ((of_spec == of_spec.min(0)) | (of_spec == of_spec.max(0))).mean(1) > END_SHARE
    law, width = _best_law(found, median_ms, groups, _trusted(points), ends)
    return Fitted(
        law=law,
        half_width_log=max(MIN_HALF_WIDTH, width),
        lowest=sizes.min(0),
        highest=sizes.max(0),
        most_flops=float(found["flops"].max()),
        graphs=int(groups.max()) + 1,
        quantities=found,
    )


def _pool(points: Sequence[Sequence[TimedPoint]], found: Sequence[physics.Quantities]) -> Fitted:
    """All backbones in one sum of what any backbone tells; its interval is that of backbones left out."""
    import numpy as np

    together = {name: np.concatenate([q[name] for q in found]) for name in physics.COMMON}
    median_ms = np.array([p.p50_ms for mine in points for p in mine])
    backbones = np.repeat(np.arange(len(points)), [len(mine) for mine in points])
    trusted = _trusted([p for mine in points for p in mine])
    none = np.zeros(len(median_ms), bool)
    width = _left_out_quantile(together, median_ms, backbones, trusted, none, ()) if len(points) > 1 else 0.0
    return Fitted(
        law=physics.fit(together, median_ms, ()),
        half_width_log=max(POOLED_HALF_WIDTH, width),
        lowest=np.empty(0),
        highest=np.empty(0),
        most_flops=float(together["flops"].max()),
        graphs=0,
        quantities=together,
    )


def _best_law(
    found: physics.Quantities, median_ms: np.ndarray, groups: np.ndarray, trusted: np.ndarray, ends: np.ndarray
) -> tuple[physics.Physics, float]:
    """The fitted sum and its left-out quantile. Of few graphs the sum that misses graphs left out by least, and a wider
    quantile by as much as graphs are missing: few errors say little about the next."""
    number = int(groups.max()) + 1
    common = {name: found[name] for name in physics.COMMON}
    kinds = [(found, physics.BENT), (found, ()), (common, ())]
    tried = [
        (_left_out_quantile(some, median_ms, groups, trusted, ends, bent), some, bent)
        for some, bent in (kinds if number < ENOUGH_GRAPHS else kinds[:1])
    ]
    width, some, bent = min(tried, key=lambda kind: kind[0])
    return physics.fit(some, median_ms, bent), width * max(1.0, ENOUGH_GRAPHS / number)


def _trusted(points: Sequence[TimedPoint]) -> np.ndarray:
    """(N,) bool: visits that agree, so that what a model misses is the model's. All, where they are few."""
    import numpy as np

    trusted = np.array([p.spread <= TRUSTED_SPREAD for p in points])
    return trusted if trusted.mean() > MIN_TRUSTED_SHARE else np.ones(len(points), bool)


def _left_out_quantile(
    found: physics.Quantities,
    median_ms: np.ndarray,
    groups: np.ndarray,
    trusted: np.ndarray,
    kept: np.ndarray,
    bent: Sequence[str] = physics.BENT,
) -> float:
    """COVERAGE quantile of |ln(predicted / timed)| of points whose group was left out, each group weighing the same.

    kept, trusted: (N,) bool; points that are never left out, and those whose error counts."""
    import numpy as np

    number = int(groups.max()) + 1
    errors = np.full(len(median_ms), np.nan)
    for fold in range(min(FOLDS, number)):
        out = (groups % FOLDS == fold) & ~kept
        if out.any() and not out.all():
            law = physics.fit({n: v[~out] for n, v in found.items()}, median_ms[~out], bent)
            predicted = law.predict_ms({n: v[out] for n, v in found.items()})
            errors[out] = np.abs(np.log(np.maximum(predicted, 1e-6) / median_ms[out]))
    counted = trusted & np.isfinite(errors)
    if not counted.any():
        return POOLED_HALF_WIDTH
    errors, groups = errors[counted], groups[counted]
    weights = 1.0 / np.bincount(groups)[groups]
    order = np.argsort(errors)
    reached = np.cumsum(weights[order]) / weights.sum()
    # Half of split-conformal's correction for n graphs, (n + 1) / n: the other half is there already, since a law that
    # saw a tenth of the graphs less misses by more than the one that is used.
    wanted = min(1.0, COVERAGE * (1 + 0.5 / len(np.unique(groups))))
    return float(errors[order][min(int(np.searchsorted(reached, wanted)), len(order) - 1)])


def _numbered(keys: Sequence[str]) -> np.ndarray:
    import numpy as np

    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])


RUN_SIZES = ("classes", "batch", "extent")


def _sizes(specs: Sequence[StudentSpec], num_classes: Sequence[int], shapes: Sequence[InputShape]) -> np.ndarray:
    """(N, K) ln of what spans the range: the spec's sizes, then RUN_SIZES (extent: tokens read or a picture's side)."""
    import numpy as np

    names = [name for name in backbone_of(specs[0]).SIZE_FIELDS if name != "max_length"]
    rows = [
        [*(getattr(spec, name) for name in names), classes, shape.batch, _extent(spec, shape)]
        for spec, classes, shape in zip(specs, num_classes, shapes, strict=True)
    ]
    return np.asarray(np.log(np.maximum(np.array(rows, float), 0.5)))


def _extent(spec: StudentSpec, shape: InputShape) -> float:
    if shape.tokens:
        return float(min(shape.tokens, getattr(spec, "max_length", shape.tokens)))
    return float((shape.height * shape.width) ** 0.5)


def _distance_log(fitted: Fitted, sizes: np.ndarray, flops: np.ndarray) -> np.ndarray:
    """(N,) how far outside the timed range, in ln, summed over the sizes; 0 inside."""
    import numpy as np

    beyond = np.log(np.maximum(flops, 1.0) / (FARTHER * fitted.most_flops))
    if not len(fitted.lowest):
        return np.asarray(np.maximum(beyond, 0.0))
    outside = np.maximum(sizes - fitted.highest, 0.0) + np.maximum(fitted.lowest - sizes, 0.0)
    return np.asarray(outside.sum(1) + np.maximum(beyond, 0.0))
