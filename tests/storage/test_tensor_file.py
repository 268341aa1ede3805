from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from kdexport.errors import BadInput, Damaged
from kdexport.storage.tensor_file import copy_tensors, create, data_sha256, open_arrays

LAYOUT = {"a": ("float16", (3, 2)), "b": ("uint16", (3,))}


def filled(path: Path) -> Path:
    create(path, LAYOUT)
    arrays, _ = open_arrays(path, writable=True)
    arrays["a"][:], arrays["b"][:] = np.arange(6).reshape(3, 2), [7, 8, 9]
    return path


def test_a_new_file_has_its_final_size_and_holds_zeros(tmp_path: Path) -> None:
    create(tmp_path / "f.safetensors", LAYOUT)
    size = (tmp_path / "f.safetensors").stat().st_size
    arrays, metadata = open_arrays(tmp_path / "f.safetensors")
    assert (arrays["a"].tolist(), arrays["b"].tolist(), metadata) == ([[0, 0]] * 3, [0, 0, 0], {})
    filled(tmp_path / "f.safetensors")
    assert (tmp_path / "f.safetensors").stat().st_size == size


def test_what_is_written_in_place_is_what_safetensors_reads(tmp_path: Path) -> None:
    found = load_file(filled(tmp_path / "f.safetensors"))
    assert {k: (v.dtype.name, v.tolist()) for k, v in found.items()} == {
        "a": ("float16", [[0, 1], [2, 3], [4, 5]]),
        "b": ("uint16", [7, 8, 9]),
    }


def test_what_safetensors_writes_is_mapped(tmp_path: Path) -> None:
    save_file({"x": np.eye(2, dtype=np.float32)}, tmp_path / "f.safetensors", {"made": "here"})
    arrays, metadata = open_arrays(tmp_path / "f.safetensors")
    assert isinstance(arrays["x"], np.memmap)
    assert (arrays["x"].tolist(), metadata) == ([[1, 0], [0, 1]], {"made": "here"})


def test_a_copy_has_other_metadata_and_the_same_tensors(tmp_path: Path) -> None:
    source = filled(tmp_path / "f.safetensors")
    copy_tensors(source, tmp_path / "copy.safetensors", {"made": "there"})
    with safe_open(str(tmp_path / "copy.safetensors"), "np") as f:
        assert f.metadata() == {"made": "there"}
    assert data_sha256(source) == data_sha256(tmp_path / "copy.safetensors")
    copy_tensors(tmp_path / "copy.safetensors", tmp_path / "back.safetensors", {})
    assert (tmp_path / "back.safetensors").read_bytes() == source.read_bytes()


def test_the_hash_is_of_every_bit_of_the_tensors(tmp_path: Path) -> None:
    path = filled(tmp_path / "f.safetensors")
    before, data = data_sha256(path), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert data_sha256(path) != before


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x04\0\0\0\0\0\0\0[1] ", b"text, no tensors"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.safetensors").write_bytes(content)
    with pytest.raises(Damaged, match=r"f\.safetensors: .*not a safetensors file"):
        open_arrays(tmp_path / "f.safetensors")


@pytest.mark.parametrize("lost", [1, 7, 17])
def test_a_file_cut_short_is_refused(tmp_path: Path, lost: int) -> None:
    path = filled(tmp_path / "f.safetensors")
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(Damaged, match=r"f\.safetensors: truncated"):
        open_arrays(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.safetensors: cannot be read"):
        open_arrays(tmp_path / "none.safetensors")
