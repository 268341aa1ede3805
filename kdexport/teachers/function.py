"""A teacher that is a Python function: `module:function`, list of raw inputs -> (N, C) logits."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.errors import BadInput
from kdexport.nouns.project import TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.storage.files import content_key, sha256_file
from kdexport.storage.tables import Raw
from kdexport.teachers import TeacherContext, columns_for

if TYPE_CHECKING:
    import numpy as np


def ready(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    assert source.function is not None
    _load(source.function)
    classes = source.labels or context.classes
    columns_for(classes, context.classes, source.function)
    return TeacherMember(
        kind="function",
        name=source.function,
        classes=tuple(classes),
        weight=source.weight,
        source=source.function,
        sha256=content(source),
        seen_dev="train" in source.trained_on,
        licence=source.licence,
    )


def content(source: TeacherSource) -> str:
    """Hash of the function's name and of the file of its module; what that file imports is not looked into."""
    assert source.function is not None
    _see_working_folder()
    try:
        found = importlib.util.find_spec(source.function.partition(":")[0])
    except (ImportError, ValueError):  # `ready` says what is wrong with it
        found = None
    code = Path(found.origin) if found and found.origin else None
    return content_key(source.function, sha256_file(code) if code and code.is_file() else "")


def answer(source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw]) -> np.ndarray:
    import numpy as np

    assert source.function is not None
    logits = np.asarray(_load(source.function)(list(inputs)), dtype=np.float32)
    wanted = (len(inputs), len(member.classes))
    if logits.shape != wanted or not np.isfinite(logits).all():
        raise BadInput(f"teacher {source.function}: finite logits of shape {wanted} are wanted, found {logits.shape}")
    return logits


def _load(name: str) -> Callable[[list[Any]], Any]:
    module_name, _, function_name = name.partition(":")
    _see_working_folder()
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as e:
        raise BadInput(f"teacher function '{name}' cannot be loaded ({e}); write it as module:function") from e
    if not callable(function):
        raise BadInput(f"teacher function '{name}' is not callable")
    return function  # type: ignore[no-any-return]


def _see_working_folder() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
