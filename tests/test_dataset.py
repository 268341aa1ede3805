from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kdexport import dataset
from kdexport.dataset import Dataset, read_dataset
from kdexport.errors import BadInput
from kdexport.nouns.project import Data, Table

CLASSES = ("card", "pay", "refund")
Row = tuple[str, str]


def rows(per_class: int, word: str = "query") -> list[Row]:
    return [(f"{name} {word} {i}", name) for name in CLASSES for i in range(per_class)]


def table(folder: Path, name: str, content: Sequence[Row | tuple[str]]) -> Table:
    with open(folder / name, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("text", "label")[: len(content[0])], *content])
    return Table(path=str(folder / name))


def read(folder: Path, train: Sequence[Row], test: Sequence[Row] | None = None, **more: object) -> Dataset:
    given = {"test": table(folder, "test.csv", test)} if test else {}
    return read_dataset(Data(train=table(folder, "train.csv", train), **given, **more), "text", lambda: CLASSES)  # type: ignore[arg-type]


def test_a_tenth_of_each_class_is_dev_and_no_row_is_lost(tmp_path: Path) -> None:
    data = read(tmp_path, rows(40), rows(5, "test"))
    assert (len(data.train), len(data.dev), len(data.test)) == (108, 12, 15)
    assert data.classes == CLASSES
    assert np.bincount(data.dev.labels).tolist() == [4, 4, 4]
    assert {*data.train.inputs, *data.dev.inputs} == {text for text, _ in rows(40)}


def test_labels_stay_with_their_rows(tmp_path: Path) -> None:
    data = read(tmp_path, rows(20), rows(5, "test"))
    for split in (data.train, data.dev, data.test):
        assert [str(t).split()[0] for t in split.inputs] == [data.classes[i] for i in split.labels]


def test_the_split_does_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    shuffled = random.Random(3).sample(rows(30), 90)
    one, other = read(tmp_path, rows(30)), read(tmp_path, shuffled)
    assert set(one.dev.inputs) == set(other.dev.inputs)
    assert set(one.test.inputs) == set(other.test.inputs)


def test_a_new_row_moves_few_others(tmp_path: Path) -> None:
    one, other = read(tmp_path, rows(50), rows(2, "test")), read(tmp_path, rows(51), rows(2, "test"))
    assert len(set(one.dev.inputs) - set(other.dev.inputs)) <= 3


def test_dev_and_train_share_no_row_even_where_rows_are_repeated(tmp_path: Path) -> None:
    data = read(tmp_path, rows(12) * 3)
    assert len(data.dev) > 0
    assert not set(data.dev.inputs) & set(data.train.inputs)
    assert not set(data.test.inputs) & {*data.train.inputs, *data.dev.inputs}


def test_every_class_stays_in_train_however_small_it_is(tmp_path: Path) -> None:
    data = read(tmp_path, [*rows(20), ("the only one", "rare")], rows(1, "test"), dev_fraction=0.49)
    assert set(np.unique(data.train.labels)) == {0, 1, 2, 3}


def test_without_a_test_set_a_tenth_is_held_out_and_said(tmp_path: Path) -> None:
    data = read(tmp_path, rows(40))
    assert (len(data.train), len(data.dev), len(data.test)) == (96, 12, 12)
    assert data.warnings[0] == "no test set given: 12 rows of train are held out as the test set"


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train\.csv: only one class \('a'\)"):
        read(tmp_path, [("x", "a"), ("y", "a")])


def test_a_test_label_that_train_lacks_is_refused_with_file_and_row(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"test\.csv:4: label 'loan' is not in .*train\.csv \(1 such label\)"):
        read(tmp_path, rows(20), [*rows(1, "test")[:2], ("my loan", "loan")])


def test_rows_of_test_that_stand_in_train_are_counted_in_a_warning(tmp_path: Path) -> None:
    data = read(tmp_path, rows(20), [*rows(2, "test"), *rows(20)[:2]])
    assert data.warnings == ("2 of 8 test rows stand in train too: quality on them is optimistic; remove them",)


def test_too_few_rows_for_a_dev_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train\.csv: too few rows a class to hold out a dev split"):
        read(tmp_path, rows(2), rows(1, "test"))


def test_unlabelled_rows_are_distinct_and_production_queries_come_first(tmp_path: Path) -> None:
    queries = table(tmp_path, "queries.csv", [("asked",), ("asked",), ("asked too",)])
    other = table(tmp_path, "other.csv", [("found",)])
    data = read(tmp_path, rows(20), queries=(queries,), unlabelled=(other,))
    assert data.unlabelled == ("asked", "asked too", "found")


