from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kdexport.bundle.runner.verify as runner_verify
from kdexport.bundle.verify import load_predictor, read_manifest, verify
from kdexport.bundle.write import RUNNER_FILES
from kdexport.errors import BadInput, Damaged

from .conftest import rewrite_manifest

FILES = ["model.onnx", "tokenizer.json", "golden.json", "requirements.txt", *RUNNER_FILES]


def run_verify(bundle: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(bundle / "verify.py")]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_found(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    assert only(verify(bundle)).startswith(f"{name}: SHA-256 ")


def test_one_flipped_bit_anywhere_in_the_manifest_is_found(bundle: Path) -> None:
    good = (bundle / "manifest.json").read_bytes()
    for at in range(0, len(good), 53):
        data = bytearray(good)
        data[at] ^= 1
        (bundle / "manifest.json").write_bytes(data)
        with pytest.raises(Damaged, match="copy the bundle again"):
            verify(bundle)


def test_a_truncated_file_is_found_by_its_size(bundle: Path) -> None:
    size = (bundle / "model.onnx").stat().st_size
    os.truncate(bundle / "model.onnx", size - 1)
    assert only(verify(bundle)) == f"model.onnx: {size - 1:,} bytes, the manifest says {size:,}"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert only(verify(bundle)) == f"{name}: missing"


def test_an_extra_file_is_named_at_any_depth(bundle: Path) -> None:
    (bundle / "a" / "b").mkdir(parents=True)
    (bundle / "a" / "b" / "extra.txt").write_text("x")
    assert only(verify(bundle)) == "a/b/extra.txt: not in the manifest"


def test_compiled_python_files_are_ignored(bundle: Path) -> None:
    (bundle / "__pycache__").mkdir()
    (bundle / "__pycache__" / "predict.cpython-311.pyc").write_bytes(b"x")
    assert verify(bundle) == []


def test_links_are_refused_even_to_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "model.onnx", tmp_path / "model.onnx")
    (bundle / "model.onnx").symlink_to(tmp_path / "model.onnx")
    (bundle / "__pycache__").symlink_to(tmp_path)
    assert verify(bundle) == ["__pycache__: is a link", "model.onnx: is a link", "model.onnx: missing"]


def test_a_folder_or_a_pipe_in_place_of_a_file_is_not_opened(bundle: Path) -> None:
    for name in ("model.onnx", "tokenizer.json"):
        (bundle / name).unlink()
    (bundle / "model.onnx").mkdir()
    os.mkfifo(bundle / "tokenizer.json")
    assert verify(bundle) == ["model.onnx: missing", "tokenizer.json: is not a plain file", "tokenizer.json: missing"]


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:\\secret", "manifest.json", ""]
)
def test_a_path_that_leaves_the_bundle_is_named_and_not_opened(bundle: Path, path: str) -> None:
    (bundle.parent / "secret").write_text("x")
    digest = runner_verify._sha256(bundle.parent / "secret", 1)
    rewrite_manifest(bundle, lambda d: d["files"].append({"path": path, "bytes": 1, "sha256": digest}))
    assert only(verify(bundle)) == f"{path!r}: is not a path that a manifest may name"


def test_a_file_named_twice_is_refused(bundle: Path) -> None:
    rewrite_manifest(bundle, lambda d: d["files"].append(d["files"][0]))
    assert "manifest.json: names a file twice" in verify(bundle)


def test_a_huge_sparse_file_is_refused_without_reading_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(bundle / "model.onnx", 10 << 30)
    hashed = runner_verify._sha256

    def small_files_only(file: Path, size: int) -> str:
        assert file.name != "model.onnx"
        return hashed(file, size)

    monkeypatch.setattr(runner_verify, "_sha256", small_files_only)
    assert "10,737,418,240 bytes, the manifest says" in only(verify(bundle)) or "over the limit" in only(verify(bundle))

    def declare(document: dict[str, Any]) -> None:
        next(f for f in document["files"] if f["path"] == "model.onnx")["bytes"] = 10 << 30

    rewrite_manifest(bundle, declare)
    assert only(verify(bundle)) == "model.onnx: 10,737,418,240 bytes is over the limit of 8,589,934,592"
    os.truncate(bundle / "manifest.json", 10 << 30)
    with pytest.raises(Damaged, match="is over 16,777,216 bytes"):
        verify(bundle)


def test_a_duplicate_key_is_refused(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace('"name": "tiny"', '"name": "other",\n "name": "tiny"'))
    with pytest.raises(Damaged, match="key 'name' stands twice"):
        read_manifest(bundle)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"null", b'{"a": NaN}', b"[" * 100_000])
def test_what_is_no_manifest_is_refused(bundle: Path, data: bytes) -> None:
    (bundle / "manifest.json").write_bytes(data)
    with pytest.raises(Damaged, match=r"manifest\.json"):
        verify(bundle)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"path": "x", "bytes": -1, "sha256": "0" * 64},
        {"path": "x", "bytes": True, "sha256": "0" * 64},
        {"path": "x", "bytes": 1, "sha256": "0" * 63},
    ],
)
def test_malformed_entries_are_refused(bundle: Path, entry: Any) -> None:
    rewrite_manifest(bundle, lambda d: d["files"].append(entry))
    with pytest.raises(Damaged, match="'files' must list path, bytes and sha256"):
        verify(bundle)


def test_a_manifest_of_another_version_names_the_key(bundle: Path) -> None:
    rewrite_manifest(bundle, lambda d: d.update(schema_version=2))
    with pytest.raises(Damaged, match=r"schema_version: .* written by another version\?"):
        read_manifest(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BadInput, match=r"is .* a bundle\?"):
            verify(folder)


def test_a_damaged_bundle_is_not_loaded(bundle: Path) -> None:
    (bundle / "tokenizer.json").write_text("{}")
    with pytest.raises(
        Damaged, match=r"tokenizer\.json: 2 bytes, the manifest says .*\. Copy or write the bundle again"
    ):
        load_predictor(bundle)


def test_a_whole_bundle_is_loaded(bundle: Path) -> None:
    assert load_predictor(bundle).logits(["my card"]).shape == (1, 3)


def test_a_runtime_that_cannot_run_here_says_what_to_do(bundle: Path) -> None:
    rewrite_manifest(bundle, lambda d: d.update(runtime="tensorrt"))
    with pytest.raises(BadInput, match=r"run `python build\.py` on this device first"):
        load_predictor(bundle)


def test_on_a_device_it_says_ok_and_exits_0(bundle: Path) -> None:
    result = run_verify(bundle)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"ok: {len(FILES)} files\n", "")


def test_on_a_device_it_names_each_difference_and_exits_1(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    (bundle / "extra").write_text("x")
    result = run_verify(bundle)
    assert (result.returncode, result.stdout) == (1, "extra: not in the manifest\nmodel.onnx: missing\n")


def test_on_a_device_an_unreadable_manifest_exits_2(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("{")
    broken = run_verify(bundle)
    assert (broken.returncode, broken.stdout) == (2, "")
    assert "is not a manifest" in broken.stderr
    (bundle / "manifest.json").unlink()
    absent = run_verify(bundle)
    assert absent.returncode == 2
    assert "manifest.json: cannot be read (No such file or directory)" in absent.stderr


def test_the_layout_of_the_manifest_is_part_of_its_identity(bundle: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(Damaged, match="its checksum or layout differs"):
        verify(bundle)
