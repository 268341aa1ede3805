from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import label_stream
from benchmarks.label_stream import asked_by, bars, distinct_texts, spliced, text_digest

TEXTS = [f"{a} of the {b} by {c}" for a in "abcdef" for b in "ghijkl" for c in "mnopqr"]
GOOD = {
    "texts": 900_000,
    "kills": [{"hit": True}, {"hit": True}],
    "rows_compared": 4096,
    "peak_over_teacher_bytes": 5e8,
    "asked_again_though_written": 0,
    "largest_difference": 0.0,
    "bytes_per_text": 154.0,
}


def test_spliced_texts_are_distinct_new_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    found = list(spliced(TEXTS, 500, 3))
    assert len(set(found)) == len(found) == 500
    assert not set(found) & set(TEXTS)
    assert found == list(spliced(TEXTS, 500, 3)) != list(spliced(TEXTS, 500, 4))
    (tmp_path / "texts.txt").write_text("\n".join([*found, found[0]]))
    assert distinct_texts(tmp_path / "texts.txt") == 500


def test_a_log_gives_back_what_was_noted(tmp_path: Path) -> None:
    (tmp_path / "0.bin").write_bytes(text_digest("a") + text_digest("b") + text_digest("a"))
    assert asked_by(tmp_path / "0.bin") == {text_digest("a"), text_digest("b")}


def test_every_bar_passes_on_good_figures() -> None:
    assert all(bar["passed"] for bar in bars(GOOD))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("texts", 899_999),
        ("kills", [{"hit": True}, {"hit": False}]),
        ("rows_compared", 1999),
        ("peak_over_teacher_bytes", 1.6e9),
        ("asked_again_though_written", 1),
        ("largest_difference", 1e-7),
        ("bytes_per_text", 161.0),
    ],
)
def test_each_bar_can_fail(key: str, value: object) -> None:
    assert [bar["passed"] for bar in bars(GOOD | {key: value})].count(False) == 1


def test_rows_written_before_any_run_are_none(tmp_path: Path) -> None:
    assert label_stream.written_rows(tmp_path) == 0
