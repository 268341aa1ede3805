from __future__ import annotations

import pytest

from kdexport.nouns.manifest import FileEntry, Manifest, Preprocessor
from kdexport.stages.bundle import bytes_loaded

SIZES = {"model.onnx": 1, "model.engine": 10, "model.xml": 100, "model.bin": 1_000, "tokenizer.json": 10_000}


@pytest.mark.parametrize(
    ("model", "others", "size"),
    [("model.onnx", [], 10_001), ("model.xml", ["model.bin"], 11_100), ("model.engine", ["model.onnx"], 10_010)],
    ids=["a graph", "OpenVINO's pair", "an engine beside its graph"],
)
def test_what_is_loaded_is_model_weights_and_tokenizer(model: str, others: list[str], size: int) -> None:
    paths = [model, *others, "tokenizer.json"]
    files = [FileEntry(path=p, bytes=SIZES[p], sha256="0" * 64) for p in paths]
    files.append(FileEntry(path="predict.py", bytes=5, sha256="0" * 64))
    manifest = Manifest(
        name="n",
        task="text_classification",
        target="t",
        artifact="engine",
        runtime="r",
        precision="fp16",
        threads=1,
        labels=("a", "b"),
        model=model,
        input_name="input_ids",
        preprocessor=Preprocessor(kind="text", tokenizer="tokenizer.json", max_length=8),
        files=tuple(files),
    )
    assert bytes_loaded(manifest) == size
