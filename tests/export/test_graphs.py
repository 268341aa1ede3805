"""Graphs that are exported, fused, quantised and counted."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kdexport.backbones import InputShape, backbone_of, count_params, parse_spec
from kdexport.export.graph_cost import graph_cost
from kdexport.export.onnx import INPUT_NAMES, OPSET, OUTPUT_NAME, export_graph
from kdexport.export.quantise import dynamic_int8, static_int8
from kdexport.nouns.spec import StudentSpec
from kdexport.runtimes.onnxruntime import open_engine

TEXT = parse_spec({"backbone": "convolution", "vocab_size": 300, "embedding_size": 32, "hidden_size": 48})
IMAGE = parse_spec({"backbone": "image_convolution", "channels": 1, "width": 8})
CLASSES = 6
PIXELS = np.random.default_rng(0).standard_normal((24, 1, 8, 8)).astype(np.float32)
IDS = np.random.default_rng(0).integers(1, 300, (24, 9))


def exported(spec: StudentSpec, path: Path) -> Path:
    torch.manual_seed(0)
    module, kind = backbone_of(spec).build(spec, CLASSES), backbone_of(spec).input_kind
    example = torch.from_numpy((IDS if kind == "text" else PIXELS)[:2])
    return export_graph(module, [example], [INPUT_NAMES[kind]], path, tokens=kind == "text")


def test_a_graph_has_the_named_tensors_with_dynamic_axes(tmp_path: Path) -> None:
    graph = onnx.load(str(exported(TEXT, tmp_path / "m.onnx"))).graph
    (ids,), (logits,) = graph.input, graph.output
    assert (ids.name, logits.name) == ("input_ids", OUTPUT_NAME)
    assert [d.dim_param for d in ids.type.tensor_type.shape.dim] == ["batch", "tokens"]
    shape = logits.type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("batch", CLASSES)


def test_a_picture_has_a_dynamic_batch_alone(tmp_path: Path) -> None:
    (pixels,) = onnx.load(str(exported(IMAGE, tmp_path / "m.onnx"))).graph.input
    assert [d.dim_param or d.dim_value for d in pixels.type.tensor_type.shape.dim] == ["batch", 1, 8, 8]


def test_a_graph_is_written_for_the_oldest_runtime_that_is_served(tmp_path: Path) -> None:
    model = onnx.load(str(exported(TEXT, tmp_path / "m.onnx")))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = (exported(TEXT, tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    assert one == other


def test_an_export_that_fails_leaves_no_file(tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no graph")

    with pytest.raises(RuntimeError, match="no graph"):
        export_graph(Broken(), [torch.ones(1, 2)], ["ids"], tmp_path / "m.onnx", tokens=True)
    assert list(tmp_path.iterdir()) == []


def test_an_int8_copy_of_a_text_graph_is_smaller_and_answers_nearly_the_same(tmp_path: Path) -> None:
    graph = exported(TEXT, tmp_path / "m.onnx")
    quantised = dynamic_int8(graph, tmp_path / "q.onnx")
    assert quantised.stat().st_size < 0.75 * graph.stat().st_size
    wanted, found = (open_engine(p, 1).run({"input_ids": IDS}) for p in (graph, quantised))
    assert 0 < np.abs(found - wanted).max() < 0.1 * wanted.std() * 4


def test_an_int8_copy_of_a_picture_graph_answers_nearly_the_same(tmp_path: Path) -> None:
    graph = exported(IMAGE, tmp_path / "m.onnx")
    quantised = static_int8(graph, tmp_path / "q.onnx", [{"pixels": PIXELS[i : i + 1]} for i in range(16)])
    operators = {n.op_type for n in onnx.load(str(quantised)).graph.node}
    assert "QuantizeLinear" in operators
    wanted, found = (open_engine(p, 1).run({"pixels": PIXELS}) for p in (graph, quantised))
    assert 0 < np.abs(found - wanted).max() < 0.2 * wanted.std() * 4


def test_quantising_leaves_the_loggers_as_they_were(tmp_path: Path) -> None:
    level = logging.getLogger().level
    dynamic_int8(exported(TEXT, tmp_path / "m.onnx"), tmp_path / "q.onnx")
    assert logging.getLogger().level == level


def test_the_count_of_a_matrix_product_is_what_a_reader_finds_by_hand(tmp_path: Path) -> None:
    """8 -> 5 with bias, 3 rows: 2 x 3 x 8 x 5 = 240 FLOPs, 45 weights."""
    path = export_graph(torch.nn.Linear(8, 5), [torch.ones(2, 8)], ["x"], tmp_path / "m.onnx", tokens=False)
    cost = graph_cost(path, InputShape(batch=3, tokens=8))
    assert (cost.flops, cost.num_params, cost.weight_bytes, cost.num_operators) == (240, 45, 180, 1)
    assert cost.activation_bytes == 4 * 3 * 5


@pytest.mark.parametrize(("batch", "tokens"), [(1, 8), (4, 32)])
def test_a_graph_costs_about_what_its_backbone_says(tmp_path: Path, batch: int, tokens: int) -> None:
    shape = InputShape(batch=batch, tokens=tokens)
    counted = graph_cost(exported(TEXT, tmp_path / "m.onnx"), shape)
    said = backbone_of(TEXT).cost(TEXT, CLASSES, shape)
    assert counted.flops == pytest.approx(said.flops, rel=0.1)
    assert counted.weight_bytes == pytest.approx(said.weight_bytes, rel=0.1)
    assert counted.num_params == pytest.approx(count_params(backbone_of(TEXT).build(TEXT, CLASSES)), rel=0.01)
    assert counted.tokens == said.tokens


def test_a_look_up_table_is_read_by_the_row_not_whole(tmp_path: Path) -> None:
    large = TEXT.model_copy(update={"vocab_size": 3000})
    shape = InputShape(tokens=8)
    one, other = (graph_cost(exported(s, tmp_path / "m.onnx"), shape) for s in (TEXT, large))
    assert one.weight_bytes == other.weight_bytes
    assert other.num_params - one.num_params == 2700 * 32


def test_a_picture_graph_costs_about_what_its_backbone_says(tmp_path: Path) -> None:
    shape = InputShape(batch=2, channels=1, height=8, width=8)
    counted = graph_cost(exported(IMAGE, tmp_path / "m.onnx"), shape)
    assert counted.flops == pytest.approx(backbone_of(IMAGE).cost(IMAGE, CLASSES, shape).flops, rel=0.1)