def test_a_tenth_of_the_production_queries_is_held_out(tmp_path: Path) -> None:
    asked = [(f"asked {i}",) for i in range(40)]
    data = read(tmp_path, rows(20), queries=(table(tmp_path, "queries.csv", asked),))
    assert len(data.query_test) == 4
    assert {(t,) for t in data.query_test + data.unlabelled} == set(asked)
    assert not set(data.query_test) & set(data.unlabelled)


def test_rows_of_dev_test_and_held_out_queries_are_not_learnt_from(tmp_path: Path) -> None:
    everything = [(text,) for text, _ in [*rows(40), *rows(5, "test")]]
    asked = [(f"asked {i}",) for i in range(40)]
    queries = table(tmp_path, "queries.csv", [*asked, everything[-1]])
    other = table(tmp_path, "other.csv", [*everything, *asked, ("found",)])
    data = read(tmp_path, rows(40), rows(5, "test"), queries=(queries,), unlabelled=(other,))
    unseen = {*data.dev.inputs, *data.test.inputs, *data.query_test}
    assert not unseen & {*data.train.inputs, *data.unlabelled}
    assert "found" in data.unlabelled
    # of queries the test row; of the others 15 test rows, 12 dev rows and the 4 queries that are held out
    wanted = "32 of 217 queries and unlabelled rows stand in dev, test or the held-out queries too: they are not learnt"
    assert data.warnings == (f"{wanted} from",)


def test_a_query_that_stands_in_train_is_not_held_out(tmp_path: Path) -> None:
    asked = [(f"asked {i}",) for i in range(40)]
    held = read(tmp_path, rows(20), queries=(table(tmp_path, "queries.csv", asked),)).query_test
    train = [*rows(20), (str(held[0]), "card")]
    data = read(tmp_path, train, rows(2, "test"), queries=(table(tmp_path, "queries.csv", asked),))
    assert held[0] in data.train.inputs
    assert set(data.query_test) == set(held[1:])
    assert data.warnings == ("1 of 4 held-out queries stand in train too: they are not held out",)


def test_a_text_under_two_classes_is_on_one_side_only(tmp_path: Path) -> None:
    both = [(f"either {i}", name) for i in range(40) for name in ("card", "pay")]
    data = read(tmp_path, [*rows(20), *both])
    assert not set(data.dev.inputs) & set(data.train.inputs)
    assert not set(data.test.inputs) & {*data.train.inputs, *data.dev.inputs}
    assert {text for text, _ in both} <= set(data.train.inputs)
    assert len(data.dev) > 0
    assert any(w.startswith("40 distinct rows of train stand under two classes or more") for w in data.warnings)


def test_more_unlabelled_rows_than_the_limit_are_sampled_queries_first_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MAX_UNLABELLED", 12)
    asked, other = [(f"asked {i}",) for i in range(10)], [(f"found {i}",) for i in range(50)]

    def unlabelled(found: list[tuple[str]]) -> Dataset:
        tables = {"queries": (table(tmp_path, "q.csv", asked),), "unlabelled": (table(tmp_path, "o.csv", found),)}
        return read(tmp_path, rows(20), rows(2, "test"), **tables)

    data = unlabelled(other)
    assert [str(t).split()[0] for t in data.unlabelled] == ["asked"] * 9 + ["found"] * 3
    assert data.warnings == (
        "9 of 9 production queries and 3 of 50 other unlabelled rows are learnt from: at most 12, queries first",
    )
    assert set(unlabelled(other[::-1]).unlabelled) == set(data.unlabelled)


def test_without_any_label_the_classes_are_the_teachers(tmp_path: Path) -> None:
    texts = [(text,) for text, _ in rows(20)]
    data = read(tmp_path, texts, labelled=False)  # type: ignore[arg-type]
    assert data.classes == CLASSES
    assert (data.train.labels, data.dev.labels, data.test.labels) == (None, None, None)
    assert (len(data.train), len(data.dev), len(data.test)) == (49, 5, 6)


@pytest.mark.parametrize("change", ["a text", "a label", "an unlabelled row"])
def test_the_hash_of_the_data_changes_with(tmp_path: Path, change: str) -> None:
    before, train = read(tmp_path, rows(20)), rows(20)
    more = {}
    if change == "a text":
        train[0] = (train[0][0] + "!", train[0][1])
    elif change == "a label":
        train[0] = (train[0][0], "refund")
    else:
        more["unlabelled"] = (table(tmp_path, "other.csv", [("found",)]),)
    assert read(tmp_path, train, **more).sha256 != before.sha256
    assert read(tmp_path, rows(20)).sha256 == before.sha256


