from __future__ import annotations

from itertools import islice
from typing import Literal

import pytest

from kdexport import registry
from kdexport.backbones import InputShape
from kdexport.latency import grid
from kdexport.nouns.spec import StudentSpec

BACKBONES = registry.names("backbones")


def some(name: str, count: int, seed: int = 0) -> list[grid.PlannedGraph]:
    return list(islice(grid.planned(registry.load("backbones", name), 6, seed), count))


@pytest.mark.parametrize("name", BACKBONES)
def test_the_same_seed_gives_the_same_graphs_and_another_gives_others(name: str) -> None:
    assert some(name, 12) == some(name, 12) != some(name, 12, seed=1)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_first_graphs_span_every_size_of_a_backbone(name: str) -> None:
    drawn = [planned.spec for planned in some(name, 40)]
    for field in registry.load("backbones", name).SIZE_FIELDS:
        values = [getattr(spec, field) for spec in drawn]
        if field != "max_length":
            assert max(values) >= 3 * min(values), field


def test_text_is_spanned_in_length_batch_width_and_depth() -> None:
    graphs = some("transformer", 30)
    shapes = [shape for planned in graphs for shape in planned.shapes]
    assert min(s.tokens for s in shapes) == 4
    assert 120 <= max(s.tokens for s in shapes) <= 128
    assert (min(s.batch for s in shapes), max(s.batch for s in shapes)) == (1, 32)
    specs = [planned.spec.model_dump() for planned in graphs]
    assert {s["num_hidden_layers"] for s in specs} == set(range(7))
    assert (min(s["hidden_size"] for s in specs), max(s["hidden_size"] for s in specs)) == (64, 512)
    assert {s["hidden_size"] // s["num_attention_heads"] for s in specs} == set(grid.HEAD_SIZES)


@pytest.mark.parametrize("name", [n for n in BACKBONES if registry.load("backbones", n).input_kind == "image"])
def test_a_picture_graph_has_one_side_that_its_stages_can_halve(name: str) -> None:
    for planned in some(name, 30):
        spec = planned.spec.model_dump()
        assert len({shape.height for shape in planned.shapes}) == 1
        assert planned.shapes[0].height >> (spec["num_stages"] - 1) >= grid.SMALLEST_LAST_SIDE
        assert spec["width"] << (spec["num_stages"] - 1) <= grid.WIDEST


def test_a_backbone_with_fields_of_its_own_is_spanned_by_its_candidates() -> None:
    class Spec(StudentSpec):
        backbone: Literal["foreign"] = "foreign"
        rings: int

    class Foreign:
        input_kind = "text"
        Spec: type[StudentSpec]

        @staticmethod
        def candidates(num_classes: int, shape: InputShape, vocab_sizes: list[int]) -> list[StudentSpec]:
            return [Spec(rings=r) for r in range(10)]

    Foreign.Spec = Spec
    drawn = {planned.spec.rings for planned in islice(grid.planned(Foreign, 2, 0), 30)}  # type: ignore[arg-type,attr-defined]
    assert len(drawn) > 6


def test_inputs_have_no_padding_and_the_asked_shape() -> None:
    spec = some("convolution", 1)[0].spec
    ids = grid.random_input(spec, InputShape(batch=3, tokens=5))
    assert (ids.shape, str(ids.dtype), int(ids.min()) > 0) == ((3, 5), "int64", True)
    pixels = grid.random_input(some("image_convolution", 1)[0].spec, InputShape(batch=2, channels=3, height=8, width=9))
    assert (pixels.shape, str(pixels.dtype)) == ((2, 3, 8, 9), "float32")
