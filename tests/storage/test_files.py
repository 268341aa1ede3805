from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport.errors import BadInput, Damaged
from kdexport.nouns.project import Licence
from kdexport.storage.files import (
    canonical_json,
    content_key,
    ensure_writable,
    read_json,
    replacing,
    sha256_bytes,
    sha256_file,
    sha256_folder,
    to_plain,
    write_json,
    write_text,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, the example "abc"
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_the_hash_of_a_file_is_the_hash_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == sha256_bytes(b"abc") == ABC


def test_the_hash_of_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="none: cannot be read"):
        sha256_file(tmp_path / "none")


def test_the_hash_of_a_folder_changes_with_a_name_and_with_a_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    before = sha256_folder(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = sha256_folder(tmp_path)
    (tmp_path / "b").write_bytes(b"abd")
    assert len({before, renamed, sha256_folder(tmp_path)}) == 3


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_a_key_does_not_depend_on_the_order_of_a_dict(value: dict[str, object]) -> None:
    assert content_key(value) == content_key(dict(reversed(value.items())))


@given(PLAIN)
def test_what_is_written_is_what_is_read(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


def test_parts_of_a_key_are_not_run_together() -> None:
    assert content_key("ab", "c") != content_key("a", "bc")


def test_nouns_and_paths_become_plain_values() -> None:
    assert to_plain({"a": (Licence(), Path("x"))}) == {"a": [{"distillation": "unknown", "source": ""}, "x"]}


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def write_half() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "new"


def test_a_written_file_has_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"a: cannot be written \(No space left on device\); free space or choose another"
    ):
        with replacing(tmp_path / "a"):
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_a_damaged_json_file_says_what_to_delete(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"a\.json: not valid JSON .*delete it, it is made again"):
        read_json(tmp_path / "a.json")


def test_json_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"naïve": "café"})
    assert read_json(tmp_path / "a.json") == {"naïve": "café"}
    assert "café".encode() in (tmp_path / "a.json").read_bytes()


def test_a_folder_is_made_and_proved_writable(tmp_path: Path) -> None:
    ensure_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(BadInput, match="cannot be written"):
        ensure_writable(tmp_path / "a" / "b")