def log_of(folder: Path, name: str, content: Sequence[tuple[object, ...]], **columns: object) -> Table:
    with open(folder / name, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("text", "label", "count", "at", "team")[: len(content[0])], *content])
    return Table(path=str(folder / name), **columns)  # type: ignore[arg-type]


def test_weights_of_identical_queries_are_summed(tmp_path: Path) -> None:
    first = log_of(tmp_path, "a.csv", [("asked", "", 2), ("asked", "", 3), ("once", "", 1)], weight="count")
    second = table(tmp_path, "b.csv", [("asked",), ("new",)])
    data = read(tmp_path, rows(20), rows(2, "test"), queries=(first, second))
    together = dict(zip(data.unlabelled, data.unlabelled_weights, strict=True))  # type: ignore[arg-type]
    assert together == {"asked": 6, "once": 1, "new": 1}


def test_copies_in_a_log_without_a_count_weigh_as_often_as_they_came(tmp_path: Path) -> None:
    data = read(tmp_path, rows(20), rows(2, "test"), queries=(table(tmp_path, "q.csv", [("a",), ("b",), ("a",)]),))
    assert dict(zip(data.unlabelled, data.unlabelled_weights, strict=True)) == {"a": 2, "b": 1}  # type: ignore[arg-type]


def test_where_no_row_came_twice_there_are_no_weights(tmp_path: Path) -> None:
    data = read(tmp_path, rows(20), rows(2, "test"), queries=(table(tmp_path, "q.csv", [("a",), ("b",)]),))
    assert data.unlabelled_weights is None
    assert data.train.weights is None


def test_weights_stay_with_their_rows_through_the_splits(tmp_path: Path) -> None:
    content = [(text, label, 1 + len(text) % 5) for text, label in rows(30)]
    train = log_of(tmp_path, "train.csv", content, weight="count")
    data = read_dataset(Data(train=train), "text", lambda: CLASSES)
    for split in (data.train, data.dev, data.test):
        assert split.weights is not None
        assert split.weights.tolist() == [1 + len(str(t)) % 5 for t in split.inputs]


def test_other_weights_make_another_data_set(tmp_path: Path) -> None:
    def digest(count: int) -> str:
        train = log_of(tmp_path, "train.csv", [(t, c, count + len(t) % 2) for t, c in rows(20)], weight="count")
        return read_dataset(Data(train=train), "text", lambda: CLASSES).sha256

    assert digest(1) == digest(1) != digest(2)


def by_time(folder: Path, per_class: int = 40) -> Dataset:
    content = [(text, label, 1, 1_000_000 + 60 * i) for i, (text, label) in enumerate(rows(per_class))]
    random.Random(5).shuffle(content)
    content = [(t, c, 1, 1_000_000 + 60 * i) for i, (t, c, _, _) in enumerate(content)]
    train = log_of(folder, "train.csv", random.Random(6).sample(content, len(content)), weight="count", time="at")
    return read_dataset(Data(train=train, split="time"), "text", lambda: CLASSES)


def test_split_by_time_holds_out_the_latest_for_test_and_those_before_for_dev(tmp_path: Path) -> None:
    data = by_time(tmp_path)
    times = [split.times for split in (data.train, data.dev, data.test)]
    assert all(t is not None for t in times)
    assert max(times[0]) < min(times[1]) <= max(times[1]) < min(times[2])  # type: ignore[type-var, arg-type]
    assert (len(data.dev), len(data.test)) == (11, 12)


def test_split_by_time_keeps_copies_together_and_one_row_of_each_class(tmp_path: Path) -> None:
    old = [(f"card query {i}", "card", 1, i) for i in range(30)]
    content = [*old, *((f"pay query {i}", "pay", 1, 100 + i) for i in range(3)), ("card query 0", "card", 1, 999)]
    train = log_of(tmp_path, "train.csv", content, time="at")
    data = read_dataset(Data(train=train, split="time"), "text", lambda: CLASSES)
    assert list(data.train.inputs).count("card query 0") == 2
    assert "pay query 0" in data.train.inputs
    assert {"pay query 1", "pay query 2"} <= {*data.test.inputs, *data.dev.inputs}


