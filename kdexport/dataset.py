"""The project's rows: classes, train, dev, test, unlabelled. Splits depend on content alone, never on row order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdexport.errors import BadInput
from kdexport.nouns.project import Data, Table
from kdexport.storage.files import sha256_bytes
from kdexport.storage.tables import InputKind, Raw, Rows, read_rows, require_pictures

if TYPE_CHECKING:
    import numpy as np

TEST_FRACTION = 0.1  # of train, where the project names no test set
QUERY_TEST_FRACTION = 0.1


@dataclass(frozen=True)
class Split:
    """inputs: raw. labels: int64 (N,), index into the classes; None where unlabelled."""

    inputs: tuple[Raw, ...]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Dataset:
    classes: tuple[str, ...]
    train: Split
    dev: Split
    test: Split
    unlabelled: tuple[Raw, ...]  # production queries first, then further text or images
    query_test: tuple[Raw, ...]  # production queries held out: agreement with the teacher is measured on them
    warnings: tuple[str, ...]
    sha256: str


def read_dataset(data: Data, kind: InputKind, teacher_classes: Callable[[], tuple[str, ...]]) -> Dataset:
    """teacher_classes: asked only where the data has no labels. Raises BadInput for one class only, a test label that
    train lacks, or too few rows."""
    train = _read(data.train, kind, data.labelled)
    classes = tuple(sorted(set(train.labels))) if train.labels is not None else teacher_classes()
    if len(classes) < 2:
        raise BadInput(f"{data.train.path}: only one class ('{classes[0]}'); add rows of another class")
    index = {name: i for i, name in enumerate(classes)}
    warnings: list[str] = []
    if data.test is not None:
        rest, test = _split_of(train, index), _test_split(data, data.test, kind, index)
        warnings += _leaks(rest, test)
    else:
        rest, test = _hold_out(_split_of(train, index), TEST_FRACTION, "test")
        warnings.append(f"no test set given: {len(test)} rows of train are held out as the test set")
    rest, dev = _hold_out(rest, data.dev_fraction, "dev")
    if not len(dev):
        raise BadInput(f"{data.train.path}: too few rows a class to hold out a dev split; give more rows")
    queries, held = _hold_out(Split(_unlabelled(data.queries, kind), None), QUERY_TEST_FRACTION, "queries")
    unlabelled = queries.inputs + _unlabelled(data.unlabelled, kind)
    digest = _hash(rest, dev, test, [*unlabelled, *held.inputs], classes)
    return Dataset(classes, rest, dev, test, unlabelled, held.inputs, tuple(warnings), digest)


def _read(table: Table, kind: InputKind, labelled: bool) -> Rows:
    rows = read_rows(table, kind, labelled=labelled)
    if kind == "image":
        require_pictures(rows)
    return rows


def _split_of(rows: Rows, index: dict[str, int]) -> Split:
    import numpy as np

    if rows.labels is None:
        return Split(rows.inputs, None)
    return Split(rows.inputs, np.array([index[label] for label in rows.labels], dtype=np.int64))


def _test_split(data: Data, table: Table, kind: InputKind, index: dict[str, int]) -> Split:
    rows = _read(table, kind, data.labelled)
    if rows.labels is None:
        return Split(rows.inputs, None)
    foreign = sorted({label for label in rows.labels if label not in index})
    if foreign:
        row = next(i for i, label in enumerate(rows.labels) if label == foreign[0])
        raise BadInput(
            f"{rows.places[row]}: label '{foreign[0]}' is not in {data.train.path}"
            f" ({len(foreign)} such label{'s' if len(foreign) > 1 else ''}); add training rows, or remove them"
        )
    return _split_of(rows, index)


def _hold_out(split: Split, fraction: float, salt: str) -> tuple[Split, Split]:
    """(kept, held): of each class the given share of distinct rows, those of the smallest hash; one stays at least."""
    by_class: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    labels = split.labels if split.labels is not None else [0] * len(split)
    for i, (raw, label) in enumerate(zip(split.inputs, labels, strict=True)):
        by_class[int(label)][_row_hash(salt, raw)].append(i)
    held: set[int] = set()
    for rows in by_class.values():  # copies of a row stay together: none is on both sides
        hashes = sorted(rows)[: min(round(len(rows) * fraction + 1e-9), len(rows) - 1)]
        held |= {i for h in hashes for i in rows[h]}
    return _take(split, [i for i in range(len(split)) if i not in held]), _take(split, sorted(held))


def _take(split: Split, rows: Sequence[int]) -> Split:
    labels = split.labels[list(rows)] if split.labels is not None else None
    return Split(tuple(split.inputs[i] for i in rows), labels)


def _row_hash(salt: str, raw: Raw) -> str:
    return sha256_bytes(salt.encode() + (raw.encode(errors="surrogatepass") if isinstance(raw, str) else raw))


def _unlabelled(tables: Sequence[Table], kind: InputKind) -> tuple[Raw, ...]:
    """Distinct rows, in order."""
    return tuple(dict.fromkeys(raw for table in tables for raw in _read(table, kind, False).inputs))


def _leaks(train: Split, test: Split) -> list[str]:
    seen = set(train.inputs)
    leaked = sum(raw in seen for raw in test.inputs)
    if leaked == 0:
        return []
    return [f"{leaked} of {len(test)} test rows stand in train too: quality on them is optimistic; remove them"]


def _hash(train: Split, dev: Split, test: Split, unlabelled: Sequence[Raw], classes: Sequence[str]) -> str:
    parts = [*classes]
    for split in (train, dev, test):
        labels = split.labels if split.labels is not None else [-1] * len(split)
        parts += [f"{_row_hash('', raw)} {label}" for raw, label in zip(split.inputs, labels, strict=True)]
    parts += [_row_hash("", raw) for raw in unlabelled]
    return sha256_bytes("\n".join(parts).encode())
