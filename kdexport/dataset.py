"""The project's rows: classes, train, dev, test, unlabelled. Splits depend on content alone, never on row order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kdexport.errors import BadInput
from kdexport.near_duplicates import NEAR, NearDuplicates, near_duplicates
from kdexport.nouns.project import Data, Table
from kdexport.redaction import Rule, redact, redacted_errors, rules_of
from kdexport.storage.files import content_key, sha256_bytes
from kdexport.storage.tables import BLANK, InputKind, Raw, Rows, read_rows, require_pictures

if TYPE_CHECKING:
    import numpy as np

TEST_FRACTION = 0.1  # of train, where the project names no test set
QUERY_TEST_FRACTION = 0.1
SOURCE, NEARNESS = "source table", "nearness to train"  # slices that no column of the user's gives
MAX_UNLABELLED = 1_000_000  # rows for the teacher to label and the student to learn from, besides train


@dataclass(frozen=True)
class Split:
    """inputs: raw. labels: int64 (N,), index into the classes; None where unlabelled.

    weights: float64 (N,), how often each came in production; None: all alike. times: float64 (N,), seconds since 1970;
    None where a row has none. slices: for each column of the user's, a value a row."""

    inputs: tuple[Raw, ...]
    labels: np.ndarray | None
    weights: np.ndarray | None = None
    times: np.ndarray | None = None
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
    unlabelled_weights: np.ndarray | None = None  # float64, of `unlabelled`; None: all alike
    query_rows: Split = field(default_factory=lambda: Split((), None))  # query_test with weights, times and slices
    near_duplicates: NearDuplicates | None = None  # of test and train; None for pictures
    redacted: Mapping[str, int] = field(default_factory=dict)  # by rule, how often it found something

    @property
    def slices_sha256(self) -> str:
        """Of what rows are sliced by besides their content, for keys; '' where there is nothing."""
        known = [
            [split.times.tolist() if split.times is not None else None, dict(split.slices)]
            for split in (self.test, self.query_rows)
        ]
        return content_key(known) if any(times or slices for times, slices in known) else ""


def read_dataset(data: Data, kind: InputKind, teacher_classes: Callable[[], tuple[str, ...]]) -> Dataset:
    """teacher_classes: asked only where the data has no labels. Raises BadInput for one class only, a test label that
    train lacks, or too few rows."""
    reader = _Reader(kind, _rules(data, kind))
    hold_out = _latest if data.split == "time" else _hold_out
    train = reader.read(data.train, data.labelled)
    classes = tuple(sorted(set(train.labels))) if train.labels is not None else teacher_classes()
    if len(classes) < 2:
        raise BadInput(f"{data.train.path}: only one class ('{classes[0]}'); add rows of another class")
    index = {name: i for i, name in enumerate(classes)}
    warnings: list[str] = []
    if data.test is not None:
        rest, test = _split_of(train, index), _test_split(data, data.test, reader, index)
        warnings += _leaks(rest, test)
    else:
        rest, test = hold_out(_split_of(train, index), TEST_FRACTION, "test")
        warnings.append(f"no test set given: {len(test)} rows of train are held out as the test set")
    warnings += _contradictions(_split_of(train, index))
    rest, dev = hold_out(rest, data.dev_fraction, "dev")
    if not len(dev):
        raise BadInput(f"{data.train.path}: too few rows a class to hold out a dev split; give more rows")
    near = near_duplicates(_texts(rest.inputs), _texts(test.inputs)) if kind == "text" else None
    if near is not None and near.rows:
        test = _with_nearness(test, near)
        warnings.append(_near_warning(near))
    unlabelled, queries, said = _unlabelled_split(data, reader, rest.inputs, {*dev.inputs, *test.inputs})
    digest = _hash((rest, dev, test), (unlabelled, queries), classes, cut=data.split == "time")
    return Dataset(
        classes,
        rest,
        dev,
        test,
        unlabelled.inputs,
        queries.inputs,
        (*warnings, *said, *_concentrated(test, queries), *reader.told()),
        digest,
        unlabelled.weights,
        queries,
        near,
        dict(reader.found),
    )


def _rules(data: Data, kind: InputKind) -> tuple[Rule, ...]:
    if data.redact and kind != "text":
        raise BadInput("data.redact: takes personal data out of texts, and this project's rows are pictures; remove it")
    return rules_of(data.redact)


