"""Time untrained graphs at several shapes, through the real exporter and the real runtime."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns

from kdexport.backbones import backbone_of
from kdexport.export.onnx import INPUT_NAMES, export_graph
from kdexport.latency.grid import PlannedGraph, random_input
from kdexport.nouns.profile import Precision
from kdexport.runtimes import Engine, Feeds, load_runtime

# A graph's first milliseconds on a shape are up to twice as slow as those after (2-core EPYC, 2026-11), and its first
# run prepares the shape.
WARM_S = 0.004
BLOCK_S, MOST_RUNS = 0.006, 40
FEEDS = 4  # different inputs of one shape, in turn
# On a shared server 5 to 20 % of all blocks fall into a spell, of 20 ms to some seconds, in which everything is 1.1 to
# 2 times slower. A shape is visited at moments far apart, and is settled when its two quickest visits agree.
AGREE = 0.02
MOST_VISITS = 8


@dataclass
class OpenGraph:
    """A graph that stays open to be visited again; visits[i][v]: milliseconds of each run of shape i in visit v."""

    planned: PlannedGraph
    engine: Engine
    feeds: list[list[Feeds]]
    visits: list[list[list[float]]] = field(default_factory=list)

    def visit(self, at_least: int = 2) -> None:
        """Time every shape once: MOST_RUNS or BLOCK_S, whichever is first, one run at least.

        A shape that was visited at_least times and is settled is left out."""
        first = not self.visits
        self.visits = self.visits or [[] for _ in self.feeds]
        for inputs, blocks in zip(self.feeds, self.visits, strict=True):
            if len(blocks) < at_least or not settled(blocks):
                run_s = warm(self.engine, inputs, at_least=2 if first else 1)
                runs = len(blocks[0]) if blocks else max(1, min(MOST_RUNS, int(BLOCK_S / run_s)))
                blocks.append(time_runs(self.engine, inputs, runs))

    def settled(self) -> bool:
        return all(settled(blocks) for blocks in self.visits)


def open_graph(planned: PlannedGraph, runtime: str, precision: Precision, threads: int) -> OpenGraph:
    """An untrained graph as an engine: quantised like a trained one, on one example instead of many.

    The ranges seen in calibration move numbers, not operators, so one example is as slow as many."""
    import torch

    spec, shapes = planned.spec, planned.shapes
    backbone, module = backbone_of(spec), load_runtime(runtime)
    example = random_input(spec, shapes[0].model_copy(update={"batch": 2}))
    name = INPUT_NAMES[backbone.input_kind]
    with tempfile.TemporaryDirectory() as folder:
        graph = export_graph(
            backbone.build(spec, planned.num_classes),
            [torch.from_numpy(example)],
            [name],
            Path(folder) / "graph.onnx",
            tokens=backbone.input_kind == "text",
        )
        engine = module.open_engine(module.build(graph, precision, Path(folder), [{name: example}]), threads)
    feeds: list[list[Feeds]] = [[{name: random_input(spec, s, seed)} for seed in range(FEEDS)] for s in shapes]
    return OpenGraph(planned, engine, feeds)


def settled(visits: Sequence[Sequence[float]]) -> bool:
    """Do the medians of the two quickest visits agree?"""
    return len(visits) > 1 and spread(visits) <= AGREE


def quiet_median_ms(visits: Sequence[Sequence[float]]) -> float:
    """Median of single runs while the neighbours are quiet: that of the quickest visit."""
    return min(median(block) for block in visits)


def spread(visits: Sequence[Sequence[float]]) -> float:
    """How far the second quickest visit was from the quickest, as a share of it; 1 where there was only one visit."""
    quickest = sorted(median(block) for block in visits)[:2]
    return quickest[1] / quickest[0] - 1 if len(quickest) == 2 else 1.0


def warm(engine: Engine, feeds: Sequence[Feeds], at_least: int) -> float:
    """Run for WARM_S, and that often at least; seconds of the last run."""
    end = perf_counter() + WARM_S
    done = 0
    while True:
        begin = perf_counter()
        engine.run(feeds[done % len(feeds)])
        now = perf_counter()
        done += 1
        if done >= at_least and now > end:
            return max(now - begin, 1e-6)


def time_runs(engine: Engine, feeds: Sequence[Feeds], runs: int, max_seconds: float = float("inf")) -> list[float]:
    """Milliseconds of each of `runs` single runs, fewer where the time is over; the garbage collector is held back."""
    samples_ms: list[float] = []
    end = perf_counter() + max_seconds
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for i in range(runs):
            inputs = feeds[i % len(feeds)]
            begin = perf_counter_ns()
            engine.run(inputs)
            samples_ms.append((perf_counter_ns() - begin) / 1e6)
            if perf_counter() > end:
                break
    finally:
        if was_enabled:
            gc.enable()
    return samples_ms
