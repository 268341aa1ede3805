from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdexport.errors import BadInput
from kdexport.nouns.project import Table
from kdexport.storage import tables
from kdexport.storage.tables import InputKind, Rows, read_rows

TEXTS, LABELS = ("pay, please", "lost card"), ("pay", "card")


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path | str, kind: InputKind = "text", *, labelled: bool = True, **columns: str) -> Rows:
    return read_rows(Table(path=str(path), **columns), kind, labelled=labelled)  # type: ignore[arg-type]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"pay, please",pay\nlost card,card\n'),
        ("a.csv", '\ufefftext,label\r\n"pay, please",pay\r\n\r\nlost card,card\r\n'),
        ("a.tsv", "text\tlabel\npay, please\tpay\nlost card\tcard\n"),
        ("a.jsonl", '{"text": "pay, please", "label": "pay"}\n\n{"text": "lost card", "label": "card"}\n'),
        ("a.json", '[{"text": "pay, please", "label": "pay"}, {"text": "lost card", "label": "card"}]'),
        ("a.json", '[["pay, please", "pay"], ["lost card", "card"]]'),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    rows = read(write(tmp_path, name, content))
    assert (rows.inputs, rows.labels, rows.columns) == (TEXTS, LABELS, ("text", "label"))


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    records = [{"text": t, "label": c} for t, c in zip(TEXTS, LABELS, strict=True)]
    rows = read(write_parquet(tmp_path / "a.parquet", records))
    assert (rows.inputs, rows.labels) == (TEXTS, LABELS)


def test_a_member_of_a_json_object_is_read_by_its_name(tmp_path: Path) -> None:
    members = {"test": [["no", "x"]], "train": list(zip(TEXTS, LABELS, strict=True))}
    path = write(tmp_path, "a.json", json.dumps(members))
    assert read(f"{path}#train").labels == LABELS


def test_a_misspelt_member_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '{"train": [], "test": []}')
    with pytest.raises(BadInput, match=r"a\.json#trian: unknown member 'trian'; did you mean 'train'"):
        read(f"{path}#trian")


def test_a_hash_in_a_folders_name_is_no_member(tmp_path: Path) -> None:
    assert read(write(tmp_path, "c#/a.csv", "text,label\nx,y\n")).inputs == ("x",)


def test_lines_of_a_text_file_are_unlabelled_inputs(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "a.txt", "pay, please\n\nlost card"), labelled=False)
    assert (rows.inputs, rows.labels) == (TEXTS, None)


def test_a_folder_per_class_gives_the_bytes_of_each_picture(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/2.JPG", "dog/1.png", "dog/notes.txt"):
        write(tmp_path, name, name)
    rows = read(tmp_path, "image")
    assert rows.inputs == (b"cat/1.png", b"cat/2.JPG", b"dog/1.png")
    assert rows.labels == ("cat", "cat", "dog")


def test_pictures_are_found_by_a_path_beside_the_table(tmp_path: Path) -> None:
    write(tmp_path, "pictures/1.png", b"first")
    rows = read(write(tmp_path, "a.csv", "path,label\npictures/1.png,cat\n"), "image")
    assert (rows.inputs, rows.labels) == ((b"first",), ("cat",))


@pytest.mark.parametrize("image", [b"first", {"bytes": b"first", "path": None}])
def test_pictures_are_found_as_bytes_in_parquet(tmp_path: Path, image: object) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"img": image, "label": 3}])
    assert (read(path, "image").inputs, read(path, "image").labels) == ((b"first",), ("3",))


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text,label,note", ("text", "label")),
        ("id,Query,INTENT", ("Query", "INTENT")),
        ("category,text,note", ("text", "category")),
        ("what,why", ("what", "why")),
    ],
)
def test_the_usual_names_of_columns_are_guessed(tmp_path: Path, header: str, columns: tuple[str, str]) -> None:
    names = header.split(",")
    values = {columns[0]: ["first text", "second text"], columns[1]: ["x", "x"]}
    lines = [",".join(values.get(n, ["1", "2"])[i] for n in names) for i in range(2)]
    assert read(write(tmp_path, "a.csv", "\n".join([header, *lines]))).columns == columns


def test_of_two_unnamed_columns_the_input_is_the_one_with_more_distinct_values(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "a.csv", "a,b\nx,first text\nx,second text\n"))
    assert (rows.columns, rows.labels) == (("b", "a"), ("x", "x"))


def test_named_columns_win_over_guesses(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label,body,kind\nno,no,yes,k\n")
    assert read(path, input="body", label="kind").inputs == ("yes",)


def test_an_unlabelled_table_needs_no_label_column(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "a.csv", "text,note,when\nx,y,z\n"), labelled=False)
    assert (rows.inputs, rows.labels) == (("x",), None)


