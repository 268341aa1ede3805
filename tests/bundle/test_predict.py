from __future__ import annotations

import json
import math
import os
import py_compile
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kdexport.bundle.runner.predict import NotFinite, Predictor
from kdexport.bundle.write import write_bundle

from .conftest import LABELS, png, rewrite_manifest, text_manifest, text_model, word_piece

ODD = ["", "my card", "my cárd", "[CLS] \x01 中文", "card " * 40, "a" * 101, "\r", "'?!"]


def run_predict(bundle: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """As on a device: kdexport cannot be imported, and the working folder is not the bundle's."""
    blocked = "import sys; sys.modules['kdexport'] = None; import runpy, os; sys.argv = sys.argv[1:]; "
    code = blocked + "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-I", "-c", code, str(bundle / "predict.py"), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, cwd="/")


def write_changed(folder: Path, model: bytes | None = None, **changes: Any) -> Predictor:
    tokenizer = word_piece()
    files: dict[str, Path | bytes] = {
        "model.onnx": model or text_model(tokenizer.get_vocab_size()),
        "tokenizer.json": tokenizer.to_str().encode(),
    }
    write_bundle(folder, text_manifest(**changes), files, golden=[])
    return Predictor(folder)


def quota(root: Path, cores: float) -> Path:
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu.max").write_text(f"{int(cores * 100_000)} 100000\n")
    return root


def test_the_answer_is_the_softmax_of_the_logits(bundle: Path) -> None:
    predictor = Predictor(bundle)
    for text in ODD:
        logits = predictor.logits([text])[0].astype(np.float64)
        answer = predictor.predict(text)
        assert answer["label"] == LABELS[logits.argmax()]
        assert answer["score"] == pytest.approx(np.exp(logits.max()) / np.exp(logits).sum(), rel=1e-5)


def test_a_batch_answers_as_its_rows_do(bundle: Path) -> None:
    predictor = Predictor(bundle)
    logits = predictor.logits(ODD)
    assert logits.shape == (len(ODD), 3)
    assert logits.dtype == np.float32
    assert np.allclose(logits, np.concatenate([predictor.logits([t]) for t in ODD]), atol=1e-5)
    assert predictor.logits([]).shape == (0, 3)


def test_below_the_threshold_the_label_is_none(tmp_path: Path) -> None:
    score = write_changed(tmp_path / "a").predict("my card")["score"]
    assert write_changed(tmp_path / "b", abstain_below=score).predict("my card")["label"] is not None
    assert write_changed(tmp_path / "c", abstain_below=math.nextafter(score, 1)).predict("my card") == {
        "label": None,
        "score": score,
    }


def test_logits_that_are_not_numbers_are_an_error_not_an_answer(tmp_path: Path) -> None:
    predictor = write_changed(tmp_path / "b", model=text_model(200, scale=math.nan))
    with pytest.raises(NotFinite, match=r"run verify\.py"):
        predictor.predict("my card")


@pytest.mark.parametrize(
    ("threads", "cores", "used", "spins"), [(4, 8, 4, "1"), (4, 4, 4, "1"), (4, 2.5, 2, "0"), (1, 0.5, 1, "0")]
)
def test_threads_never_exceed_the_quota_and_do_not_spin_under_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, cores: float, used: int, spins: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    seen: list[onnxruntime.SessionOptions] = []
    session = onnxruntime.InferenceSession

    def recording(model: str, options: onnxruntime.SessionOptions, **rest: Any) -> onnxruntime.InferenceSession:
        seen.append(options)
        return session(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recording)
    rewrite_manifest(bundle, lambda d: d.update(threads=threads))
    predictor = Predictor(bundle, root=quota(tmp_path / "root", cores))
    assert predictor.threads == used
    (options,) = seen
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (used, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def test_openvino_gives_the_same_logits(bundle: Path) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    wanted = Predictor(bundle).logits(ODD)
    rewrite_manifest(bundle, lambda d: d.update(runtime="openvino"))
    found = Predictor(bundle)
    assert np.allclose(found.logits(ODD), wanted, atol=1e-4)
    assert np.allclose(np.concatenate([found.logits([t]) for t in ODD]), wanted, atol=1e-4)


def test_a_manifest_that_names_a_model_outside_is_not_followed(bundle: Path) -> None:
    rewrite_manifest(bundle, lambda d: d.update(model="../other.onnx"))
    with pytest.raises(ValueError, match=r"'\.\./other\.onnx' is not a path that a manifest may name"):
        Predictor(bundle)


def test_on_a_device_lines_in_are_objects_out(bundle: Path) -> None:
    texts = ["my card", "", "my cárd", "a\rb\x0bc\u2028d"]
    result = run_predict(bundle, stdin="\n".join(texts).encode() + b"\n\xff\r\n")
    assert (result.returncode, result.stderr) == (0, b"")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    predictor = Predictor(bundle)
    assert answers == [predictor.predict(text) for text in [*texts, "\ufffd"]]


def test_on_a_device_nothing_is_written_into_the_bundle_nor_run_from_stray_compiled_files(bundle: Path) -> None:
    (bundle / "stray.py").write_text("raise SystemExit(99)")
    cached = bundle / "__pycache__" / f"cores.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(
        str(bundle / "stray.py"), str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    before = sorted(bundle.rglob("*"))
    result = subprocess.run(
        [sys.executable, str(bundle / "predict.py"), "--text", "my card", "--logits"], capture_output=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, b"")
    answer = json.loads(result.stdout)
    assert set(answer) == {"label", "score", "logits"}
    assert answer["logits"] == Predictor(bundle).logits(["my card"])[0].tolist()
    assert sorted(bundle.rglob("*")) == before


def test_on_a_device_each_answer_comes_before_the_next_question(bundle: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(bundle / "predict.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        for text in (b"my card\n", b"cash\n"):
            process.stdin.write(text)
            assert json.loads(process.stdout.readline())["label"] in LABELS
        process.stdin.close()
        assert process.wait(20) == 0


def test_on_a_device_images_are_read_from_paths(image_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "red one.png").write_bytes(png())
    wanted = {"label": "card", "score": pytest.approx(math.e / (math.e + 2 / math.e), rel=1e-5)}
    line = run_predict(image_bundle, stdin=f"{tmp_path / 'red one.png'}\n".encode())
    assert json.loads(line.stdout) == wanted, line.stderr
    single = run_predict(image_bundle, "--image", str(tmp_path / "red one.png"), "--logits")
    assert json.loads(single.stdout) == {**wanted, "logits": [1.0, -1.0, -1.0]}


def test_on_a_device_a_bad_image_exits_2_after_the_answers_before_it(image_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "bad.png").write_bytes(b"not an image")
    result = run_predict(image_bundle, stdin=f"{tmp_path / 'good.png'}\n{tmp_path / 'bad.png'}\n".encode())
    assert result.returncode == 2
    assert json.loads(result.stdout)["label"] == "card"
    assert result.stderr.decode().startswith(f"{tmp_path / 'bad.png'}: cannot be read (not an image")


def test_on_a_device_a_text_for_an_image_bundle_exits_2(image_bundle: Path) -> None:
    result = run_predict(image_bundle, "--text", "hello")
    assert (result.returncode, result.stderr) == (2, b"this bundle reads images: use --image\n")


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "tokenizer.json"])
def test_on_a_device_a_bundle_that_cannot_be_loaded_exits_2(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"{")
    result = run_predict(bundle, "--text", "hello")
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.startswith(b"the bundle cannot be loaded: ")
