from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from kdexport import registry
from kdexport.backbones import InputShape, parse_spec
from kdexport.latency import grid, spending
from kdexport.latency.spending import Dear, Queue, affordable
from kdexport.latency.timing import OpenGraph

CONVOLUTION: Any = registry.load("backbones", "convolution")
SPEC = parse_spec({"backbone": "convolution", "vocab_size": 600, "embedding_size": 64, "hidden_size": 256})
NOTHING = Dear(flops=1e12, params=1e12, operators=1e6)


def flops(shape: InputShape) -> float:
    return float(CONVOLUTION.cost(SPEC, 5, shape).flops)


def queue(*shapes: InputShape, times: int = 1) -> Queue:
    return Queue(CONVOLUTION, iter([grid.PlannedGraph(SPEC, 5, shapes)] * times), weight=1)


def test_a_run_that_would_take_too_long_is_timed_at_a_smaller_batch_or_left_out() -> None:
    shapes = (InputShape(batch=8, tokens=16), InputShape(batch=1, tokens=128), InputShape(batch=1, tokens=8))
    dear = replace(NOTHING, flops=1.01 * flops(InputShape(batch=2, tokens=16)))
    kept = affordable(queue(*shapes), dear).shapes
    assert kept == (InputShape(batch=2, tokens=16), InputShape(batch=1, tokens=8))


@pytest.mark.parametrize(
    "dear", [replace(NOTHING, params=1e3), replace(NOTHING, operators=3), replace(NOTHING, flops=9)]
)
def test_where_every_graph_is_too_dear_the_cheapest_run_is_timed_after_all(dear: Dear) -> None:
    shapes = (InputShape(batch=8, tokens=16), InputShape(batch=1, tokens=5))
    assert affordable(queue(*shapes, times=100), dear).shapes == (InputShape(batch=1, tokens=5),)


def test_backbones_of_the_asked_kinds_get_time_by_their_sizes() -> None:
    weights = {type(q.backbone.Spec).__name__: q for q in spending.queues_of(["image"], 0, 120.0)}
    queues = spending.queues_of(["text", "image"], 0, 120.0)
    assert (
        len(queues) == len(registry.names("backbones")) > len(spending.queues_of(["image"], 0, 120.0)) >= len(weights)
    )
    by_name = {q.backbone.Spec.model_fields["backbone"].default: q.weight for q in queues}
    assert by_name["transformer"] > by_name["convolution"] > by_name["bag"]


def test_in_a_hurry_a_graph_is_timed_at_fewer_shapes() -> None:
    slow, quick = (next(spending.queues_of(["text"], 0, s)[0].planned) for s in (120.0, 6.0))
    assert len(slow.shapes) > len(quick.shapes)


class Visited(OpenGraph):
    """Settles after so many visits."""

    def __init__(self, needed: int) -> None:
        super().__init__(grid.PlannedGraph(SPEC, 5, (InputShape(tokens=4),)), None, [[]], [[[1.0]]])  # type: ignore[arg-type]
        self.needed = needed

    def visit(self, at_least: int = 2) -> None:
        self.needed -= 1
        self.visits[0].append([1.0 if self.needed <= 0 else 5.0 + self.needed])


def left_after(graphs: Sequence[Visited]) -> list[int]:
    spending.visit_again(graphs, deadline=float("inf"), report=lambda what: None)
    return [graph.needed for graph in graphs]


def test_only_graphs_whose_visits_differ_are_visited_again_and_not_for_ever() -> None:
    assert left_after([Visited(1), Visited(3)]) == [0, 0]
    assert left_after([Visited(100)])[0] > 90


def test_visits_end_when_the_time_is_over() -> None:
    graph = Visited(100)
    spending.visit_again([graph], deadline=0.0, report=lambda what: None)
    assert graph.needed == 100
