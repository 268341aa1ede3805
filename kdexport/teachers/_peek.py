"""What a plan needs to know of a teacher before any work is done on it: size, arithmetic, tokenizer."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.backbones import InputShape, backbone_of, parse_spec
from kdexport.errors import BadInput, Damaged
from kdexport.nouns.project import TeacherSource
from kdexport.storage.files import read_users_json

if TYPE_CHECKING:
    import numpy as np

MAX_HEADER_BYTES = 100 << 20
EMBEDDINGS = ("word_embeddings.weight", "embed_tokens.weight", "wte.weight", "shared.weight")  # BERT, Llama, GPT-2, T5


@dataclass(frozen=True)
class TeacherGlance:
    """num_params and num_dense_params (without look-up tables): None where they cannot be told from files."""

    num_params: int | None
    num_dense_params: int | None
    spec: dict[str, object] | None = None

    def flops_per_row(self, shape: InputShape, num_classes: int) -> float | None:
        """Forward, one row: 2 x dense parameters x tokens (Kaplan et al. 2020, section 2.1), or the spec's count.

        None where the files tell neither: an ONNX graph, a function, a file of scores."""
        if self.spec is not None:
            spec = parse_spec(dict(self.spec))
            return backbone_of(spec).cost(spec, num_classes, shape).flops
        return None if self.num_dense_params is None else 2.0 * self.num_dense_params * max(shape.tokens, 1)


def glance(source: TeacherSource, num_classes: int, shape: InputShape) -> TeacherGlance:
    folder = source.model or (source.fit.base if source.fit else None)
    if source.fit is not None and source.fit.spec is not None:
        spec = parse_spec(source.fit.spec, "teachers: fit: spec")
        params = backbone_of(spec).cost(spec, num_classes, shape).num_params
        return TeacherGlance(params, params, source.fit.spec)
    files = _weight_files(folder) if folder is not None else []
    if folder is not None and files:
        shapes = {name: shape for file in files for name, shape in _safetensors_shapes(file).items()}
        total = sum(prod(s) for s in shapes.values())
        tables = sum(prod(s) for name, s in shapes.items() if "embeddings" in name)
        spec_file = folder / "spec.json"
        return TeacherGlance(total, total - tables, read_users_json(spec_file) if spec_file.is_file() else None)
    return TeacherGlance(None, None)


def require_tokenizer(path: Path) -> None:
    """Raises Damaged where the file is no tokenizer."""
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as e:  # tokenizers raises the bare class
        raise Damaged(f"{path}: not a tokenizer ({e}); save it again with a fast tokenizer") from e


def tokenizer_of(source: TeacherSource) -> str:
    """The teacher's tokenizer.json as text; empty where it has none."""
    folder = source.model or (source.fit.base if source.fit else None) or (source.onnx.parent if source.onnx else None)
    path = folder / "tokenizer.json" if folder else None
    return path.read_text(encoding="utf-8") if path and path.is_file() else ""


def embedding_of(source: TeacherSource) -> np.ndarray | None:
    """The token embedding, float32 (V, D), of a model folder, before a fit; None where there is none to read."""
    folder = source.model or (source.fit.base if source.fit else None)
    for path in _weight_files(folder) if folder is not None else []:
        for name, shape in _safetensors_shapes(path).items():
            if len(shape) == 2 and name.endswith(EMBEDDINGS):
                return _tensor(path, name)
    return None


def _tensor(path: Path, name: str) -> np.ndarray:
    import numpy as np
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="numpy") as f:
            return np.asarray(f.get_tensor(name), dtype=np.float32)
    except TypeError:  # bfloat16, which numpy has not
        with safe_open(str(path), framework="pt") as f:
            found: np.ndarray = f.get_tensor(name).float().numpy()
            return found


def classes_of(source: TeacherSource) -> tuple[str, ...]:
    """The teacher's class names, where the data has none. Raises BadInput where the teacher does not tell."""
    if source.labels:
        return source.labels
    if source.model and (source.model / "labels.json").is_file():
        return tuple(read_users_json(source.model / "labels.json"))
    if source.model and (source.model / "config.json").is_file():
        names = read_users_json(source.model / "config.json").get("id2label") or {}
        return tuple(names[k] for k in sorted(names, key=int))
    raise BadInput("data.labelled is false: give 'labels' for the first teacher, in the order of its outputs")


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards that an index names; empty where there is none.

    Raises BadInput where the index is not one, or names a file that is no plain name in the folder."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    document = read_users_json(index)
    names = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
        raise BadInput(f"{index}: wanted is 'weight_map', a file name for each tensor; save the model again")
    return [folder / name for name in sorted(set(names.values()))]


def _safetensors_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes from the header alone (safetensors format: 8 bytes of length, then JSON)."""
    try:
        with open(path, "rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            if size > MAX_HEADER_BYTES:
                raise ValueError("header too long")
            header = json.loads(f.read(size))
        return {k: v["shape"] for k, v in header.items() if k != "__metadata__"}
    except FileNotFoundError as e:
        raise BadInput(f"{path}: no such file, but the index names it; copy the model folder again") from e
    except (OSError, ValueError, struct.error, KeyError) as e:
        start = path.read_bytes()[:1]
        what = "a pickle (refused)" if start in (b"P", b"\x80") else "damaged"
        raise BadInput(f"{path}: not a safetensors file: {what}; save it with safetensors") from e
