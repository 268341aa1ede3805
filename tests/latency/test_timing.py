from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from kdexport.backbones import InputShape, parse_spec
from kdexport.latency import timing
from kdexport.latency.grid import PlannedGraph
from kdexport.runtimes import Feeds

SPEC = parse_spec({"backbone": "bag", "vocab_size": 600, "embedding_size": 16})
SHAPES = (InputShape(batch=1, tokens=8), InputShape(batch=2, tokens=8))


@dataclass
class Slow:
    """Takes as long as the next of its times says, the last one ever after."""

    times_s: list[float] = field(default_factory=lambda: [0.001])
    calls: int = 0

    def run(self, feeds: Feeds) -> np.ndarray:
        end = time.perf_counter() + self.times_s[min(self.calls, len(self.times_s) - 1)]
        self.calls += 1
        while time.perf_counter() < end:
            pass
        return np.zeros((1, 2), np.float32)


def opened(engine: Slow) -> timing.OpenGraph:
    return timing.OpenGraph(PlannedGraph(SPEC, 2, SHAPES), engine, [[{}], [{}]])


def test_the_median_is_that_of_the_quickest_visit_and_the_spread_of_the_next() -> None:
    visits = [[9.0, 9.0, 9.0], [2.0, 1.0, 3.0], [2.2, 2.2, 2.2]]
    assert timing.quiet_median_ms(visits) == 2.0
    assert timing.spread(visits) == pytest.approx(0.1)
    assert timing.spread([[2.0]]) == 1.0


def test_a_shape_is_settled_once_two_visits_agree() -> None:
    assert not timing.settled([[1.0]])
    assert not timing.settled([[1.0], [1.5]])
    assert timing.settled([[1.0], [1.5], [1.01]])


def test_every_shape_is_visited_and_a_settled_one_is_left_alone() -> None:
    graph = opened(Slow())
    graph.visit()
    assert [len(visits) for visits in graph.visits] == [1, 1]
    graph.visits = [[[1.0], [1.0]], [[1.0], [2.0]]]
    graph.visit()
    assert [len(visits) for visits in graph.visits] == [2, 3]
    graph.visits = [[[1.0], [1.0]], [[1.0], [1.0]]]
    graph.visit(at_least=3)
    assert [len(visits) for visits in graph.visits] == [3, 3]


def test_runs_that_prepare_a_shape_are_not_timed() -> None:
    graph = opened(Slow())
    graph.visit()
    timed = sum(len(block) for visits in graph.visits for block in visits)
    assert graph.engine.calls >= timed + 2 * len(SHAPES)  # type: ignore[attr-defined]


def test_runs_end_when_the_time_is_over() -> None:
    assert len(timing.time_runs(Slow([0.01]), [{}], runs=1_000, max_seconds=0.05)) < 20


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_graph_goes_through_the_real_exporter_and_runtime(precision: str) -> None:
    graph = timing.open_graph(PlannedGraph(SPEC, 5, SHAPES), "onnxruntime", precision, threads=1)  # type: ignore[arg-type]
    assert [graph.engine.run(feeds[0]).shape for feeds in graph.feeds] == [(1, 5), (2, 5)]
