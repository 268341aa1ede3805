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
from itertools import islice
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING, Literal

from kdexport import registry
from kdexport.backbones import Backbone, InputShape, backbone_of, parse_spec
from kdexport.errors import BadInput, MissingPackage
from kdexport.latency import grid, physics, timing
from kdexport.latency.estimates import Estimates
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
InputKind = Literal["text", "image"]
Progress = Callable[[int, int, str], None]  # seconds spent, seconds allowed, what was timed

SHAPES: dict[InputKind, int] = {"text": 8, "image": 4}  # of one graph; a picture's side is the graph's
FEW_SHAPES: dict[InputKind, int] = {"text": 5, "image": 3}  # in a hurry: graphs tell more than shapes
HURRY_SECONDS, HURRIED_VISITS = 30.0, 0.6
TAIL_SHARE = 0.05  # of the time: one input again and again
TAIL_SHAPES, TAIL_NEAR_MS = 3, 0.5
TAIL_PERCENTILES = (90, 95, 99, 99.9)
LATER_VISITS = 1.5  # time kept for all later visits over that of the first ones: about three, warm-up is shorter
LEAST_SHARE = 0.7  # of the time is for graphs, however long the libraries take to load
FIRST_GRAPHS = 4
DEAR_PARAMS_PER_S = 0.5e6  # of the time: a graph of more takes too much of it to be written and opened
DEAR_SHARE = 1 / 1500  # of the time: a run that takes longer is timed at a smaller batch, or not at all
MATMUL_SIZE = 256  # micro-benchmark that says how long a run will take, before any was timed
SPREAD_SPEED = 0.5  # of that speed, whole graphs

COVERAGE = 0.9
FOLDS = 10
END_SHARE = 0.7  # of a graph's sizes at an end of the range: it marks the range, and stays in every fold
FEWEST_GRAPHS = 4  # of a backbone, to fit it alone
MIN_HALF_WIDTH = 0.02  # of ln: no interval is narrower than the agreement of two visits
TRUSTED_SPREAD, MIN_TRUSTED_SHARE = 0.02, 0.3
POOLED_HALF_WIDTH = 0.7  # at least, of ln, for a backbone that was never timed: a factor of two
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
    queues = _queues(input_kinds, seed, max_seconds)
    timing.open_graph(_smallest(queues[0].backbone), runtime, precision, environment.threads)
    end = max(started + max_seconds, monotonic() + LEAST_SHARE * max_seconds)
    deadline = end - TAIL_SHARE * max_seconds
    graphs = _open_graphs(queues, runtime, precision, environment.threads, deadline, max_seconds, report)
    _visit_again(graphs, deadline, report)
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


def _open_graphs(
    queues: Sequence[_Queue],
    runtime: str,
    precision: Precision,
    threads: int,
    deadline: float,
    max_seconds: float,
    report: Callable[[str], None],
) -> list[OpenGraph]:
    """Open and time graphs until what is left of the time is needed to time all of them once more."""
    dear_flops = max_seconds * DEAR_SHARE * SPREAD_SPEED * matmul_flops_per_s()
    dear_params = max_seconds * DEAR_PARAMS_PER_S
    later_visits = HURRIED_VISITS if max_seconds <= HURRY_SECONDS else LATER_VISITS
    opened: list[OpenGraph] = []
    visiting_s = 0.0
    while True:
        queue = min(queues, key=lambda q: q.spent_s / q.weight)
        if opened and monotonic() + later_visits * visiting_s + queue.spent_s / max(queue.opened, 1) > deadline:
            return opened
        begin = monotonic()
        graph = timing.open_graph(_affordable(queue, dear_flops, dear_params), runtime, precision, threads)
        opening = monotonic()
        graph.visit()
        now = monotonic()
        queue.spent_s += now - begin
        queue.opened += 1
        visiting_s += now - opening
        opened.append(graph)
        report(f"{len(opened)} graphs")


@dataclass
class _Queue:
    """The graphs of one backbone, and the time they took."""

    backbone: Backbone
    planned: Iterator[grid.PlannedGraph]
    weight: float
    spent_s: float = 0.0
    opened: int = 0


def _queues(input_kinds: Sequence[InputKind], seed: int, max_seconds: float) -> list[_Queue]:
    shapes = FEW_SHAPES if max_seconds <= HURRY_SECONDS else SHAPES
    return [_Queue(b, grid.planned(b, shapes[b.input_kind], seed), _weight(b)) for b in _backbones(input_kinds)]