def test_another_share_held_out_of_a_log_in_order_is_another_data_set(tmp_path: Path) -> None:
    """Train, dev and test then are the file cut in other places: one after another they hold the same rows."""
    content = [(f"{CLASSES[i % 3]} query {i}", CLASSES[i % 3], 1, i) for i in range(120)]
    train = log_of(tmp_path, "train.csv", content, time="at")
    one, other = (
        read_dataset(Data(train=train, split="time", dev_fraction=share), "text", lambda: CLASSES)
        for share in (0.1, 0.2)
    )
    assert len(one.train) != len(other.train)
    assert one.sha256 != other.sha256


def test_a_query_that_came_again_is_as_old_as_its_first_time_whatever_the_order(tmp_path: Path) -> None:
    asked = [*((f"asked {i}", "pay", 1, 100 + i) for i in range(40)), ("asked 0", "pay", 1, 9_999)]

    def held(name: str, content: list[tuple[str, str, int, int]]) -> set[object]:
        queries = log_of(tmp_path, name, content, time="at")
        train = log_of(tmp_path, "train.csv", [(t, c, 1, i) for i, (t, c) in enumerate(rows(20))], time="at")
        return set(read_dataset(Data(train=train, queries=(queries,), split="time"), "text", tuple).query_test)

    assert held("a.csv", asked) == held("b.csv", asked[::-1]) == {f"asked {i}" for i in range(36, 40)}


def test_split_by_time_needs_a_column_of_time() -> None:
    with pytest.raises(ValueError, match=r"give data\.train\.time"):
        Data(train=Table(path="a.csv"), split="time")


def test_queries_of_several_tables_are_sliced_by_their_source(tmp_path: Path) -> None:
    tables = tuple(table(tmp_path, f"{n}.csv", [(f"{n} {i}",) for i in range(20)]) for n in "ab")
    data = read(tmp_path, rows(20), rows(2, "test"), queries=tables)
    sources = data.query_rows.slices["source table"]
    assert {Path(s).stem == str(t)[0] for s, t in zip(sources, data.query_test, strict=True)} == {True}


def test_redaction_comes_before_hashing_and_copies_become_one(tmp_path: Path) -> None:
    log = table(tmp_path, "q.csv", [("pay 4111111111111111",), ("pay 5500000000000004",)])
    data = read(tmp_path, rows(20), rows(2, "test"), queries=(log,), redact=("card",))
    assert data.unlabelled == ("pay [CARD]",)
    assert data.unlabelled_weights is not None
    assert data.unlabelled_weights.tolist() == [2]
    assert data.warnings[-1] == "redacted: 2 card in 2 rows"


def test_an_error_while_reading_quotes_nothing_that_is_redacted(tmp_path: Path) -> None:
    """A file without a header: its first row is taken for column names, and they are listed."""
    (tmp_path / "train.csv").write_text("4111111111111111 lost,x,y\na,b,c\n")
    with pytest.raises(BadInput, match=r"\[CARD\] lost") as error:
        read_dataset(Data(train=Table(path=str(tmp_path / "train.csv")), redact=("card",)), "text", lambda: CLASSES)
    assert "4111" not in str(error.value)


def test_pictures_cannot_be_redacted(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="rows are pictures"):
        read_dataset(Data(train=Table(path=str(tmp_path)), redact=("card",)), "image", lambda: CLASSES)


def test_near_duplicates_are_counted_kept_and_sliced(tmp_path: Path) -> None:
    train = [
        (f"{word} question about my {name} number {i}", name) for name in CLASSES for i, word in enumerate("abcdefgh")
    ]
    test = [(train[0][0].upper() + "!", CLASSES[0]), ("something else entirely", CLASSES[1])]
    data = read(tmp_path, train, test)
    assert data.near_duplicates is not None
    assert (data.near_duplicates.rows, data.near_duplicates.of) == ((0,), 2)
    assert data.test.slices["nearness to train"] == ("nearly a row of train", "other")
    assert any(w.startswith("1 of 2 test rows (50.0%) are nearly rows of train") for w in data.warnings)


def test_weights_that_few_rows_carry_are_said_with_their_effective_number(tmp_path: Path) -> None:
    test = log_of(tmp_path, "heavy.csv", [("a", "pay", 98), ("b", "pay", 1), ("c", "pay", 1)], weight="count")
    given = {"train": table(tmp_path, "train.csv", rows(20)), "test": test}
    data = read_dataset(Data(**given), "text", lambda: CLASSES)
    assert any("the 3 test rows tell as much as 1 equal ones" in w for w in data.warnings)