def test_a_text_with_half_a_surrogate_pair_becomes_text_that_can_be_written(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "a.jsonl", '{"text": "a\\ud800b", "label": "x"}\n'))
    assert rows.inputs == ("a?b",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\n", r"a\.csv: no rows"),
        ("a.csv", "", r"a\.csv: no rows"),
        ("a.csv", "text,label\nx,y\nz\n", r"a\.csv:3: the row does not have the header's columns"),
        ("a.csv", "text,label\nx,y,z\n", r"a\.csv:2: the row does not have the header's columns"),
        ("a.csv", "text,label\nx,y\nz, \n", r"a\.csv:3: column 'label' is empty"),
        ("a.csv", "a,b,c\n1,2,3\n", r"a\.csv:1: cannot tell which column is the input; name it \(found: a, b, c\)"),
        ("a.csv", "text,b,c\n1,2,3\n", r"a\.csv:1: cannot tell which column is the label; name it"),
        ("a.csv", b"text,label\n\xff\xfe,y\n", r"a\.csv: is not UTF-8 text"),
        ("a.jsonl", '{"text": "x", "label": "y"}\n{"text": ', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"text": "x", "label": "y"}\n3\n', r"a\.jsonl:2: a row is an object, .*; found int"),
        ("a.jsonl", '{"text": "x", "label": "y"}\n{"text": "z"}\n', r"a\.jsonl:2: column 'label' is empty"),
        ("a.jsonl", '{"text": "x", "label": ["y", "z"]}\n', r"a\.jsonl:1: column 'label' holds several labels"),
        ("a.jsonl", '{"text": 3, "label": "y"}\n', r"a\.jsonl:1: column 'text': a text is wanted, found int"),
        ("a.json", '{"train": 3}#train', r"a\.json:1: not valid JSON"),
        ("a.json", '"text"', r"a\.json: a list of rows is wanted, found str"),
        ("a.parquet", b"no parquet", r"a\.parquet: not a readable Parquet file"),
        ("a.xlsx", "x", r"a\.xlsx: unknown format '\.xlsx'; known: \.csv"),
    ],
)
def test_each_fault_names_the_file_and_where_there_is_one_the_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        read(write(tmp_path, name, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.csv: no such file or folder"):
        read(tmp_path / "none.csv")


def test_a_misspelt_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "sentence,label\nx,y\n")
    with pytest.raises(BadInput, match=r"a\.csv:1: unknown column 'sentense'; did you mean 'sentence'"):
        read(path, input="sentense")
    with pytest.raises(BadInput, match=r"a\.csv:1: unknown column 'lable'; did you mean 'label'"):
        read(path, label="lable")


def test_a_picture_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "1.png", b"first")
    path = write(tmp_path, "a.csv", "path,label\n1.png,cat\n2.png,cat\n")
    with pytest.raises(BadInput, match=r"a\.csv:3: no such image: .*2\.png"):
        read(path, "image")


def test_a_picture_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_IMAGE_BYTES", 4)
    write(tmp_path, "cat/1.png", b"12345")
    with pytest.raises(BadInput, match=r"1\.png is over 0 MiB"):
        read(tmp_path, "image")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no images in sub-folders; a folder per class is wanted"):
        read(tmp_path, "image")


def test_an_empty_picture_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"image": b"", "label": "x"}])
    with pytest.raises(BadInput, match=r"a\.parquet:1: column 'image': image bytes or a path are wanted"):
        read(path, "image")


LOG = "text,label,count,at,team\npay,pay,3,2026-03-01T12:00:00Z,a\ncard,card,0.5,1772366400,\n"


def read_log(folder: Path, content: str = LOG) -> Rows:
    path = write(folder, "log.csv", content)
    table = Table(path=str(path), weight="count", time="at", slices=("team",))
    return read_rows(table, "text", labelled=True)


def test_weights_times_and_slices_are_read_beside_the_rows(tmp_path: Path) -> None:
    rows = read_log(tmp_path)
    assert rows.weights is not None
    assert rows.times is not None
    assert rows.weights.tolist() == [3.0, 0.5]
    assert rows.times.tolist() == [1772366400.0, 1772366400.0]  # the same second, written in two ways
    assert rows.slices == {"team": ("a", "(blank)")}
    assert rows.columns == ("text", "label")


def test_a_time_without_a_zone_is_taken_as_utc(tmp_path: Path) -> None:
    rows = read_log(tmp_path, LOG.replace("12:00:00Z", "12:00:00"))
    assert rows.times is not None
    assert rows.times[0] == 1772366400.0


def test_parquet_times_are_read_as_they_are(tmp_path: Path) -> None:
    import datetime

    when = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
    path = write_parquet(tmp_path / "a.parquet", [{"text": "pay", "label": "pay", "at": when}])
    rows = read_rows(Table(path=str(path), time="at"), "text", labelled=True)
    assert rows.times is not None
    assert rows.times.tolist() == [1772366400.0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",3,", ",0,", r"log.csv:2: column 'count': a weight above 0 is wanted, found 0; correct"),
        (",3,", ",-1,", r"log.csv:2: column 'count': a weight above 0 is wanted, found -1"),
        (",3,", ",nan,", r"log.csv:2: column 'count': a weight above 0 is wanted, found nan"),
        (",0.5,", ",many,", r"log.csv:3: column 'count': a number above 0 is wanted"),
        ("2026-03-01T12:00:00Z", "yesterday", r"log.csv:2: column 'at': a time such as"),
        ("1772366400", "1772366400000", r"log.csv:3: column 'at': .*are these milliseconds"),
        ("1772366400", "-1e30", r"log.csv:3: column 'at': .*before the year 1"),
        (",at,", ",when,", r"log.csv:1: unknown column 'at'"),
    ],
)
def test_a_bad_weight_or_time_names_file_line_and_column(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_log(tmp_path, LOG.replace(old, new))


def test_all_weights_zero_is_an_error_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"found 0; so are 1 more of 2 rows"):
        read_log(tmp_path, LOG.replace(",3,", ",0,").replace(",0.5,", ",0,"))
