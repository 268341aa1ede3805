"""YAML from a user: values as written, and every error with file, line and key."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from kdexport.errors import BadInput
from kdexport.nouns.base import Noun
from kdexport.storage.yaml_documents import dotted, read_noun, read_yaml


class Wheel(Noun):
    size_mm: float
    maker: str = ""


class Car(Noun):
    name: str
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None
    doors: int = Field(default=4, ge=1)


@pytest.fixture
def write(tmp_path):
    def to_file(text: str | bytes) -> Path:
        path = tmp_path / "car.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return to_file


def said(path: Path, read=read_yaml) -> str:
    """The error's text after the path."""
    with pytest.raises(BadInput) as caught:
        read(path)
    return str(caught.value).removeprefix(str(path))


def car(path: Path) -> Car:
    return read_noun(path, Car)


def test_scalars_keep_the_type_that_they_are_written_in(write):
    document, _ = read_yaml(write('day: 2025-12-15\ncc: "8.9"\nratio: 8.9\nn: 3\nflag: true\nnone:\nquoted: "2025"\n'))
    assert document == {
        "day": datetime.date(2025, 12, 15),
        "cc": "8.9",
        "ratio": 8.9,
        "n": 3,
        "flag": True,
        "none": None,
        "quoted": "2025",
    }


def test_keys_are_text_even_where_yaml_reads_a_number_or_a_truth(write):
    document, _ = read_yaml(write("labels:\n  1: one\n  on: lit\n  no: not\n"))
    assert document == {"labels": {"1": "one", "on": "lit", "no": "not"}}


def test_the_line_of_every_key_is_known(write):
    _, lines = read_yaml(write("# a car\nname: x\nwheels:\n  - size_mm: 1\n  - {size_mm: 2}\n"))
    assert lines[("name",)] == 2
    assert lines[("wheels",)] == 3
    assert lines[("wheels", 0, "size_mm")] == 4
    assert lines[("wheels", 1)] == 5


def test_an_anchor_stands_for_its_value(write):
    assert read_yaml(write("a: &source the data sheet\nb: {source: *source}\n"))[0]["b"] == {"source": "the data sheet"}


def test_text_beyond_ascii_is_read_as_utf_8(write):
    assert read_yaml(write("name: Zürich ✓\n"))[0] == {"name": "Zürich ✓"}


SCALARS = st.integers() | st.booleans() | st.dates() | st.none() | st.text("ab: #-'")


@given(st.dictionaries(st.text("abcxyz", min_size=1), SCALARS, min_size=1))
def test_what_yaml_writes_is_read_back(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(yaml.safe_dump(values))
    assert read_yaml(path)[0] == values


def test_a_missing_file_is_named(tmp_path):
    assert said(tmp_path / "none.yaml") == ": cannot be read (No such file or directory)"


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    assert said(tmp_path) == ": cannot be read (Is a directory)"


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_an_empty_file_is_refused(write, text):
    assert said(write(text)) == ":1: the file is empty"


def test_bytes_that_are_not_utf_8_are_refused(write):
    assert said(write(b"name: Z\xfcrich\n")) == ": is not UTF-8 text (byte 7)"


def test_bad_syntax_is_named_with_its_line(write):
    assert said(write("name: x\nwheels: [1, 2\n")).startswith(":3: not valid YAML: did not find expected ',' or ']'")


def test_a_control_character_is_refused_in_one_line(write):
    assert said(write("name: a\x07b\n")) == ":1: not valid YAML: control characters are not allowed"


def test_a_duplicate_key_is_named_with_its_line(write):
    assert said(write("name: x\nspare:\n  maker: a\n  maker: b\n")) == ":4: key 'spare.maker' stands twice"


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", ".NaN"])
def test_a_number_that_is_not_finite_is_refused(write, value):
    assert said(write(f"name: x\nsize: {value}\n")) == f":2: size is {value}; a finite number is wanted"


def test_nan_without_a_dot_is_text_and_no_number(write):
    assert "finite number" in said(write("name: x\nwheels: [{size_mm: nan}]\n"), car)


def test_a_date_that_does_not_exist_is_refused(write):
    assert said(write("day: 2025-13-01\n")) == ":1: day: '2025-13-01' cannot be read (month must be in 1..12)"


def test_a_tag_that_would_build_an_object_is_refused(write):
    text = said(write("name: !!python/name:os.system x\n"))
    assert text.startswith(":1: name: 'x' cannot be read (could not determine a constructor for the tag")


def test_an_anchor_that_holds_itself_is_refused(write):
    assert said(write("a: &a [*a]\n")) == ":1: an anchor holds itself, or the document is nested too deeply"


def test_a_variable_expands_inside_text(write, monkeypatch):
    monkeypatch.setenv("KDEXPORT_TEST_ROOT", "/data")
    assert read_yaml(write("train: ${KDEXPORT_TEST_ROOT}/train.csv\n"))[0] == {"train": "/data/train.csv"}


def test_a_variable_that_is_not_set_is_named_with_the_command(write, monkeypatch):
    monkeypatch.delenv("KDEXPORT_TEST_ROOT", raising=False)
    path = write("data:\n  train: [a, '${KDEXPORT_TEST_ROOT}/b']\n")
    wanted = ":2: data.train[1] uses ${KDEXPORT_TEST_ROOT}, which is not set; "
    assert said(path) == wanted + "export KDEXPORT_TEST_ROOT=... and run again"
    hints = {"KDEXPORT_TEST_ROOT": "run get_data.sh"}
    assert said(path, lambda p: read_yaml(p, hints)) == wanted + "run get_data.sh"


def test_a_noun_is_read_with_its_defaults(write):
    assert car(write("name: x\nwheels: [{size_mm: 3}]\n")) == Car(name="x", wheels=(Wheel(size_mm=3),))


def test_a_document_that_is_no_mapping_is_refused(write):
    assert said(write("- a\n"), car) == ":1: a mapping of keys is wanted, found list"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("name: x\ndors: 2\n", ":2: dors: unknown key; did you mean 'doors'?"),
        ("name: x\nqqq: 2\n", ":2: qqq: unknown key; known here: doors, name, spare, wheels"),
        ("name: x\nspare: {maker: y}\n", ":2: spare: required key 'size_mm' is missing"),
        ("name: x\nspare: {sise_mm: 2}\n", ":2: spare.sise_mm: unknown key; did you mean 'size_mm'?"),
        ("name: x\nspare:\n  size_mm: 2\n  make: y\n", ":4: spare.make: unknown key; did you mean 'maker'?"),
        ("name: x\nwheels:\n- size_mm: 2\n  make: y\n", ":4: wheels[0].make: unknown key; did you mean 'maker'?"),
        ("doors: 2\n", ":1: the document: required key 'name' is missing"),
        ("name: 8.9\n", ":1: name: text is wanted, found 8.9; put it in quotes"),
        ("name: no\n", ":1: name: text is wanted, found False; put it in quotes"),
        ("name: x\ndoors: 0\n", ":2: doors: Input should be greater than or equal to 1; found 0"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_line_and_remedy(write, text, wanted):
    assert said(write(text), car) == wanted


def test_a_key_is_written_with_dots_and_brackets():
    assert dotted(("data", "train", 0, "path")) == "data.train[0].path"
    assert dotted(()) == "the document"
