from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

import kdexport.bundle.write as write
from kdexport.bundle.verify import read_manifest, verify
from kdexport.bundle.write import RUNNER, RUNNER_FILES, bundle_sha256, write_bundle
from kdexport.errors import BadInput
from kdexport.storage.files import sha256_bytes

from .conftest import image_manifest, image_model, png, text_manifest

Files = dict[str, Path | bytes]
GOLDEN_MANIFEST = Path(__file__).parent / "golden_manifest.json"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write_text(folder: Path, files: Files, **changes: object) -> None:
    write_bundle(folder, text_manifest(**changes), files, golden=[("my card", [0.0, 1.0, 2.0])])


def test_a_bundle_holds_its_files_its_code_and_the_hash_of_each(bundle: Path) -> None:
    found = contents(bundle)
    manifest = read_manifest(bundle)
    assert set(found) == {
        "model.onnx",
        "tokenizer.json",
        "manifest.json",
        "golden.json",
        "requirements.txt",
        *RUNNER_FILES,
    }
    assert {f.path for f in manifest.files} == set(found) - {"manifest.json"}
    assert all(sha256_bytes(found[f.path]) == f.sha256 and len(found[f.path]) == f.bytes for f in manifest.files)
    assert all(found[name] == (RUNNER / name).read_bytes() for name in RUNNER_FILES)
    assert json.loads(found["golden.json"]) == [{"text": "my card", "logits": [0.0, 1.0, 2.0]}]
    assert verify(bundle) == []


def test_the_manifest_returned_is_the_one_on_disk(tmp_path: Path, text_files: Files) -> None:
    returned = write_bundle(tmp_path / "b", text_manifest(), text_files, golden=[])
    assert returned == read_manifest(tmp_path / "b")
    assert len(returned.checksum) == 64


def test_two_writes_are_byte_identical(tmp_path: Path, text_files: Files) -> None:
    model = tmp_path / "elsewhere.onnx"
    model.write_bytes(text_files["model.onnx"])  # type: ignore[arg-type]
    write_text(tmp_path / "a", text_files)
    write_text(tmp_path / "b", {"tokenizer.json": text_files["tokenizer.json"], "model.onnx": model})
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert bundle_sha256(tmp_path / "a") == bundle_sha256(tmp_path / "b")


def test_the_manifest_is_written_as_in_the_golden_file(bundle: Path) -> None:
    """Its hashes and pins follow the versions installed, so `files` and `checksum` are compared by shape alone."""
    document = json.loads((bundle / "manifest.json").read_text())
    document["files"] = sorted(f["path"] for f in document["files"])
    document["checksum"] = len(document["checksum"])
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    assert text == GOLDEN_MANIFEST.read_text(), f"if the change is meant, write this to {GOLDEN_MANIFEST}:\n{text}"


def test_the_same_content_leaves_the_bundle_alone(bundle: Path, text_files: Files) -> None:
    before = bundle.stat().st_ino, (bundle / "model.onnx").stat().st_mtime_ns
    write_text(bundle, text_files)
    assert (bundle.stat().st_ino, (bundle / "model.onnx").stat().st_mtime_ns) == before


def test_a_damaged_bundle_is_written_again(bundle: Path, text_files: Files) -> None:
    (bundle / "model.onnx").write_bytes(b"x")
    write_text(bundle, text_files)
    assert verify(bundle) == []


