from __future__ import annotations

import pytest

from kdexport.errors import Damaged, Unsupported
from kdexport.runtimes import _tensorrt_build
from kdexport.runtimes import tensorrt_rtx as runtime

needs_rtx = pytest.mark.skipif(bool(runtime.missing()), reason=str(runtime.missing()))


def test_it_serves_x86_hosts_with_a_listed_compute_capability_in_fp32_and_fp16(devices):
    assert runtime.unsupported("fp32", devices["ada"]) is None
    assert runtime.unsupported("fp16", devices["ada"]) is None
    assert "weights of matrix products alone" in str(runtime.unsupported("int8", devices["ada"]))
    assert "8.0, 8.6, 8.9, 12.0" in str(runtime.unsupported("fp16", devices["turing"]))
    assert "8.0, 8.6, 8.9, 12.0" in str(runtime.unsupported("fp16", devices["hopper"]))
    assert "x86-64 only" in str(runtime.unsupported("fp16", devices["jetson"]))


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_precision_that_is_not_offered_is_not_built_under_its_name(student, tmp_path, precision):
    with pytest.raises(Unsupported, match="fp32 and fp16 are"):
        runtime.build(student.graph, precision, tmp_path, student.calibration)
    assert not list(tmp_path.iterdir())


@needs_rtx
@pytest.mark.parametrize("precision", runtime.PRECISIONS)
def test_an_engine_is_built_without_a_gpu(student, tmp_path, precision):
    path = runtime.build(student.graph, precision, tmp_path, [])
    assert path == tmp_path / f"student.{precision}.rtx.engine"
    assert list(tmp_path.iterdir()) == [path]


@needs_rtx
def test_the_int8_graph_for_tensorrt_is_read_by_the_parser_that_rtx_shares_with_it(student, tmp_path):
    model = _tensorrt_build.int8_graph(student.graph, student.calibration).SerializeToString()
    path = _tensorrt_build.build_engine(runtime._import(), model, tmp_path / "int8.engine", lambda _: None)
    assert path.stat().st_size > 0


@needs_rtx
def test_a_file_that_is_no_engine_is_called_damaged_with_or_without_a_gpu(tmp_path):
    (tmp_path / "x.rtx.engine").write_bytes(b"not an engine" * 100)
    with pytest.raises(Damaged, match="build it again"):
        runtime.open_engine(tmp_path / "x.rtx.engine", 1)


@needs_rtx
def test_a_builder_that_refuses_a_graph_says_why(student, tmp_path):
    def turing(config):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM75, 0)

    trt = runtime._import()
    with pytest.raises(_tensorrt_build.BuildFailed, match="FP32 GEMM is not supported"):
        _tensorrt_build.build_engine(trt, student.graph.read_bytes(), tmp_path / "x.engine", turing)
    assert not list(tmp_path.iterdir())