def _smallest(backbone: Backbone) -> grid.PlannedGraph:
    """A graph that opens at once: what takes long is loading the libraries."""
    first = islice(grid.planned(backbone, 1, seed=0), FIRST_GRAPHS)
    return min(first, key=lambda p: backbone.cost(p.spec, p.num_classes, p.shapes[0]).num_params)


def _backbones(input_kinds: Sequence[InputKind]) -> list[Backbone]:
    found = [registry.load("backbones", name) for name in registry.names("backbones")]
    return [b for b in found if b.input_kind in input_kinds]  # type: ignore[misc]


def _weight(backbone: Backbone) -> int:
    """A backbone gets time by the pairs of sizes that it has: more of them take more graphs to span."""
    return len(backbone.SIZE_FIELDS) ** 2


def _affordable(queue: _Queue, dear_flops: float, dear_params: float) -> grid.PlannedGraph:
    """The next graph, its dear shapes at a smaller batch or left out; a dear one, or with no shape left, is skipped."""
    while True:
        planned = next(queue.planned)
        shapes = []
        for shape in planned.shapes:
            cost = queue.backbone.cost(planned.spec, planned.num_classes, shape)
            batch = max(1, int(shape.batch * min(1.0, dear_flops / cost.flops)))
            if cost.flops * batch / shape.batch <= dear_flops and cost.num_params <= dear_params:
                shapes.append(shape.model_copy(update={"batch": batch}))
        if shapes:
            return grid.PlannedGraph(planned.spec, planned.num_classes, tuple(dict.fromkeys(shapes)))


def matmul_flops_per_s() -> float:
    """Of one fp32 matrix product of a size that every machine reaches its speed at."""
    import numpy as np

    square = np.ones((MATMUL_SIZE, MATMUL_SIZE), np.float32)
    seconds = []
    for _ in range(5):
        begin = monotonic()
        square @ square
        seconds.append(monotonic() - begin)
    return 2.0 * MATMUL_SIZE**3 / max(min(seconds), 1e-6)


def _visit_again(graphs: Sequence[OpenGraph], deadline: float, report: Callable[[str], None]) -> None:
    """Round after round over the shapes whose two quickest visits differ, until all agree or the time is over."""
    while True:
        left = [graph for graph in graphs if not graph.settled()]
        for graph in left:
            if monotonic() > deadline:
                return
            graph.visit()
            report(f"{len(graphs)} graphs, {len(left)} again")
        if not left or max(len(blocks) for graph in left for blocks in graph.visits) >= timing.MOST_VISITS:
            return


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
        half_width_log[members] = fitted.half_width_log * (1 + distance)
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
    return Fitted(
        law=physics.fit(found, median_ms),
        half_width_log=max(MIN_HALF_WIDTH, _left_out_quantile(found, median_ms, groups, _trusted(points), ends)),
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
    width = _left_out_quantile(together, median_ms, backbones, trusted, none) if len(points) > 1 else 0.0
    return Fitted(
        law=physics.fit(together, median_ms),
        half_width_log=max(POOLED_HALF_WIDTH, width),
        lowest=np.empty(0),
        highest=np.empty(0),
        most_flops=float(together["flops"].max()),
        graphs=0,
        quantities=together,
    )


def _trusted(points: Sequence[TimedPoint]) -> np.ndarray:
    """(N,) bool: visits that agree, so that what a model misses is the model's. All, where they are few."""
    import numpy as np

    trusted = np.array([p.spread <= TRUSTED_SPREAD for p in points])
    return trusted if trusted.mean() > MIN_TRUSTED_SHARE else np.ones(len(points), bool)


def _left_out_quantile(
    found: physics.Quantities, median_ms: np.ndarray, groups: np.ndarray, trusted: np.ndarray, kept: np.ndarray
) -> float:
    """COVERAGE quantile of |ln(predicted / timed)| of points whose group was left out, each group weighing the same.

    kept, trusted: (N,) bool; points that are never left out, and those whose error counts."""
    import numpy as np

    number = int(groups.max()) + 1
    errors = np.full(len(median_ms), np.nan)
    for fold in range(min(FOLDS, number)):
        out = (groups % FOLDS == fold) & ~kept
        if out.any() and not out.all():
            law = physics.fit({n: v[~out] for n, v in found.items()}, median_ms[~out])
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