@dataclass
class _Reader:
    """Reads tables; what the rules find in a text or in a slice's value is taken out before anybody sees it."""

    kind: InputKind
    rules: tuple[Rule, ...]
    found: Counter[str] = field(default_factory=Counter)
    rows: int = 0  # in which something was found

    def read(self, table: Table, labelled: bool) -> Rows:
        with redacted_errors(self.rules):
            rows = read_rows(table, self.kind, labelled=labelled)
        if self.kind == "image":
            require_pictures(rows)
        if not self.rules:
            return rows
        slices = {c: tuple(redact(value, self.rules)[0] for value in values) for c, values in rows.slices.items()}
        return replace(rows, inputs=tuple(self._redacted(raw) for raw in rows.inputs), slices=slices)

    def _redacted(self, raw: Raw) -> Raw:
        assert isinstance(raw, str)
        text, found = redact(raw, self.rules)
        self.found += found
        self.rows += bool(found)
        return text

    def told(self) -> list[str]:
        """Counts, never what was found."""
        if not self.rules:
            return []
        counts = ", ".join(f"{self.found[name]:,} {name}" for name in sorted(self.found))
        return [f"redacted: {counts} in {self.rows:,} rows" if counts else "redacted: no rule found anything"]


def _texts(inputs: Sequence[Raw]) -> list[str]:
    return [raw for raw in inputs if isinstance(raw, str)]


def _with_nearness(test: Split, near: NearDuplicates) -> Split:
    """The test rows with a slice of those that are nearly learnt from: what quality is without them can be read."""
    rows = set(near.rows)
    nearness = tuple("nearly a row of train" if i in rows else "other" for i in range(len(test)))
    return replace(test, slices={**test.slices, NEARNESS: nearness})


def _near_warning(near: NearDuplicates) -> str:
    count, share = len(near.rows), len(near.rows) / near.of
    sample = " in a sample; there may be more" if near.sampled else ""
    return (
        f"{count:,} of {near.of:,} test rows ({share:.1%}){sample} are nearly rows of train (Jaccard's index of their "
        f"4-character shingles is {NEAR} or more): quality on them may be optimistic; they are kept, see the slices"
    )


def _concentrated(test: Split, queries: Split) -> list[str]:
    """Warnings where few rows carry most of the weight: intervals are wide then."""
    from kdexport.measure.statistics import effective_rows

    return [
        f"weights: the {len(split):,} {name} tell as much as {effective_rows(split.weights):,.0f} equal ones: few of "
        "them carry most of the traffic, and intervals are wide"
        for name, split in (("test rows", test), ("held-out queries", queries))
        if split.weights is not None and effective_rows(split.weights) < 0.5 * len(split)
    ]


def _split_of(rows: Rows, index: dict[str, int]) -> Split:
    import numpy as np

    labels = None if rows.labels is None else np.array([index[label] for label in rows.labels], dtype=np.int64)
    return Split(rows.inputs, labels, rows.weights, rows.times, rows.slices)


def _test_split(data: Data, table: Table, reader: _Reader, index: dict[str, int]) -> Split:
    rows = reader.read(table, data.labelled)
    foreign = sorted({label for label in rows.labels or () if label not in index})
    if foreign:
        assert rows.labels is not None
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
    return _parted(split, chosen)


def _latest(split: Split, fraction: float, salt: str) -> tuple[Split, Split]:
    """(kept, held): the given share of distinct rows, those that came first latest; of each class one row stays at
    least. Copies of a row stay together, and a row that stands under two classes is kept, as by content."""
    assert split.times is not None
    labels = _labels_of_rows(split)
    first: dict[Raw, float] = {}
    for raw, time in zip(split.inputs, split.times.tolist(), strict=True):
        first[raw] = min(time, first.get(raw, time))
    ordered = sorted(first, key=lambda raw: (first[raw], _row_hash(salt, raw)))
    earliest = {label: raw for raw in reversed(ordered) for label in labels[raw]}
    free = [raw for raw in ordered if len(labels[raw]) == 1 and earliest[next(iter(labels[raw]))] != raw]
    count = round(len(ordered) * fraction + 1e-9)
    return _parted(split, set(free[max(len(free) - count, 0) :]))


def _parted(split: Split, held: set[Raw]) -> tuple[Split, Split]:
    """(the others, rows whose input is held)."""
    inside = [raw in held for raw in split.inputs]
    return _take(split, [i for i, is_held in enumerate(inside) if not is_held]), _take(
        split, [i for i, is_held in enumerate(inside) if is_held]
    )


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
    import numpy as np

    where = np.array(rows, dtype=np.int64)
    labels, weights, times = (a if a is None else a[where] for a in (split.labels, split.weights, split.times))
    if weights is not None and bool((weights == 1).all()):
        weights = None
    slices = {name: tuple(values[i] for i in rows) for name, values in split.slices.items()}
    return Split(tuple(split.inputs[i] for i in rows), labels, weights, times, slices)


def _row_hash(salt: str, raw: Raw) -> str:
    return sha256_bytes(salt.encode() + (raw.encode(errors="surrogatepass") if isinstance(raw, str) else raw))


