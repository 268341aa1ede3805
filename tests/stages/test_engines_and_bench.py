from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdexport.errors import Damaged
from kdexport.nouns.measurement import Decision
from kdexport.nouns.metric import Metric
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.student import EngineChoice, Student
from kdexport.nouns.target import Target
from kdexport.runtimes import Engine, Feeds
from kdexport.runtimes import onnxruntime as ort
from kdexport.stages import bench, engines
from tests.stages.test_distil import CLASSES, Case


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Student, Path]:
    case, folder = Case("text"), tmp_path_factory.mktemp("student")
    return case, case.distil(folder, epochs=10, learning_rate=0.02, dropout=0.0), folder


def device(device_class: str = "cpu") -> HardwareProfile:
    return HardwareProfile.model_validate(
        {"id": "d", "name": "d", "device_class": device_class, "vendor": "v", "host": "x86-64", "facts": {}}
    )


def target(runtimes: Sequence[str], precisions: Sequence[str], profile: str = "local") -> Target:
    return Target.model_validate(
        {
            "id": "t",
            "profile": profile,
            "runtimes": runtimes,
            "precisions": precisions,
            "objective": {"limit_ms": 1},
            "traffic": {"mean_requests_per_s": 1, "peak_requests_per_s": 1},
        }
    )


def built(
    trained: tuple[Case, Student, Path],
    folder: Path,
    where: Target,
    profile: HardwareProfile,
    decide: Callable[[Callable[[], Decision]], Decision] = lambda measure: measure(),
) -> EngineChoice:
    case, student, student_folder = trained
    inputs = engines.prepare_inputs(student, student_folder, case.dataset, case.task)
    return engines.engines(
        student, student_folder, inputs, case.dataset, Metric(), where, profile, 1, "e", decide, folder
    )


def timed(monkeypatch: pytest.MonkeyPatch, medians_ms: dict[str, float]) -> None:
    monkeypatch.setattr(engines, "_medians_ms", lambda checked, inputs: {n: medians_ms[n] for n in checked})


@pytest.mark.parametrize(
    ("int8_ms", "kept"), [(0.5, "int8"), (0.99, "fp32"), (2.0, "fp32")], ids=["faster", "within the noise", "slower"]
)
def test_the_fastest_engine_without_loss_is_kept(
    trained: tuple[Case, Student, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8_ms: float, kept: str
) -> None:
    timed(monkeypatch, {"onnxruntime/fp32": 1.0, "onnxruntime/int8": int8_ms})
    choice = built(trained, tmp_path, target(["onnxruntime"], ["fp32", "int8"]), device())
    assert (choice.precision, choice.artifact, choice.verified_on) == (kept, "engine", f"onnxruntime/{kept}")
    assert [r.precision for r in choice.tried if r.chosen] == [kept]
    assert all(r.kind == "measured" and r.reason for r in choice.tried)


def test_a_faster_engine_that_loses_quality_is_left(
    trained: tuple[Case, Student, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, {"onnxruntime/fp32": 1.0, "onnxruntime/int8": 0.1})
    quality = {"fp32": 0.95, "int8": 0.94}
    score = iter(quality.values())
    monkeypatch.setattr(engines, "score", lambda *a: next(score))
    choice = built(trained, tmp_path, target(["onnxruntime"], ["fp32", "int8"]), device())
    assert (choice.precision, choice.dev_quality) == ("fp32", 0.95)


class Wrong:
    """An engine whose answers are off by what a bad export would give."""

    def __init__(self, inner: Engine, value: float) -> None:
        self.inner, self.value = inner, value

    def run(self, feeds: Feeds) -> np.ndarray:
        logits = self.inner.run(feeds).copy()
        logits[:, 0] += self.value
        return logits


@pytest.mark.parametrize("value", [50.0, np.nan])
def test_without_parity_nothing_is_chosen(
    trained: tuple[Case, Student, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    opened = ort.open_engine
    monkeypatch.setattr(ort, "open_engine", lambda path, threads: Wrong(opened(path, threads), value))
    with pytest.raises(Damaged, match=r"model\.onnx: onnxruntime/fp32: parity failed: .*no bundle is written"):
        built(trained, tmp_path, target(["onnxruntime"], ["fp32"]), device())


def test_what_cannot_run_here_becomes_a_recipe_checked_by_onnx_runtime(
    trained: tuple[Case, Student, Path], tmp_path: Path
) -> None:
    where = target(["tensorrt"], ["fp32", "fp16"], profile="jetson")
    choice = built(trained, tmp_path, where, device("edge-gpu").model_copy(update={"host": "aarch64"}))
    assert (choice.runtime, choice.precision, choice.artifact) == ("tensorrt", "fp16", "recipe")
    assert choice.verified_on == "onnxruntime/fp32"
    assert choice.parity.agreement == 1.0
    assert "engine itself is untested here" in choice.notes[0]


def test_only_the_planned_engine_of_a_recipe_is_said_to_be_built_there(
    trained: tuple[Case, Student, Path], tmp_path: Path
) -> None:
    fact = {"value": "8.7", "source": "test", "date": "2026-01-01"}
    board = HardwareProfile.model_validate(
        {**device("edge-gpu").model_dump(), "host": "aarch64", "facts": {"compute_capability": fact}}
    )
    choice = built(trained, tmp_path, target(["tensorrt"], ["fp32", "fp16"], profile="jetson"), board)
    fp32, fp16 = choice.tried
    assert (fp32.chosen, fp32.reason) == (False, "not the planned precision")
    assert (fp16.chosen, fp16.reason.endswith("build.py builds it there")) == (True, True)


def test_a_decision_read_from_a_file_is_kept_whatever_would_be_measured_now(
    trained: tuple[Case, Student, Path], tmp_path: Path
) -> None:
    read = Decision(name="engine", choice="onnxruntime/int8", reason="measured then", candidates={})
    where = target(["onnxruntime"], ["fp32", "int8"], profile="other")
    choice = built(trained, tmp_path, where, device(), lambda measure: read)
    assert (choice.precision, (tmp_path / choice.file).is_file()) == ("int8", True)


def logits(*answers: int) -> np.ndarray:
    return 4.0 * np.eye(3, dtype=np.float32)[list(answers)]


def quality(teacher: np.ndarray, student: np.ndarray, labels: Sequence[int]) -> Any:
    return bench.quality(Metric(), teacher, student, np.array(labels), CLASSES, None, None)


def test_quality_retention_and_agreement_are_what_a_reader_finds_by_hand() -> None:
    found = quality(logits(0, 1, 2, 2, 0), logits(0, 1, 2, 0, 1), [0, 1, 2, 2, 1])
    assert (found.teacher.value, found.student.value, found.teacher.n) == (0.8, 0.8, 5)
    assert (found.retention.value, found.agreement) == (1.0, 0.6)
    assert [(c.name, c.n, c.teacher, c.student) for c in found.per_class] == [
        ("card", 1, 1.0, 1.0), ("pay", 2, 0.5, 1.0), ("refund", 2, 1.0, 0.5)
    ]  # fmt: skip


def test_intervals_hold_their_figures() -> None:
    found = quality(logits(*[0, 1, 2] * 20), logits(*[0, 1, 1] * 20), [0, 1, 2] * 20)
    for figure in (found.teacher, found.student, found.retention):
        assert figure.ci95[0] <= figure.value <= figure.ci95[1]


def test_a_class_without_a_test_row_is_left_out() -> None:
    found = quality(logits(0, 1), logits(0, 1), [0, 1])
    assert [c.name for c in found.per_class] == ["card", "pay"]
