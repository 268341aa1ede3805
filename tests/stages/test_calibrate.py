from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdexport.errors import MissingPackage, Unsupported
from kdexport.latency import calibrated, store
from kdexport.measure.environment import detect
from kdexport.nouns.calibration import Calibration
from kdexport.nouns.manifest import Preprocessor
from kdexport.stages import calibrate as stage
from kdexport.stages.calibrate import calibrate, calibrate_machine, working_cells
from kdexport.stages.detect import local_profile
from kdexport.tasks import Prepared
from tests.latency.planted import calibration, points

HERE = detect(1)
PROFILE = local_profile(HERE)
TIMED = calibration(points(["bag"], graphs=1))


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """What would have been timed, and how; nothing is."""
    calls: list[tuple[Any, ...]] = []

    def timed(runtime: str, precision: Any, environment: Any, seconds: float, *rest: Any, **more: Any) -> Calibration:
        calls.append((runtime, precision, seconds, *rest))
        own = {"runtime": runtime, "precision": precision, "version": calibrated.version_of(runtime)}
        return TIMED.model_copy(update=own | {"fingerprint": store.fingerprint(environment)})

    monkeypatch.setenv("KDEXPORT_CACHE", str(tmp_path))
    monkeypatch.setattr(calibrated, "calibrate", timed)
    return calls


def no_progress(name: str) -> calibrated.Progress:
    return lambda done, allowed, what: None


def test_each_cell_is_timed_once_kept_and_found_again(asked: list[tuple[Any, ...]]) -> None:
    cells = {"runtimes": ["onnxruntime"], "precisions": ["fp32", "int8"], "seconds": 9.0, "progress_for": no_progress}
    first = calibrate_machine(PROFILE, HERE, force=False, **cells)  # type: ignore[arg-type]
    assert [(c.runtime, c.precision) for c in first] == [("onnxruntime", "fp32"), ("onnxruntime", "int8")]
    assert calibrate_machine(PROFILE, HERE, force=False, **cells) == first  # type: ignore[arg-type]
    assert len(asked) == 2
    calibrate_machine(PROFILE, HERE, force=True, **cells)  # type: ignore[arg-type]
    assert len(asked) == 4
    assert asked[0] == ("onnxruntime", "fp32", 9.0)


def test_without_names_everything_that_works_here_is_timed() -> None:
    cells = working_cells(PROFILE, [], [])
    assert {("onnxruntime", "fp32"), ("onnxruntime", "int8")} <= set(cells)
    assert (("openvino", "fp32") in cells) == (find_spec("openvino") is not None)
    assert not {"tensorrt", "tensorrt_rtx"} & {runtime for runtime, _ in cells}


def test_what_does_not_work_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unsupported, match="onnxruntime fp16: fp16 is not offered by ONNX Runtime on CPUs"):
        working_cells(PROFILE, ["onnxruntime"], ["fp16"])
    absent = SimpleNamespace(missing=lambda: "pip install openvino")
    monkeypatch.setattr(stage, "load_runtime", lambda name: absent)
    with pytest.raises(MissingPackage, match="openvino is not installed; pip install openvino"):
        working_cells(PROFILE, ["openvino"], [])


def pictures() -> tuple[Any, Any]:
    """A data set and a task of pictures that take no time to prepare: only the calls are of interest."""
    dataset = SimpleNamespace(train=SimpleNamespace(inputs=[b"a", b"b"]), classes=("cat", "dog"))
    task = SimpleNamespace(
        input_kind="image", vocab_sizes=lambda inputs, tokenizer: [0], prepare=lambda *_: Prepared(PREPROCESSOR, "")
    )
    return dataset, task


PREPROCESSOR = Preprocessor.model_construct(kind="image")


def test_a_project_gets_the_stored_calibration_or_a_quick_one_of_its_own_kind(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "shipped_encoder", lambda prepared: lambda raw: raw)
    calibrate_machine(PROFILE, HERE, ["onnxruntime"], ["fp32"], 120.0, False, no_progress)
    asked.clear()
    speed = calibrate([("onnxruntime", "fp32"), ("onnxruntime", "int8")], *pictures(), "", HERE, quick_seconds=6.0)
    assert asked == [("onnxruntime", "int8", 6.0, ("image",))]
    assert [c.cell for c in speed.cells] == ["onnxruntime/fp32", "onnxruntime/int8"]
    assert store.load(HERE, "onnxruntime", "int8") is None  # too wide to be kept for other projects
    assert 0 < speed.preprocess_ms < 1
    assert list(speed.preprocess_tail) == ["90", "95", "99", "99.9"]
