"""How the time of a calibration is spent: which graphs are opened, and how often each is visited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Literal, cast

from kdexport import registry
from kdexport.backbones import Backbone, backbone_of
from kdexport.latency import grid, timing
from kdexport.latency.timing import OpenGraph
from kdexport.nouns.profile import Precision

InputKind = Literal["text", "image"]
Report = Callable[[str], None]

SHAPES: dict[InputKind, int] = {"text": 8, "image": 4}  # of one graph; a picture's side is the graph's
LATER_VISITS = 1.5  # time kept for all later visits over that of the first ones: about three, warm-up is shorter
# In a hurry, up to so many seconds: fewer shapes and visits, since graphs tell more than either.
HURRY_SECONDS = 30.0
FEW_SHAPES: dict[InputKind, int] = {"text": 5, "image": 3}
HURRIED_VISITS = 0.6
# Too dear is, as a share of the time,
DEAR_RUN_SHARE = 1 / 1500  # a run: timed at a smaller batch, or not at all
DEAR_OPENING_SHARE = 0.08  # a graph's operators to be quantised and opened
DEAR_PARAMS_PER_S = 0.5e6  # a graph's parameters to be written
MOST_SKIPPED = 64  # graphs in a row that are too dear: then the cheapest of them is timed after all
FIRST_GRAPHS = 4
MATMUL_SIZE = 256  # every machine reaches its speed at it
SHARE_OF_MATMUL_SPEED = 0.5  # of whole graphs


def open_graphs(
    queues: Sequence[Queue],
    dear: Dear,
    runtime: str,
    precision: Precision,
    threads: int,
    deadline: float,
    hurried: bool,
    report: Report,
) -> list[OpenGraph]:
    """Open and time graphs until what is left of the time is needed to time all of them once more."""
    later_visits = HURRIED_VISITS if hurried else LATER_VISITS
    opened: list[OpenGraph] = []
    visiting_s = 0.0
    while True:
        queue = min(queues, key=lambda q: q.spent_s / q.weight)
        if opened and monotonic() + later_visits * visiting_s + queue.spent_s / max(queue.opened, 1) > deadline:
            return opened
        begin = monotonic()
        graph = timing.open_graph(affordable(queue, dear), runtime, precision, threads)
        opening = monotonic()
        graph.visit()
        now = monotonic()
        queue.spent_s += now - begin
        queue.opened += 1
        visiting_s += now - opening
        opened.append(graph)
        report(f"{len(opened)} graphs")


@dataclass
class Queue:
    """The graphs of one backbone, and the time they took."""

    backbone: Backbone
    planned: Iterator[grid.PlannedGraph]
    weight: float
    spent_s: float = 0.0
    opened: int = 0


def queues_of(input_kinds: Sequence[InputKind], seed: int, max_seconds: float) -> list[Queue]:
    shapes = FEW_SHAPES if max_seconds <= HURRY_SECONDS else SHAPES
    return [Queue(b, grid.planned(b, shapes[b.input_kind], seed), _weight(b)) for b in _backbones(input_kinds)]


def smallest(backbone: Backbone) -> grid.PlannedGraph:
    """A graph that opens at once: what takes long is loading the libraries."""
    first = islice(grid.planned(backbone, 1, seed=0), FIRST_GRAPHS)
    return min(first, key=lambda p: backbone.cost(p.spec, p.num_classes, p.shapes[0]).num_params)


def _backbones(input_kinds: Sequence[InputKind]) -> list[Backbone]:
    found = [cast(Backbone, registry.load("backbones", name)) for name in registry.names("backbones")]
    return [backbone for backbone in found if backbone.input_kind in input_kinds]


def _weight(backbone: Backbone) -> int:
    """A backbone gets time by the pairs of sizes that it has: more of them take more graphs to span."""
    return len(backbone.SIZE_FIELDS) ** 2


@dataclass(frozen=True)
class Dear:
    """What of one run, and of one graph, would take too much of the time."""

    flops: float
    params: float
    operators: float


def dear_of(small: grid.PlannedGraph, runtime: str, precision: Precision, threads: int, max_seconds: float) -> Dear:
    """From two micro-benchmarks: a matrix product, and opening a small graph once more."""
    begin = monotonic()
    timing.open_graph(small, runtime, precision, threads)
    cost = backbone_of(small.spec).cost(small.spec, small.num_classes, small.shapes[0])
    seconds_per_operator = (monotonic() - begin) / cost.num_operators
    return Dear(
        flops=max_seconds * DEAR_RUN_SHARE * SHARE_OF_MATMUL_SPEED * matmul_flops_per_s(),
        params=max_seconds * DEAR_PARAMS_PER_S,
        operators=max_seconds * DEAR_OPENING_SHARE / seconds_per_operator,
    )


def affordable(queue: Queue, dear: Dear) -> grid.PlannedGraph:
    """The next graph, its dear shapes at a smaller batch or left out; a dear one, or with no shape left, is skipped."""
    cheapest: tuple[float, grid.PlannedGraph] | None = None
    for planned in islice(queue.planned, MOST_SKIPPED):
        costs = [queue.backbone.cost(planned.spec, planned.num_classes, shape) for shape in planned.shapes]
        shapes = []
        for shape, cost in zip(planned.shapes, costs, strict=True):
            batch = max(1, int(shape.batch * min(1.0, dear.flops / cost.flops)))
            if cost.flops * batch / shape.batch <= dear.flops:
                shapes.append(shape.model_copy(update={"batch": batch}))
        if shapes and costs[0].num_params <= dear.params and costs[0].num_operators <= dear.operators:
            return grid.PlannedGraph(planned.spec, planned.num_classes, tuple(dict.fromkeys(shapes)))
        flops, shape = min(zip((c.flops for c in costs), planned.shapes, strict=True), key=lambda pair: pair[0])
        if cheapest is None or flops < cheapest[0]:
            cheapest = flops, grid.PlannedGraph(planned.spec, planned.num_classes, (shape,))
    assert cheapest is not None, "a sequence of planned graphs does not end"
    return cheapest[1]


def matmul_flops_per_s() -> float:
    """Of one fp32 matrix product: a micro-benchmark that says how long a run will take, before any was timed."""
    import numpy as np

    square = np.ones((MATMUL_SIZE, MATMUL_SIZE), np.float32)
    seconds = []
    for _ in range(5):
        begin = monotonic()
        square @ square
        seconds.append(monotonic() - begin)
    return 2.0 * MATMUL_SIZE**3 / max(min(seconds), 1e-6)


def visit_again(graphs: Sequence[OpenGraph], deadline: float, report: Report) -> None:
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
