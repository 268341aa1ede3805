"""Rows from CSV, JSONL, JSON, Parquet or a folder per class: raw inputs, class names, the line of each fault."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdexport.errors import BadInput, unknown_name
from kdexport.nouns.project import Table

if TYPE_CHECKING:
    import numpy as np

InputKind = Literal["text", "image"]
Raw = str | bytes
INPUT_NAMES = ("text", "image", "input", "sentence", "query", "utterance", "question", "path", "file", "img")
LABEL_NAMES = ("label", "category", "intent", "class", "target", "labels", "y")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
MAX_IMAGE_BYTES = 64 << 20
BLANK = "(blank)"  # the value of a slice where a row has none
LATEST_S = 1e11  # the year 5138: what lies above counts milliseconds
EARLIEST_S = -62_135_596_800  # the year 1, the calendar's first


@dataclass(frozen=True)
class Rows:
    """inputs: texts, or the bytes of image files. labels: class names, or None where the table has none.

    weights: float64 (N,), above 0. times: float64 (N,), seconds since 1970. Both None where the table names no column.
    slices: the values of each column that the table names as one."""

    inputs: tuple[Raw, ...]
    labels: tuple[str, ...] | None
    columns: tuple[str, str | None]  # which columns were read: (input, label)
    places: tuple[str, ...]  # where each row stands: file and line, or the file of a folder per class
    weights: np.ndarray | None = None
    times: np.ndarray | None = None
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)


def read_rows(table: Table, kind: InputKind, *, labelled: bool) -> Rows:
    """All rows of a table. Raises BadInput with file and line for a missing file or column, an empty table,
    an empty label, a weight or time that is none, an image that is not there."""
    path, member = _split_member(table.path)
    if path.is_dir():
        if kind != "image":
            raise BadInput(f"{path}: is a folder, which holds pictures; name a file of rows, or set another task")
        if named := _named(table):
            raise BadInput(f"{path}: is a folder, which has no column '{named[0]}'; name a file of rows")
        return _read_class_folders(path, labelled)
    records = list(_records(path, member))
    if not records:
        raise BadInput(f"{path}: no rows; at least one row below the header is wanted")
    for name in (named := _named(table)):
        if name not in records[0][1]:
            raise unknown_name("column", name, records[0][1], f"{path}:1")
    columns = [c for c in records[0][1] if c not in named or c in (table.input, table.label)]
    input_column = _column(table.input, columns, INPUT_NAMES, path, "input", records, kind)
    label_column = _label_column(table, columns, input_column, path) if labelled or table.label else None
    inputs = tuple(_raw(record.get(input_column), kind, path, line, input_column) for line, record in records)
    labels = None
    if label_column is not None:
        labels = tuple(_label(record.get(label_column), path, line, label_column) for line, record in records)
    return Rows(
        inputs,
        labels,
        (input_column, label_column),
        tuple(f"{path}:{line}" for line, _ in records),
        _numbers(records, table.weight, path, _weight),
        _numbers(records, table.time, path, _time),
        {c: tuple(_slice(record.get(c), path, line, c) for line, record in records) for c in table.slices},
    )


def _named(table: Table) -> list[str]:
    """The columns of a table besides input and label."""
    return [c for c in (table.weight, table.time, *table.slices) if c is not None]


def require_pictures(rows: Rows) -> None:
    """That each input looks like a picture: its head is read, and a PNG's checksums; nothing is decoded.

    Raises BadInput with the place of the first that does not."""
    import io

    from PIL import Image

    for raw, place in zip(rows.inputs, rows.places, strict=True):
        assert isinstance(raw, bytes)
        try:
            with Image.open(io.BytesIO(raw)) as picture:
                picture.verify()
        except Exception as e:  # Pillow's readers raise a dozen unrelated classes for bytes that are no picture
            raise BadInput(
                f"{place}: not a whole picture that Pillow can read ({len(raw):,} bytes); replace it or remove the row"
            ) from e


def _split_member(text: str) -> tuple[Path, str | None]:
    name, _, member = (text, "", "") if Path(text).exists() else text.partition("#")
    path = Path(name)
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    return path, member or None


def _records(path: Path, member: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, record) pairs."""
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".json": _read_json, ".txt": _read_lines}
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix in readers:
            yield from readers[path.suffix](path, member)
        else:
            raise BadInput(f"{path}: unknown format '{path.suffix}'; known: .csv .tsv .jsonl .json .txt .parquet")
    except UnicodeDecodeError as e:
        raise BadInput(f"{path}: is not UTF-8 text (byte {e.start}); convert it to UTF-8") from e
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror or e})") from e


