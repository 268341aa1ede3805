"""YAML in, nouns out: `${VAR}` expands, and every error names file, line and key."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.constructor import SafeConstructor

from kdexport.errors import BadInput

N = TypeVar("N", bound=BaseModel)
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
WANTED = {  # by pydantic's type of error
    "tuple_type": "a list, as in [a, b], is",
    "model_type": "keys and values, as in {key: value}, are",
    "dict_type": "keys and values, as in {key: value}, are",
    "too_short": "at least one entry is",
    "int_parsing": "a whole number is",
    "float_parsing": "a number is",
    "bool_parsing": "true or false is",
}
PLAIN_VALUES = ("literal", "greater", "less", "int_", "float_", "bool_", "date_")  # the message does not show the value
Lines = dict[tuple[str | int, ...], int]


def read_yaml(path: Path, hints: Mapping[str, str] | None = None) -> tuple[Any, Lines]:
    """(document, line of each key path). `hints` says what to do for a variable that is not set.

    Raises BadInput for a missing file, bad syntax, duplicate keys, NaN, unset variables."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise BadInput(f"{path}: is not UTF-8 text (byte {e.start})") from e
    try:
        node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(e, "problem", None) or getattr(e, "reason", e)
        raise BadInput(f"{path}:{line}: not valid YAML: {problem}") from e
    if node is None:
        raise BadInput(f"{path}:1: the file is empty")
    lines: Lines = {}
    try:
        return _value(node, (), lines, path, hints or {}), lines
    except RecursionError as e:
        raise BadInput(f"{path}:1: an anchor holds itself, or the document is nested too deeply") from e


def _value(node: yaml.Node, key: tuple[str | int, ...], lines: Lines, path: Path, hints: Mapping[str, str]) -> Any:
    line = lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for k, v in node.value:
            name = str(k.value)
            if name in result:
                raise BadInput(f"{path}:{k.start_mark.line + 1}: key '{dotted((*key, name))}' stands twice")
            lines[(*key, name)] = k.start_mark.line + 1
            result[name] = _value(v, (*key, name), lines, path, hints)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_value(v, (*key, i), lines, path, hints) for i, v in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:str":  # most scalars are, and need no constructor
        return _expand(node.value, f"{path}:{line}", key, hints)
    try:
        value = SafeConstructor().construct_object(node)
    except (ValueError, yaml.YAMLError) as e:  # a date such as 2025-13-01, a tag such as !!python/name
        problem = getattr(e, "problem", None) or e
        raise BadInput(f"{path}:{line}: {dotted(key)}: '{node.value}' cannot be read ({problem})") from e
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"{path}:{line}: {dotted(key)} is {node.value}; a finite number is wanted")
    return _expand(value, f"{path}:{line}", key, hints) if isinstance(value, str) else value


def _expand(text: str, where: str, key: tuple[str | int, ...], hints: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            hint = hints.get(name, f"export {name}=... and run again")
            raise BadInput(f"{where}: {dotted(key)} uses ${{{name}}}, which is not set; {hint}")
        return os.environ[name]

    return VARIABLE.sub(replace, text)


def dotted(key: tuple[str | int, ...]) -> str:
    """`('data', 'train', 0)` as `data.train[0]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the document"


def read_noun(path: Path, noun: type[N], hints: Mapping[str, str] | None = None) -> N:
    """The file as a noun. Raises BadInput with `file:line: key: what is wrong`."""
    document, lines = read_yaml(path, hints)
    return validate(document, noun, path, lines)


def validate(document: Any, noun: type[N], path: Path, lines: Lines) -> N:
    if not isinstance(document, dict):
        raise BadInput(f"{path}:1: a mapping of keys is wanted, found {type(document).__name__}")
    try:
        return noun.model_validate(document)
    except ValidationError as e:
        raise BadInput(_first_error(e, document, noun, path, lines)) from e


def _first_error(error: ValidationError, document: Any, noun: type[BaseModel], path: Path, lines: Lines) -> str:
    first = _most_telling(error)
    key = _key_in(document, (*first["loc"], *_key_in_context(first)))
    line = next((lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines), 1)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key{_nearest(str(key[-1]), noun, key[:-1])}"
    elif first["type"] == "missing":
        message = f"required key '{first['loc'][-1]}' is missing"
    elif first["type"] == "string_type" and not isinstance(first["input"], dict | list):
        message = f"text is wanted, found {first['input']}; put it in quotes"
    elif first["type"] in WANTED:
        message = f"{WANTED[first['type']]} wanted, found {_shown(first['input'])}"
    elif first["type"].startswith(PLAIN_VALUES):
        message = f"{message}; found {_shown(first['input'])}"
    return f"{path}:{line}: {dotted(key)}: {message}"


def _key_in_context(error: ErrorDetails) -> tuple[str, ...]:
    """The key below the error's location that a check of several values together blames."""
    key = error.get("ctx", {}).get("key")
    return (key,) if isinstance(key, str) else ()


def _shown(value: Any) -> str:
    """A value as short as a line of an error takes it."""
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, list):
        return "a list" if value else "none"
    return repr(value)


def _most_telling(error: ValidationError) -> ErrorDetails:
    """The first error; where a key is missing and an unknown one stands beside it, the unknown: it was misspelt."""
    found = error.errors()
    beside = (e for e in found if e["type"] == "extra_forbidden" and e["loc"][:-1] == found[0]["loc"][:-1])
    return next(beside, found[0]) if found[0]["type"] == "missing" else found[0]


def _key_in(document: Any, loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The part of pydantic's location that the file has: union tags and missing keys are left out."""
    key: list[str | int] = []
    node: Any = document
    for step in loc:
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            continue
        key.append(step)
    return tuple(key)


def _nearest(name: str, noun: type[BaseModel], parents: tuple[str | int, ...]) -> str:
    known = list(noun.model_fields)
    current: Any = noun
    for part in parents:
        if isinstance(part, int):  # an item of a list: the same model as its list
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return ""
        current = next(iter(_models_in(field.annotation)), None)
        known = list(getattr(current, "model_fields", {}))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known here: {', '.join(sorted(known))}" if known else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]
