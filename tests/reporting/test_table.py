"""The terminal: the summary of one run, and several runs side by side."""

from __future__ import annotations

import copy
import json
from io import StringIO
from typing import Any

from rich.console import Console

from kdexport.reporting.table import compare_rows, print_comparison, print_summary, summary_rows

Document = dict[str, Any]


def _printed(show: Any, *arguments: Any) -> str:
    out = StringIO()
    show(*arguments, Console(file=out, width=200))
    return out.getvalue()


def test_a_summary_row_is_plain_json_with_units_in_its_names(document: Document) -> None:
    local, l4 = json.loads(json.dumps(summary_rows(document)))
    assert (local["target"], local["params"], local["params_ratio"]) == ("local-cpu", 182_413, 124.6)
    assert (local["p50_ms"], local["latency_kind"], local["speedup"]) == (0.0713, "measured", 44.04)
    assert (local["student_usd_per_year"], local["saving_usd_per_year"]) == (None, None)
    assert (l4["latency_kind"], l4["saving_usd_per_year"]) == ("estimated", 2 * 0.8048 * 8760)
    assert l4["retention_ci95"] == [0.9897, 1.0068]
    assert (local["objective_met"], l4["objective_met"]) == (True, None)


def test_the_summary_shows_size_retention_latency_speed_up_and_money(document: Document) -> None:
    text = _printed(print_summary, document)
    for shown in (
        "local-cpu", "objective met", "objective not proven", "retention met", "182 k", "125× fewer", "99.8 %",
        "99.0 to 100.7 %", "0.0713 ms", "0.0677 to 0.0749 ms", "measured", "estimated", "44.0×", "$28,200 → $14,100",
        "$14,100",
    ):  # fmt: skip
        assert shown in text


def test_money_is_explained_where_it_is_blank_and_where_the_incumbent_is_assumed(document: Document) -> None:
    text = _printed(print_summary, document)
    assert "local-cpu: USD/year is blank: no price: target 'local-cpu' names no offering" in text
    assert "l4: USD/year is blank" not in text
    assert "USD/year: incumbent (assumed: teacher here) → student" in text
    document["targets"][1]["cost"]["report"]["incumbent"] = ""
    assert "assumed: teacher here" not in _printed(print_summary, document)


def test_a_missed_gate_is_told_in_the_target_s_cell(document: Document) -> None:
    document["targets"][0]["gate"]["met"] = False
    assert "retention missed" in _printed(print_summary, document)
    assert [row["gate_met"] for row in summary_rows(document)] == [False, True]


def test_the_decision_and_the_warnings_stand_below_the_table(document: Document) -> None:
    document["warnings"] = ["a [bold]bracket[/bold] stays"]
    text = _printed(print_summary, document)
    assert (
        text.index("local-cpu") < text.index(document["decision"]) < text.index("warning: a [bold]bracket[/bold] stays")
    )


def test_blanks_are_dashes(blank_document: Document) -> None:
    text = _printed(print_summary, blank_document)
    row = next(line for line in text.splitlines() if "raspberry-pi-5 " in line)
    assert row.split() == ["raspberry-pi-5", *["—"] * 6]
    assert "agreement with the teacher" in text


def test_runs_stand_together_by_target(document: Document) -> None:
    rows = compare_rows({"first": document, "second": copy.deepcopy(document)})
    assert [(row["target"], row["run"]) for row in rows] == [
        ("local-cpu", "first"), ("local-cpu", "second"), ("l4", "first"), ("l4", "second"),
    ]  # fmt: skip


def test_a_difference_inside_the_intervals_is_no_significant_difference(document: Document) -> None:
    other = copy.deepcopy(document)
    other["targets"][0]["latency"]["student"] |= {"p50_ms": 0.072, "ci95": [0.070, 0.075]}
    text = _printed(print_comparison, {"a": document, "b": other})
    assert "latency: no significant difference" in text


def test_a_difference_outside_the_intervals_is_told(document: Document) -> None:
    other = copy.deepcopy(document)
    other["targets"][0]["latency"]["student"] |= {"p50_ms": 0.05, "ci95": [0.049, 0.051]}
    first, second, *_ = compare_rows({"a": document, "b": other})
    assert first["latency_difference"] is None
    assert second["latency_difference"] == 0.05 - 0.0713
    assert "latency: −0.0213 ms" in _printed(print_comparison, {"a": document, "b": other})
