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
from kdexport.teachers import TeacherContext, columns_for, member_of

if TYPE_CHECKING:
    import numpy as np


def ready(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    assert source.function is not None
    check(source, context)
    return member_of(
        source,
        kind="function",
        name=source.function,
        classes=source.labels or context.classes,
        source=source.function,
        sha256=content(source),
    )


def check(source: TeacherSource, context: TeacherContext) -> None:
    assert source.function is not None
    _load(source.function)
    columns_for(source.labels or context.classes, context.classes, source.function)


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


def answer(source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw], folder: Path) -> np.ndarray:
    import numpy as np

    assert source.function is not None
    function = _load(source.function)
    try:
        logits = np.asarray(function(list(inputs)), dtype=np.float32)
    except Exception as e:  # the user's code may raise anything: it is theirs to mend
        raise BadInput(f"teacher {source.function}: raised {e!r}; correct it, KDEXPORT_DEBUG=1 shows where") from e
    wanted = (len(inputs), len(member.classes))
    if logits.shape != wanted:
        raise BadInput(
            f"teacher {source.function}: logits of shape {wanted} are wanted, found {logits.shape}; a row for each "
            "input, a column for each class in the order of 'labels', else of the sorted class names"
        )
    return logits


def _load(name: str) -> Callable[[list[Any]], Any]:
    module_name, _, function_name = name.partition(":")
    _see_working_folder()
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as e:
        raise BadInput(
            f"teacher function '{name}' cannot be loaded ({e}); write it as module:function, the module on PYTHONPATH "
            f"or in the current folder ({os.getcwd()})"
        ) from e
    except Exception as e:  # the user's module may raise anything while it is imported
        raise BadInput(f"teacher function '{name}': its module raised {e!r}; KDEXPORT_DEBUG=1 shows where") from e
    if not callable(function):
        raise BadInput(f"teacher function '{name}' is not callable")
    return function  # type: ignore[no-any-return]


def _see_working_folder() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
