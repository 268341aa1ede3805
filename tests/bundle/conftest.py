"""A tiny text bundle and a tiny image bundle: real graphs, a real tokenizer, a few kilobytes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from kdexport.bundle.write import write_bundle
from kdexport.nouns.manifest import Manifest, Preprocessor

LABELS = ("card", "cash", "transfer")
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "my",
    "card",
    "cash",
    "how",
    "do",
    "i",
    "get",
    "trans",
    "##fer",
    "é",
    "中",
    "caf",
    "##e",
    "hello",
    "##lo",
    "_",
    "a",
]
MAX_LENGTH = 12


def word_piece(**normaliser: Any) -> Tokenizer:
    pieces = [*SPECIALS, *WORDS, *"bcdefghijklmnopqrstuvwxyz0123456789'?!,.[]", *(f"##{c}" for c in "abcdxyz0123")]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(**normaliser)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def graph(nodes: list[onnx.NodeProto], input_: onnx.ValueInfoProto, constants: dict[str, np.ndarray]) -> bytes:
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [input_],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", len(LABELS)])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def text_model(vocabulary: int, scale: float = 1.0) -> bytes:
    """Sum of one row of a table for each token; the row of [PAD] is zero, so padding changes nothing."""
    table = np.random.default_rng(0).normal(size=(vocabulary, len(LABELS))).astype(np.float32) * scale
    table[0] = 0
    return graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("ReduceSum", ["rows", "axis"], ["logits"], keepdims=0),
        ],
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "T"]),
        {"table": table, "axis": np.array([1], np.int64)},
    )


def image_model() -> bytes:
    """The mean of each channel."""
    return graph(
        [helper.make_node("ReduceMean", ["pixels"], ["logits"], axes=[2, 3], keepdims=0)],
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 3, "H", "W"]),
        {},
    )


def png(colour: tuple[int, int, int] | int = (255, 0, 0), size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, colour).save(data, "PNG")
    return data.getvalue()


def text_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "tiny",
        "task": "text_classification",
        "target": "local",
        "artifact": "engine",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "threads": 1,
        "labels": LABELS,
        "model": "model.onnx",
        "input_name": "ids",
        "preprocessor": Preprocessor(kind="text", tokenizer="tokenizer.json", max_length=MAX_LENGTH),
        "lineage": {"seed": 0, "teacher": "aaaa"},
        "figures": {"quality": {"value": 0.5, "n": 2}},
    }
    return Manifest(**{**fields, **changes})


def image_manifest(**changes: Any) -> Manifest:
    spec = Preprocessor(kind="image", height=4, width=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return text_manifest(task="image_classification", input_name="pixels", preprocessor=spec, **changes)


@pytest.fixture(scope="session")
def text_files() -> dict[str, Path | bytes]:
    tokenizer = word_piece()
    return {"model.onnx": text_model(tokenizer.get_vocab_size()), "tokenizer.json": tokenizer.to_str().encode()}


@pytest.fixture
def bundle(tmp_path: Path, text_files: dict[str, Path | bytes]) -> Path:
    folder = tmp_path / "bundle"
    write_bundle(folder, text_manifest(), text_files, golden=[("my card", [0.0, 1.0, 2.0])])
    return folder


@pytest.fixture
def image_bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    write_bundle(folder, image_manifest(), {"model.onnx": image_model()}, golden=[(png(), [1.0, -1.0, -1.0])])
    return folder


def rewrite_manifest(folder: Path, change: Any) -> None:
    """Apply `change` to the manifest's dict in place and give it a right checksum again, as a forger would."""
    from kdexport.bundle.runner.verify import serialise

    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_bytes(serialise(document))
