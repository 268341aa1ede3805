"""A safetensors file that is filled in place: made with its final size, mapped into memory, never read whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.errors import BadInput, Damaged
from kdexport.storage.files import CHUNK_BYTES, replacing

if TYPE_CHECKING:
    import numpy as np

DTYPES = {"F16": "float16", "F32": "float32", "U16": "uint16", "U32": "uint32"}  # safetensors' name: numpy's
LENGTH_BYTES = 8  # the header's length stands before it, little-endian
MAX_HEADER_BYTES = 1 << 24
Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # name: (numpy's dtype, shape), in the order of the file


def create(path: Path, layout: Layout) -> None:
    """The file with every block claimed, all zero: on a full disk a write to mapped memory would end the process
    (SIGBUS), here it is BadInput."""
    header, size = _header(layout, {})
    with replacing(path) as temporary, open(temporary, "r+b") as f:
        f.write(header)
        os.posix_fallocate(f.fileno(), 0, len(header) + size)


def open_arrays(path: Path, *, writable: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays mapped into memory, metadata). Raises BadInput for a missing file, Damaged for one that is cut short
    or no safetensors."""
    import numpy as np

    start, header = _read_header(path)
    metadata = header.pop("__metadata__", {})
    arrays: dict[str, np.ndarray] = {}
    try:
        for name, entry in header.items():
            begin = start + int(entry["data_offsets"][0])
            dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
            if shape and 0 in shape:  # nothing to map
                arrays[name] = np.empty(shape, dtype)
            else:
                arrays[name] = np.memmap(path, dtype, "r+" if writable else "r", begin, shape)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as e:
        raise Damaged(f"{path}: truncated or not a safetensors file ({e})") from e
    return arrays, metadata


def data_sha256(path: Path) -> str:
    """SHA-256 of the tensors' bytes, without the header."""
    digest = hashlib.sha256()
    start, _ = _read_header(path)
    with open(path, "rb") as f:
        f.seek(start)
        while chunk := f.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def copy_tensors(source: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """The same tensors under other metadata, written atomically, a MiB at a time."""
    start, header = _read_header(source)
    header.pop("__metadata__", None)
    with replacing(path) as temporary, open(source, "rb") as f, open(temporary, "wb") as copy:
        copy.write(_framed({**({"__metadata__": dict(metadata)} if metadata else {}), **header}))
        f.seek(start)
        while chunk := f.read(CHUNK_BYTES):
            copy.write(chunk)


def _header(layout: Layout, metadata: Mapping[str, str]) -> tuple[bytes, int]:
    """(header with its length before it, bytes of all tensors)."""
    import numpy as np

    names = {value: key for key, value in DTYPES.items()}
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in layout.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        entries[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    return _framed(entries), offset


def _framed(header: Mapping[str, object]) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)  # tensors start aligned, as the format asks
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """(where the tensors start, the header)."""
    try:
        with open(path, "rb") as f:
            length = int.from_bytes(f.read(LENGTH_BYTES), "little")
            header = json.loads(f.read(length)) if 0 < length <= MAX_HEADER_BYTES else None
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror})") from e
    except ValueError as e:
        raise Damaged(f"{path}: not a safetensors file ({e})") from e
    if not isinstance(header, dict):
        raise Damaged(f"{path}: truncated or not a safetensors file")
    return LENGTH_BYTES + length, header
