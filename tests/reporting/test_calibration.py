from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from kdexport.cli import main
from kdexport.latency import store
from kdexport.reporting.calibration import calibration_rows, print_calibrations
from tests.latency.planted import calibration, points

TIMED = calibration(points(["convolution", "transformer"], graphs=12))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDEXPORT_CACHE", str(tmp_path / "cache"))


def test_a_row_says_how_much_was_timed_and_how_far_estimates_miss() -> None:
    (row,) = calibration_rows([TIMED])
    assert (row["runtime"], row["precision"], row["threads"]) == ("onnxruntime", "fp32", 1)
    assert (row["points"], row["graphs"]) == (len(TIMED.points), 24)
    assert set(row["half_width"]) == {"convolution", "transformer"}
    assert all(0 < width < 0.2 for width in row["half_width"].values())
    assert row["tail"]["99"] == 1.5
    assert row["file"] == str(store.path(TIMED))


def test_the_tables_show_what_was_timed_a_row_for_each_backbone_and_where_it_is_kept() -> None:
    console = Console(record=True, width=200)
    print_calibrations([TIMED], console)
    shown = console.export_text()
    for words in ("onnxruntime 1.0", "fp32", "convolution", "transformer", "1.0%", "1.50", "±", str(store.path(TIMED))):
        assert words in shown


def test_a_calibration_of_a_busy_machine_says_so_and_how_to_repeat_it() -> None:
    console = Console(record=True, width=200)
    print_calibrations([TIMED.model_copy(update={"noise": 0.4})], console)
    assert "the machine was busy" in (shown := console.export_text())
    assert "kdexport profiles calibrate --runtime onnxruntime --precision fp32 --force" in shown
    print_calibrations([TIMED], console)
    assert "warning" not in console.export_text()


def test_a_calibration_from_elsewhere_is_kept_under_its_own_fingerprint(tmp_path: Path) -> None:
    brought = tmp_path / "brought.json"
    brought.write_text(TIMED.model_dump_json())
    answer = CliRunner().invoke(main, ["profiles", "calibrate", "--from", str(brought), "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)[0]["fingerprint"] == TIMED.fingerprint
    assert store.read(store.path(TIMED)) == TIMED


def test_a_file_that_is_no_calibration_is_refused_with_exit_2(tmp_path: Path) -> None:
    brought = tmp_path / "brought.json"
    brought.write_text("{}")
    answer = CliRunner().invoke(main, ["profiles", "calibrate", "--from", str(brought)])
    assert answer.exit_code == 2
    assert "not a calibration" in answer.stderr