def _distinct(tables: Sequence[Table], reader: _Reader) -> Split:
    """Distinct rows, in order: weights of copies are summed (a row without one came once), the time is the earliest,
    slices are those of the first. weights: None where no row came twice."""
    import numpy as np

    places: dict[Raw, int] = {}
    weights: list[float] = []
    times: list[float] = []
    names = [c for t in tables for c in t.slices] + [SOURCE] * (len(tables) > 1)
    slices: dict[str, list[str]] = {name: [] for name in names}
    for table in tables:
        rows = reader.read(table, False)
        given = rows.weights.tolist() if rows.weights is not None else [1.0] * len(rows)
        came = rows.times.tolist() if rows.times is not None else [0.0] * len(rows)
        for i, raw in enumerate(rows.inputs):
            place = places.setdefault(raw, len(places))
            if place < len(weights):
                weights[place] += given[i]
                times[place] = min(times[place], came[i])
                continue
            weights.append(given[i])
            times.append(came[i])
            for name, values in slices.items():
                values.append(table.path if name == SOURCE else rows.slices[name][i] if name in rows.slices else BLANK)
    return Split(
        tuple(places),
        None,
        np.array(weights) if any(w != 1 for w in weights) else None,
        np.array(times) if tables and all(t.time is not None for t in tables) else None,
        {name: tuple(values) for name, values in slices.items()},
    )


def _unlabelled_split(
    data: Data, reader: _Reader, train: Sequence[Raw], judged: set[Raw]
) -> tuple[Split, Split, list[str]]:
    """(rows to learn from, production queries held out, warnings). judged: rows of dev and test, never learnt from."""
    asked, found = _distinct(data.queries, reader), _distinct(data.unlabelled, reader)
    hold_out = _latest if data.split == "time" and asked.times is not None else _hold_out
    queries, held = hold_out(_parted(asked, judged)[0], QUERY_TEST_FRACTION, "queries")
    query_test = _parted(held, set(train))[0]
    others = _parted(found, {*judged, *query_test.inputs})[0]
    warnings = []
    if leaked := len(asked) - len(queries) - len(held) + len(found) - len(others):
        warnings.append(
            f"{leaked} of {len(asked) + len(found)} queries and unlabelled rows stand in dev, test or the held-out "
            "queries too: they are not learnt from"
        )
    if known := len(held) - len(query_test):
        warnings.append(f"{known} of {len(held)} held-out queries stand in train too: they are not held out")
    kept_queries = _sample(queries, MAX_UNLABELLED)
    kept = _sample(others, MAX_UNLABELLED - len(kept_queries))
    if len(kept_queries) + len(kept) < len(queries) + len(others):
        warnings.append(
            f"{len(kept_queries):,} of {len(queries):,} production queries and {len(kept):,} of {len(others):,} other "
            f"unlabelled rows are learnt from: at most {MAX_UNLABELLED:,}, queries first"
        )
    return _together(kept_queries, kept), query_test, warnings


def _sample(split: Split, count: int) -> Split:
    """At most so many of distinct rows, those of the smallest hash, in their order."""
    if len(split) <= count:
        return split
    return _parted(split, set(sorted(split.inputs, key=lambda raw: _row_hash("unlabelled", raw))[:count]))[1]


def _together(queries: Split, others: Split) -> Split:
    """Inputs and weights of both; None where all weights are 1."""
    import numpy as np

    weights = None
    if queries.weights is not None or others.weights is not None:
        known = [np.ones(len(s)) if s.weights is None else s.weights for s in (queries, others)]
        weights = np.concatenate(known)
    return Split(queries.inputs + others.inputs, None, weights)


def _leaks(train: Split, test: Split) -> list[str]:
    seen = set(train.inputs)
    leaked = sum(raw in seen for raw in test.inputs)
    if leaked == 0:
        return []
    return [f"{leaked} of {len(test)} test rows stand in train too: quality on them is optimistic; remove them"]


def _hash(labelled: Sequence[Split], unlabelled: Sequence[Split], classes: Sequence[str], cut: bool) -> str:
    """cut: splits may be one file in its order, cut in places that the rows one after another do not tell."""
    parts = [*classes]
    if cut:
        parts.append(repr([len(split) for split in (*labelled, *unlabelled)]))
    for split in labelled:
        labels = split.labels if split.labels is not None else [-1] * len(split)
        parts += [f"{_row_hash('', raw)} {label}" for raw, label in zip(split.inputs, labels, strict=True)]
    parts += [_row_hash("", raw) for split in unlabelled for raw in split.inputs]
    parts += [repr(split.weights.tolist()) for split in (*labelled, *unlabelled) if split.weights is not None]
    return sha256_bytes("\n".join(parts).encode())


def split_sha256(split: Split) -> str:
    """Of the inputs alone, in order."""
    return sha256_bytes("\n".join(_row_hash("", raw) for raw in split.inputs).encode())
