from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from kdexport.errors import BadInput, MissingPackage, Unsupported
from kdexport.runtimes import openvino as runtime

core = pytest.importorskip("openvino", reason="pip install openvino").Core()
needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="pip install nncf")


def test_bf16_is_offered_only_where_the_instruction_set_is_stated_to_have_it(devices):
    assert runtime.unsupported("bf16", devices["server"]) is None
    assert "avx2 (no avx512_bf16)" in str(runtime.unsupported("bf16", devices["desktop"]))
    assert "does not state" in str(runtime.unsupported("bf16", devices["unknown cpu"]))


def test_int8_is_refused_with_the_install_line_where_nncf_is_absent(devices, student, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert "pip install nncf" in str(runtime.unsupported("int8", devices["server"]))
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingPackage, match="pip install nncf"):
        runtime.build(student.graph, "int8", tmp_path, student.calibration)


def test_a_precision_that_is_not_offered_is_not_built_under_its_name(student, tmp_path):
    with pytest.raises(Unsupported, match="fp16 is not offered"):
        runtime.build(student.graph, "fp16", tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_int8_without_calibration_is_refused(student, tmp_path):
    with pytest.raises(BadInput, match="calibration"):
        runtime.build(student.graph, "int8", tmp_path, [])


def test_a_bf16_engine_is_not_opened_on_a_cpu_that_would_compute_it_in_fp32(student, tmp_path, monkeypatch):
    path = runtime.build(student.graph, "bf16", tmp_path, [])
    monkeypatch.setattr("openvino.Core", lambda: CoreWithoutBf16())
    with pytest.raises(Unsupported, match="build the engine in fp32"):
        runtime.open_engine(path, 1)


class CoreWithoutBf16:
    read_model = staticmethod(core.read_model)

    def get_property(self, device: str, name: str) -> list[str]:
        return ["FP32", "INT8"]


def test_a_bf16_engine_rounds_and_an_fp32_engine_does_not(student, tmp_path):
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not multiply bf16")
    feeds = student.feeds(5, 9)
    error = {}
    for precision in ("fp32", "bf16"):
        engine = runtime.open_engine(runtime.build(student.graph, precision, tmp_path, []), 1)
        error[precision] = abs(engine.run(feeds) - student.logits(feeds)).max()
    assert error["bf16"] > 4 * error["fp32"]


@needs_nncf
def test_int8_weights_are_a_fraction_of_the_graph_and_nothing_is_printed(student, tmp_path, capfd):
    path = runtime.build(student.graph, "int8", tmp_path, student.calibration)
    assert path.with_suffix(".bin").stat().st_size < 0.5 * student.graph.stat().st_size
    assert capfd.readouterr().out == ""


@needs_nncf
def test_building_again_replaces_the_pair_by_one_that_answers_alike(student, tmp_path):
    feeds = student.feeds(5, 9)
    first = runtime.open_engine(runtime.build(student.graph, "int8", tmp_path, student.calibration), 1).run(feeds)
    again = runtime.open_engine(runtime.build(student.graph, "int8", tmp_path, student.calibration), 1).run(feeds)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student.int8.bin", "student.int8.xml"]
    np.testing.assert_array_equal(again, first)
