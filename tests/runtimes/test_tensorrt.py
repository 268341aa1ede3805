"""Against a fake module: it takes TensorRT's calls, refuses what TensorRT refuses, and computes with ONNX Runtime."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from kdexport.errors import BadInput, MissingPackage, Unsupported
from kdexport.export.half import half_precision
from kdexport.runtimes import _tensorrt_build
from kdexport.runtimes import tensorrt as runtime


def engine_of(student, precision, folder):
    return runtime.open_engine(runtime.build(student.graph, precision, folder, student.calibration), 1)


@pytest.mark.parametrize(("precision", "max_abs_error"), [("fp32", 1e-4), ("fp16", 1e-2), ("int8", 0.3)])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 13), (5, 17), (32, 128), (70, 9)])
def test_an_engine_gives_the_logits_of_the_student(
    fake_tensorrt, student, precision, max_abs_error, batch, tokens, tmp_path
):
    feeds = student.feeds(batch, tokens)
    found, expected = engine_of(student, precision, tmp_path).run(feeds), student.logits(feeds)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(found, expected, atol=max_abs_error, rtol=0)


def test_int8_agrees_with_the_student_on_most_random_inputs(fake_tensorrt, student, tmp_path):
    feeds = student.feeds(64, 12, seed=1)
    found = engine_of(student, "int8", tmp_path).run(feeds)
    assert (found.argmax(1) == student.logits(feeds).argmax(1)).mean() >= 0.7


def test_more_tokens_than_the_engine_was_built_for_are_refused_with_its_range(fake_tensorrt, student, tmp_path):
    if student.input_name == "pixels":
        pytest.skip("an image has no tokens")
    with pytest.raises(BadInput, match=r"\(1, 129\) is outside the engine's \(1, 1\) to \(32, 128\)"):
        engine_of(student, "fp32", tmp_path).run(student.feeds(1, 129))


def test_the_engine_file_is_named_after_graph_and_precision_and_stands_alone(fake_tensorrt, student, tmp_path):
    path = runtime.build(student.graph, "fp16", tmp_path, [])
    assert path == tmp_path / "student.fp16.engine"
    assert list(tmp_path.iterdir()) == [path]


def test_fp16_keeps_inputs_logits_normalisation_and_softmax_in_fp32(student):
    model = onnx.shape_inference.infer_shapes(half_precision(student.graph))
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    computed = {
        node.op_type: types[node.output[0]]
        for node in model.graph.node
        if node.op_type in ("LayerNormalization", "Softmax", "MatMul", "Conv")
    }
    in_fp32 = {op for op, dtype in computed.items() if dtype == onnx.TensorProto.FLOAT}
    assert types["logits"] == onnx.TensorProto.FLOAT
    assert in_fp32 == computed.keys() & {"LayerNormalization", "Softmax"}


def test_int8_quantises_the_inputs_of_matrix_products_and_convolutions_alone(student):
    graph = _tensorrt_build.int8_graph(student.graph, student.calibration).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    readers = {node.op_type for node in graph.node if dequantised & set(node.input)}
    assert readers == {node.op_type for node in graph.node} & {"MatMul", "Conv"}  # a bag has neither
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3:
            assert node.input[2] not in dequantised, "TensorRT's parser refuses a quantised bias"


def test_int8_without_calibration_is_refused(fake_tensorrt, student, tmp_path):
    with pytest.raises(BadInput, match="calibration"):
        runtime.build(student.graph, "int8", tmp_path, [])


def test_a_precision_that_is_not_offered_is_not_built_under_its_name(fake_tensorrt, student, tmp_path):
    with pytest.raises(Unsupported, match="bf16 is not offered"):
        runtime.build(student.graph, "bf16", tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_a_graph_that_tensorrt_cannot_read_is_refused_with_the_reasons_of_its_parser(fake_tensorrt, tmp_path):
    graph = onnx.helper.make_graph([onnx.helper.make_node("Refused", [], ["y"], name="node 7")], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "odd.onnx")
    with pytest.raises(_tensorrt_build.BuildFailed, match="node 7: no importer for Refused"):
        runtime.build(tmp_path / "odd.onnx", "fp32", tmp_path, [])


def test_a_failed_build_leaves_no_file_and_says_what_tensorrt_logged(fake_tensorrt, tmp_path):
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), tmp_path / "empty.onnx")
    with pytest.raises(_tensorrt_build.BuildFailed, match="network has no output"):
        runtime.build(tmp_path / "empty.onnx", "fp32", tmp_path, [])
    assert [p.name for p in tmp_path.iterdir()] == ["empty.onnx"]


def test_an_engine_of_another_version_is_refused_with_what_tensorrt_logged(fake_tensorrt, tmp_path):
    (tmp_path / "old.engine").write_bytes(b"other version")
    with pytest.raises(Unsupported, match="version tag does not match"):
        runtime.open_engine(tmp_path / "old.engine", 1)


def test_an_engine_is_not_opened_where_torch_sees_no_gpu(fake_tensorrt, student, tmp_path, monkeypatch):
    path = runtime.build(student.graph, "fp32", tmp_path, [])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(Unsupported, match="only on an NVIDIA GPU"):
        runtime.open_engine(path, 1)


def test_a_builder_that_finds_no_gpu_is_told_apart_from_a_bad_graph(fake_tensorrt, student, tmp_path, monkeypatch):
    def null_pointer(logger):
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(fake_tensorrt, "Builder", null_pointer)
    with pytest.raises(Unsupported, match="builds only where it finds an NVIDIA GPU"):
        runtime.build(student.graph, "fp32", tmp_path, [])


def test_a_tensorrt_before_10_is_refused_with_the_install_line(fake_tensorrt, student, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_tensorrt, "__version__", "8.6.1")
    with pytest.raises(MissingPackage, match=r"found 8\.6\.1: pip install tensorrt"):
        runtime.build(student.graph, "fp32", tmp_path, [])


def test_without_the_package_building_names_the_install_line(student, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingPackage, match="pip install tensorrt"):
        runtime.build(student.graph, "fp32", tmp_path, [])


def test_a_jetson_is_served_and_an_older_gpu_or_an_unstated_one_is_not(devices):
    assert runtime.unsupported("int8", devices["jetson"]) is None
    assert "7.0: TensorRT serves" in str(runtime.unsupported("fp32", devices["volta"]))
    assert "no compute capability" in str(runtime.unsupported("fp32", devices["unknown gpu"]))
    assert "no compute capability" in str(runtime.unsupported("fp32", devices["odd gpu"]))
