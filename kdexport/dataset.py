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
MAX_UNLABELLED = 100_000  # rows for the teacher to label and the student to learn from, besides train


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
    unlabelled: tuple[Raw, ...]  # production queries first, then further text or images; at most MAX_UNLABELLED
    query_test: tuple[Raw, ...]  # production queries never learnt from: agreement with the teacher is measured on them
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
    warnings += _contradictions(_split_of(train, index))
    rest, dev = _hold_out(rest, data.dev_fraction, "dev")
    if not len(dev):
        raise BadInput(f"{data.train.path}: too few rows a class to hold out a dev split; give more rows")
    unlabelled, query_test, said = _unlabelled_split(data, kind, rest.inputs, {*dev.inputs, *test.inputs})
    digest = _hash(rest, dev, test, [*unlabelled, *query_test], classes)
    return Dataset(classes, rest, dev, test, unlabelled, query_test, (*warnings, *said), digest)


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
    """(kept, held): of each class the given share of distinct rows, those of the smallest hash; one stays at least.

    Copies of a row stay together, and a row that stands under two classes is kept: none is on both sides."""
    labels = _labels_of_rows(split)
    by_class: dict[int, list[Raw]] = defaultdict(list)
    for raw, found in labels.items():
        if len(found) == 1:
            by_class[next(iter(found))].append(raw)
    chosen: set[Raw] = set()
    for rows in by_class.values():
        rows.sort(key=lambda raw: _row_hash(salt, raw))
        chosen.update(rows[: min(round(len(rows) * fraction + 1e-9), len(rows) - 1)])
    held = [i for i, raw in enumerate(split.inputs) if raw in chosen]
    return _take(split, [i for i, raw in enumerate(split.inputs) if raw not in chosen]), _take(split, held)


def _labels_of_rows(split: Split) -> dict[Raw, set[int]]:
    """The classes that each distinct row stands under; 0 for all where there are no labels."""
    found: dict[Raw, set[int]] = defaultdict(set)
    labels = split.labels.tolist() if split.labels is not None else [0] * len(split)
    for raw, label in zip(split.inputs, labels, strict=True):
        found[raw].add(label)
    return found


def _contradictions(train: Split) -> list[str]:
    count = sum(len(found) > 1 for found in _labels_of_rows(train).values())
    if count == 0:
        return []
    return [f"{count} distinct rows of train stand under two classes or more: none is held out; give each one class"]


def _take(split: Split, rows: Sequence[int]) -> Split:
    labels = split.labels[list(rows)] if split.labels is not None else None
    return Split(tuple(split.inputs[i] for i in rows), labels)


def _row_hash(salt: str, raw: Raw) -> str:
    return sha256_bytes(salt.encode() + (raw.encode(errors="surrogatepass") if isinstance(raw, str) else raw))


def _unlabelled(tables: Sequence[Table], kind: InputKind) -> tuple[Raw, ...]:
    """Distinct rows, in order."""
    return tuple(dict.fromkeys(raw for table in tables for raw in _read(table, kind, False).inputs))


def _unlabelled_split(
    data: Data, kind: InputKind, train: Sequence[Raw], judged: set[Raw]
) -> tuple[tuple[Raw, ...], tuple[Raw, ...], list[str]]:
    """(rows to learn from, production queries held out, warnings). judged: rows of dev and test, never learnt from."""
    asked, found = _unlabelled(data.queries, kind), _unlabelled(data.unlabelled, kind)
    queries, held = _hold_out(Split(_without(asked, judged), None), QUERY_TEST_FRACTION, "queries")
    query_test = _without(held.inputs, set(train))
    others = _without(found, {*judged, *query_test})
    warnings = []
    if leaked := len(asked) - len(queries) - len(held) + len(found) - len(others):
        warnings.append(
            f"{leaked} of {len(asked) + len(found)} queries and unlabelled rows stand in dev, test or the held-out "
            "queries too: they are not learnt from"
        )
    if known := len(held) - len(query_test):
        warnings.append(f"{known} of {len(held)} held-out queries stand in train too: they are not held out")
    kept_queries = _sample(queries.inputs, MAX_UNLABELLED)
    kept = _sample(others, MAX_UNLABELLED - len(kept_queries))
    if len(kept_queries) + len(kept) < len(queries) + len(others):
        warnings.append(
            f"{len(kept_queries):,} of {len(queries):,} production queries and {len(kept):,} of {len(others):,} other "
            f"unlabelled rows are learnt from: at most {MAX_UNLABELLED:,}, queries first"
        )
    return kept_queries + kept, query_test, warnings


def _without(rows: Sequence[Raw], dropped: set[Raw]) -> tuple[Raw, ...]:
    return tuple(raw for raw in rows if raw not in dropped)


def _sample(rows: tuple[Raw, ...], count: int) -> tuple[Raw, ...]:
    """At most so many of distinct rows, those of the smallest hash, in their order."""
    if len(rows) <= count:
        return rows
    chosen = set(sorted(rows, key=lambda raw: _row_hash("unlabelled", raw))[:count])
    return tuple(raw for raw in rows if raw in chosen)


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


def split_sha256(split: Split) -> str:
    """Of the inputs alone, in order."""
    return sha256_bytes("\n".join(_row_hash("", raw) for raw in split.inputs).encode())