def _read_csv(path: Path, member: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, newline="", encoding="utf-8-sig") as f:
        reader = csv.DictReader(f, delimiter="\t" if path.suffix == ".tsv" else ",")
        try:
            for record in reader:
                if None in record or None in record.values():
                    raise BadInput(
                        f"{path}:{reader.line_num}: the row does not have the header's columns "
                        f"({', '.join(reader.fieldnames or ())}); put a text with commas in double quotes"
                    )
                yield reader.line_num, record
        except csv.Error as e:
            raise BadInput(f"{path}:{reader.line_num}: not valid CSV: {e}") from e


def _read_jsonl(path: Path, member: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if line.strip():
                yield number, _record(_parse_json(line, path, number), path, number)


def _read_json(path: Path, member: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    document = _parse_json(path.read_text(encoding="utf-8"), path, 1)
    if isinstance(document, dict):
        if member is None:
            raise BadInput(
                f"{path}: holds an object, not rows; name its member: {path.name}#{next(iter(document), 'KEY')}"
            )
        if member not in document:
            raise unknown_name("member", member, document, f"{path}#{member}")
        document = document[member]
    if not isinstance(document, list):
        raise BadInput(f"{path}: a list of rows is wanted, found {type(document).__name__}")
    for number, row in enumerate(document, 1):
        yield number, _record(row, path, number)


def _read_lines(path: Path, member: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if line.strip():
                yield number, {"text": line.rstrip("\n")}


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from enumerate(pq.read_table(path).to_pylist(), 1)
    except pa.ArrowException as e:
        raise BadInput(f"{path}: not a readable Parquet file ({str(e).splitlines()[0]})") from e


def _parse_json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as e:
        raise BadInput(f"{path}:{line}: not valid JSON: {e}") from e


def _record(row: Any, path: Path, line: int) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    if isinstance(row, list) and len(row) == 2:
        return {"text": row[0], "label": row[1]}
    if isinstance(row, str):
        return {"text": row}
    raise BadInput(f"{path}:{line}: a row is an object, a [text, label] pair or a text; found {type(row).__name__}")


def _column(
    wanted: str | None,
    columns: Sequence[str],
    usual: Sequence[str],
    path: Path,
    role: str,
    records: Sequence[tuple[int, dict[str, Any]]],
    kind: InputKind,
) -> str:
    if wanted is not None:
        if wanted not in columns:
            raise unknown_name("column", wanted, columns, f"{path}:1")
        return wanted
    for name in usual:
        match = next((c for c in columns if c.lower() == name), None)
        if match:
            return match
    if len(columns) <= 2:  # of two columns, the input is the one with more distinct values
        return max(columns, key=lambda c: len({str(record.get(c)) for _, record in records}))
    raise BadInput(f"{path}:1: cannot tell which column is the {role}; name it (found: {', '.join(columns)})")


def _label_column(table: Table, columns: Sequence[str], input_column: str, path: Path) -> str:
    rest = [c for c in columns if c != input_column]
    if table.label is not None:
        if table.label not in columns:
            raise unknown_name("column", table.label, columns, f"{path}:1")
        return table.label
    match = next((c for name in LABEL_NAMES for c in rest if c.lower() == name), None)
    if match or len(rest) == 1:
        return match or rest[0]
    raise BadInput(f"{path}:1: cannot tell which column is the label; name it (found: {', '.join(columns)})")


def _raw(value: Any, kind: InputKind, path: Path, line: int, column: str) -> Raw:
    if kind == "text":
        if not isinstance(value, str):
            raise BadInput(f"{path}:{line}: column '{column}': a text is wanted, found {type(value).__name__}")
        return _writable(value)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return _image_file(path.parent / value, path, line)
    if isinstance(value, bytes) and value:
        return value
    raise BadInput(f"{path}:{line}: column '{column}': image bytes or a path are wanted, found {type(value).__name__}")


def _image_file(image: Path, path: Path, line: int) -> bytes:
    if not image.is_file():
        raise BadInput(f"{path}:{line}: no such image: {image}")
    if image.stat().st_size > MAX_IMAGE_BYTES:
        raise BadInput(f"{path}:{line}: {image} is over {MAX_IMAGE_BYTES >> 20} MiB")
    return image.read_bytes()


def _label(value: Any, path: Path, line: int, column: str) -> str:
    if isinstance(value, list | dict):
        raise BadInput(f"{path}:{line}: column '{column}' holds several labels; multi-label data is not supported")
    if value is None or str(value).strip() == "":
        raise BadInput(f"{path}:{line}: column '{column}' is empty; every row needs a label")
    return _writable(str(value))


def _numbers(
    records: Sequence[tuple[int, dict[str, Any]]],
    column: str | None,
    path: Path,
    read: Callable[[Any], float | str],
) -> np.ndarray | None:
    """float64 (N,) of a column; None where none is named. read: a value as a number, or what is wanted in its place."""
    import numpy as np

    if column is None:
        return None
    found = [(line, read(record.get(column))) for line, record in records]
    wrong = [(line, value) for line, value in found if isinstance(value, str)]
    if wrong:
        line, wanted = wrong[0]
        count = f"so are {len(wrong) - 1} more of {len(found)} rows; " if len(wrong) > 1 else ""
        raise BadInput(f"{path}:{line}: column '{column}': {wanted}; {count}correct or remove them")
    return np.array([value for _, value in found], dtype=np.float64)


def _weight(value: Any) -> float | str:
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return f"a number above 0 is wanted, found {type(value).__name__ if value != '' else 'nothing'}"
    return weight if 0 < weight < math.inf else f"a weight above 0 is wanted, found {weight:g}"


def _time(value: Any) -> float | str:
    """Seconds since 1970. A time without a zone is taken as UTC."""
    if isinstance(value, datetime.datetime | datetime.date):
        value = value.isoformat()
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
        if seconds > LATEST_S:
            return f"seconds since 1970 are wanted, found {seconds:g}: are these milliseconds?"
    except (TypeError, ValueError):
        try:
            when = datetime.datetime.fromisoformat(str(value).strip())
        except ValueError:
            return "a time such as 2026-03-14T09:26:53Z, or seconds since 1970, is wanted"
        seconds = when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp()
    if seconds < EARLIEST_S:
        return f"seconds since 1970 are wanted, found {seconds:g}: before the year 1"
    return seconds if math.isfinite(seconds) else "a time is wanted, found a number that is none"


def _slice(value: Any, path: Path, line: int, column: str) -> str:
    if isinstance(value, list | dict):
        raise BadInput(f"{path}:{line}: column '{column}': one value a row is wanted, found {type(value).__name__}")
    return BLANK if value is None or str(value).strip() == "" else _writable(str(value))


def _writable(text: str) -> str:
    """JSON may hold half a surrogate pair, which is no text: it becomes '?', as in the runner."""
    return text.encode("utf-8", "replace").decode()


def _read_class_folders(folder: Path, labelled: bool) -> Rows:
    files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise BadInput(f"{folder}: no images in sub-folders; a folder per class is wanted")
    inputs = tuple(_image_file(p, folder, number) for number, p in enumerate(files, 1))
    labels = tuple(p.parent.name for p in files) if labelled else None
    return Rows(inputs, labels, ("file", "folder"), tuple(map(str, files)))
