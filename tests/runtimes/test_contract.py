"""Every runtime, in every precision that it declares, over one student of each backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdexport import registry
from kdexport.errors import Unsupported
from kdexport.runtimes import Engine, load_runtime

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
MAX_ABS_ERROR = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}  # of logits of about 1
MIN_AGREEMENT = 0.7  # int8: share of random inputs with the same label
SHAPES = [(1, 3), (1, 13), (5, 2), (5, 17)]  # (batch, tokens)


RUNTIMES = registry.names("runtimes")
CELLS = [(name, precision) for name in RUNTIMES for precision in registry.load("runtimes", name).PRECISIONS]


def open_or_skip(runtime: Any, path: Path) -> Engine:
    try:
        engine: Engine = runtime.open_engine(path, 1)
    except Unsupported as e:
        pytest.skip(f"built, not run: {e}")
    return engine


@pytest.mark.parametrize(("name", "precision"), CELLS)
def test_an_engine_gives_the_logits_of_the_student(name, precision, student, devices, tmp_path):
    runtime = load_runtime(name)
    if install := runtime.missing():
        pytest.skip(install)
    reasons = [runtime.unsupported(precision, profile) for profile in devices.values()]
    if all(reasons):
        pytest.skip(str(reasons[0]))
    path = runtime.build(student.graph, precision, tmp_path, student.calibration)
    assert path == student.graph or path.parent == tmp_path
    assert path.stat().st_size > 0
    assert {p.stem for p in tmp_path.iterdir()} <= {path.stem}, "something was left over"

    engine = open_or_skip(runtime, path)
    for batch, tokens in SHAPES:
        feeds = student.feeds(batch, tokens)
        expected, found = student.logits(feeds), engine.run(feeds)
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        if precision != "int8":
            np.testing.assert_allclose(found, expected, atol=MAX_ABS_ERROR[precision], rtol=0)
    feeds = student.feeds(32, 12, seed=1)
    agreement = (engine.run(feeds).argmax(1) == student.logits(feeds).argmax(1)).mean()
    assert agreement >= MIN_AGREEMENT


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_an_engine_returns_is_not_overwritten_by_its_next_run(name, student, tmp_path):
    runtime = load_runtime(name)
    if install := runtime.missing():
        pytest.skip(install)
    engine = open_or_skip(runtime, runtime.build(student.graph, "fp32", tmp_path, student.calibration))
    first = engine.run(student.feeds(2, 9, seed=1))
    kept = first.copy()
    engine.run(student.feeds(2, 9, seed=2))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_package_is_told_by_its_install_line(name, monkeypatch):
    runtime = load_runtime(name)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert str(runtime.missing()).startswith("pip install ")


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_refusal_names_what_would_be_supported(name, devices):
    runtime = load_runtime(name)
    declared = registry.load("runtimes", name).PRECISIONS
    reasons = {(p, id): runtime.unsupported(p, profile) for p in PRECISIONS for id, profile in devices.items()}
    assert all(reason for (precision, _), reason in reasons.items() if precision not in declared)
    for reason in filter(None, reasons.values()):
        assert any(word in reason for word in ("fp32", "TensorRT", "compute capability")), reason


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_serves_cpus_or_gpus_and_not_both(name, devices):
    served = {p.is_gpu for p in devices.values() if load_runtime(name).unsupported("fp32", p) is None}
    assert len(served) == 1
