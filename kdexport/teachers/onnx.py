"""A teacher that is an ONNX file: its first output is logits (B, C). Text needs `tokenizer.json` beside it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.errors import BadInput, Damaged, Unsupported
from kdexport.nouns.manifest import Preprocessor
from kdexport.nouns.project import TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.storage.files import content_key, read_users_json, sha256_file
from kdexport.storage.tables import Raw
from kdexport.tasks import load_task
from kdexport.teachers import TeacherContext, columns_for, member_of
from kdexport.teachers._peek import require_tokenizer

if TYPE_CHECKING:
    import numpy as np

MAX_LENGTH = 512


def ready(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    assert source.onnx is not None
    model = _checked(source, context)
    _copy_graph(source.onnx, folder / "teacher.onnx")
    weights = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    is_text = _is_text(context)
    preprocessor = _text_preprocessor(source.onnx, folder) if is_text else _image_preprocessor(inputs[0], context)
    return member_of(
        source,
        kind="onnx",
        name=source.onnx.stem,
        classes=source.labels or context.classes,
        num_params=sum(_size(i.dims) for i in model.graph.initializer if i.data_type in (1, 10, 16)),
        graph="teacher.onnx",
        input_names=tuple(i.name for i in inputs),
        preprocessor=preprocessor,
        tokenizer=preprocessor.tokenizer or None,
        source=str(source.onnx),
        sha256=content(source),
    )


def check(source: TeacherSource, context: TeacherContext) -> None:
    _checked(source, context)


def _checked(source: TeacherSource, context: TeacherContext) -> Any:
    """The graph, which is one, has as many outputs as classes are named, and a tokenizer where it needs one."""
    import onnx

    assert source.onnx is not None
    if not source.onnx.is_file():
        raise BadInput(f"{source.onnx}: no such ONNX file")
    try:
        model = onnx.load(str(source.onnx), load_external_data=False)
        onnx.checker.check_model(str(source.onnx))
    except Exception as e:  # onnx raises a dozen unrelated classes for a file that is no model
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise Damaged(f"{source.onnx}: not a valid ONNX model ({reason}); export or copy it again") from e
    classes = source.labels or context.classes
    columns_for(classes, context.classes, str(source.onnx))
    if _is_text(context):
        require_tokenizer(_tokenizer_file(source.onnx))
    return model


def _is_text(context: TeacherContext) -> bool:
    return load_task(context.project.task).input_kind == "text"


def answer(source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw], folder: Path) -> np.ndarray:
    raise AssertionError("an ONNX teacher is run as a graph")


def content(source: TeacherSource) -> str:
    """Hash of the graph, of the weights and of the tokenizer that stand beside it."""
    assert source.onnx is not None
    files = [source.onnx, *_weight_files(source.onnx), source.onnx.parent / "tokenizer.json"]
    return content_key([(p.name, sha256_file(p)) for p in files if p.is_file()])


def _weight_files(graph: Path) -> list[Path]:
    """Files that hold the weights of a graph whose own file does not."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        tensors = onnx.load(str(graph), load_external_data=False).graph.initializer
    except (OSError, DecodeError):  # `ready` says what is wrong with it
        return []
    return sorted({graph.parent / ExternalDataInfo(t).location for t in tensors if uses_external_data(t)})


def _copy_graph(graph: Path, path: Path) -> None:
    """As one file, the weights inside. Raises Unsupported over protobuf's 2 GiB."""
    import onnx

    if not _weight_files(graph):
        shutil.copyfile(graph, path)
        return
    try:
        onnx.save(onnx.load(str(graph)), str(path))
    except ValueError as e:
        raise Unsupported(f"{graph}: with its weights it is over 2 GiB, which one ONNX file cannot hold") from e


def _text_preprocessor(graph: Path, folder: Path) -> Preprocessor:
    beside = _tokenizer_file(graph)
    shutil.copyfile(beside, folder / "tokenizer.json")
    truncation = read_users_json(beside).get("truncation") or {}
    limit = min(int(truncation.get("max_length", MAX_LENGTH)), MAX_LENGTH)
    return Preprocessor(kind="text", tokenizer="tokenizer.json", max_length=limit)


def _tokenizer_file(graph: Path) -> Path:
    beside = graph.parent / "tokenizer.json"
    if not beside.is_file():
        raise BadInput(f"{beside}: a text teacher in ONNX needs its tokenizer.json beside it")
    return beside


def _image_preprocessor(graph_input: Any, context: TeacherContext) -> Preprocessor:
    """Size from the graph, normalisation from the data (kdexport's own rule)."""
    dims = [d.dim_value for d in graph_input.type.tensor_type.shape.dim]
    own = load_task(context.project.task).prepare(context.train_inputs, "", 0).preprocessor
    if len(dims) != 4:
        raise BadInput(f"input '{graph_input.name}' has {len(dims)} axes; images are (B, channels, height, width)")
    height, width = dims[2] or own.height, dims[3] or own.width
    return own.model_copy(update={"height": height, "width": width})


def _size(dims: Sequence[int]) -> int:
    size = 1
    for d in dims:
        size *= d
    return size
