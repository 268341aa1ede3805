"""What is known of a teacher before it is made ready."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kdexport.backbones import InputShape
from kdexport.errors import BadInput
from kdexport.nouns.project import TeacherSource
from kdexport.teachers._peek import glance

SHAPE = InputShape(tokens=10)
TENSORS = {
    "embeddings.word_embeddings.weight": np.zeros((100, 8), np.float32),
    "encoder.weight": np.zeros((8, 8), np.float32),
    "classifier.weight": np.zeros((8, 3), np.float32),
}


def write_shards(folder: Path) -> None:
    names = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(TENSORS)}
    for file in set(names.values()):
        save_file({n: t for n, t in TENSORS.items() if names[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_shards_are_counted_as_one_file(tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    save_file(TENSORS, one / "model.safetensors")
    write_shards(many)
    whole, sharded = (glance(TeacherSource(model=folder), 3, SHAPE) for folder in (one, many))
    assert whole == sharded
    assert (sharded.num_params, sharded.num_dense_params) == (888, 88)
    assert sharded.flops_per_row(SHAPE, 3) == 2 * 88 * 10


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadInput, match=r"model-00002-of-00002\.safetensors: no such file, but the index names it"):
        glance(TeacherSource(model=tmp_path), 3, SHAPE)


@pytest.mark.parametrize("document", ["[]", "{}", '{"weight_map": {"a": "../elsewhere.safetensors"}}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(document)
    with pytest.raises(BadInput, match=r"index\.json: wanted is 'weight_map'"):
        glance(TeacherSource(model=tmp_path), 3, SHAPE)


@pytest.mark.parametrize("source", [{"onnx": "t.onnx"}, {"function": "m:f"}, {"scores": "s.jsonl"}])
def test_arithmetic_that_no_file_tells_is_not_known_rather_than_zero(source: dict[str, str]) -> None:
    assert glance(TeacherSource.model_validate(source), 3, SHAPE).flops_per_row(SHAPE, 3) is None