@pytest.mark.parametrize("can_exchange", [True, False])
def test_other_content_replaces_the_bundle_and_leaves_nothing_beside_it(
    bundle: Path, text_files: Files, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(write, "_exchange", lambda a, b: False)
    (bundle / "stray.txt").write_text("x")
    write_text(bundle, text_files, name="other")
    assert verify(bundle) == []
    assert read_manifest(bundle).name == "other"
    assert os.listdir(bundle.parent) == [bundle.name]


@pytest.mark.parametrize("at", range(1, 12, 3))
def test_a_failure_at_any_file_leaves_the_old_bundle_or_none(
    bundle: Path, tmp_path: Path, text_files: Files, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    before, calls, put = contents(bundle), [0], write._put

    def failing(path: Path, content: Path | bytes) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        put(path, content)

    monkeypatch.setattr(write, "_put", failing)
    for folder in (bundle, tmp_path / "new"):
        calls[0] = 0
        with pytest.raises(KeyboardInterrupt):
            write_text(folder, text_files, name="other")
    assert contents(bundle) == before
    assert os.listdir(tmp_path) == [bundle.name]


def test_a_failed_second_rename_puts_the_old_bundle_back(
    bundle: Path, text_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, replace = contents(bundle), os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(source).suffix == ".tmp":
            raise OSError(28, "No space left on device", str(source))
        replace(source, target)

    monkeypatch.setattr(write, "_exchange", lambda a, b: False)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(BadInput, match=r"bundle cannot be written \(No space left"):
        write_text(bundle, text_files, name="other")
    assert contents(bundle) == before
    assert os.listdir(bundle.parent) == [bundle.name]


def test_a_folder_that_is_no_bundle_is_not_overwritten(tmp_path: Path, text_files: Files) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("precious")
    with pytest.raises(BadInput, match="exists and is no bundle; it is not overwritten"):
        write_text(tmp_path / "thesis", text_files)
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    with pytest.raises(BadInput, match="is no bundle"):
        write_text(tmp_path / "link", text_files)


def test_an_empty_folder_is_filled(tmp_path: Path, text_files: Files) -> None:
    (tmp_path / "empty").mkdir()
    write_text(tmp_path / "empty", text_files)
    assert verify(tmp_path / "empty") == []


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/passwd", "a//b", "a\\b", "C:evil", "", "manifest.json", "predict.py", "a/../b", "\n"]
)
def test_a_path_that_leaves_the_bundle_or_is_its_own_is_refused(tmp_path: Path, text_files: Files, path: str) -> None:
    with pytest.raises(BadInput, match="a relative path is wanted that the bundle does not use itself"):
        write_text(tmp_path / "b", {**text_files, path: b"x"})
    assert os.listdir(tmp_path) == []


def test_a_manifest_must_name_files_that_are_given(tmp_path: Path, text_files: Files) -> None:
    with pytest.raises(BadInput, match=r"names 'tokenizer.json', which is not among the files: model.onnx"):
        write_text(tmp_path / "b", {"model.onnx": text_files["model.onnx"]})


def test_golden_logits_must_match_the_labels(tmp_path: Path, text_files: Files) -> None:
    with pytest.raises(BadInput, match="a golden vector has 2 logits, the manifest 3 labels"):
        write_bundle(tmp_path / "b", text_manifest(), text_files, golden=[("x", [0.0, 1.0])])


@pytest.mark.parametrize("key", ["figures", "lineage"])
def test_nan_in_the_manifest_is_refused_at_birth(key: str) -> None:
    with pytest.raises(ValidationError, match="holds NaN or infinity"):
        text_manifest(**{key: {"latency": [{"p50_ms": float("nan")}]}})


def test_a_value_that_json_cannot_hold_is_refused(tmp_path: Path, text_files: Files) -> None:
    with pytest.raises(BadInput, match="lineage or figures hold what JSON cannot"):
        write_text(tmp_path / "b", text_files, lineage={"seed": object()})
    assert os.listdir(tmp_path) == []


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, text_files: Files) -> None:
    with pytest.raises(BadInput, match=r"absent\.onnx: bundle cannot be written \(No such file"):
        write_text(tmp_path / "b", {**text_files, "model.onnx": tmp_path / "absent.onnx"})


def test_requirements_are_what_the_runner_imports(tmp_path: Path, bundle: Path, image_bundle: Path) -> None:
    from importlib.metadata import version

    measured = f"onnxruntime>={version('onnxruntime')}"
    lines = (bundle / "requirements.txt").read_text().splitlines()
    assert lines == [measured, "tokenizers>=0.15", "numpy>=1.20"]
    assert "Pillow>=9.4" in (image_bundle / "requirements.txt").read_text()
    assert "tokenizers" not in (image_bundle / "requirements.txt").read_text()


def test_a_recipe_asks_for_versions_that_an_older_python_has(tmp_path: Path) -> None:
    manifest = image_manifest(artifact="recipe", runtime="tensorrt")
    write_bundle(tmp_path / "r", manifest, {"model.onnx": image_model()}, golden=[(png(), [1.0, -1.0, -1.0])])
    assert (tmp_path / "r" / "requirements.txt").read_text() == "Pillow>=9.4\nnumpy>=1.20\n"


def test_a_bundle_can_be_copied(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    assert verify(tmp_path / "copy") == []


@pytest.mark.parametrize("name", RUNNER_FILES)
def test_the_runner_parses_under_python_3_8_and_imports_nothing_of_kdexport(name: str) -> None:
    tree = ast.parse((RUNNER / name).read_text(), feature_version=(3, 8))
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not any("kdexport" in ast.unparse(n) for n in imports)
    assert any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in imports)


@pytest.mark.parametrize("name", RUNNER_FILES)
def test_the_runner_uses_no_generic_type_at_run_time_that_python_3_8_lacks(name: str) -> None:
    """Annotations are strings; everything else that subscripts a builtin or joins types with | would fail there."""
    tree = ast.parse((RUNNER / name).read_text())
    annotations = {id(sub) for node in ast.walk(tree) for part in _annotations(node) for sub in ast.walk(part)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and id(node) not in annotations:
            assert node.value.id not in ("list", "dict", "tuple", "set", "type", "Callable", "Iterator"), ast.unparse(
                node
            )
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id == "zip" and node.keywords), ast.unparse(node)
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            assert method not in ("removeprefix", "removesuffix", "is_relative_to"), ast.unparse(node)


def _annotations(node: ast.AST) -> list[ast.AST]:
    parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [p for p in parts if p is not None]
