"""costs.csv: its columns, its blanks, and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from typing import Any

from kdexport.reporting.costs import COLUMNS, costs_csv

Document = dict[str, Any]


def _read(document: Document) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(costs_csv(document), newline=""))
    found = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    return found


def test_there_is_one_row_for_each_model_on_each_target(document: Document) -> None:
    who = [(row["target"], row["who"]) for row in _read(document)]
    models = ("incumbent", "teacher_quantised", "student")
    assert who == [(target, model) for target in ("local-cpu", "l4") for model in models]


def test_a_priced_line_carries_price_source_interval_and_traffic(document: Document) -> None:
    student = _read(document)[-1]
    assert float(student["usd_per_year"]) == 2 * 0.8048 * 8760
    assert float(student["saving_usd_per_year"]) == 2 * 0.8048 * 8760
    assert float(student["zero_saving_requests_per_s"]) == 239.5
    assert float(student["capacity_low"]) == 5200
    assert (student["kind"], student["capacity_kind"], student["traffic_assumed"]) == ("estimated", "estimated", "yes")
    assert student["price_date"] == "2026-10-02"
    assert student["price_source"].startswith("https://aws.amazon.com")
    assert student["price_basis"] == "list price of an hour"
    assert (student["capacity_how"], student["quality_n"]) == ("simulated queue", "3080")


def test_a_cost_that_is_not_known_is_an_empty_cell_with_a_note(document: Document) -> None:
    incumbent = _read(document)[0]
    money = [incumbent[column] for column in COLUMNS if column.startswith(("usd", "saving", "zero"))]
    assert money == [""] * len(money)
    assert incumbent["note"] == "no price: target 'local-cpu' names no offering"


def test_without_a_cost_report_the_yearly_figures_remain(document: Document) -> None:
    target = document["targets"][1]
    target["cost"] |= {"report": None}
    document["targets"] = [target]
    rows = _read(document)
    assert [row["who"] for row in rows] == ["incumbent", "teacher_quantised", "student"]
    assert float(rows[0]["usd_per_year"]) == 4 * 0.8048 * 8760
    assert rows[0]["replicas"] == ""


def test_a_document_of_blanks_has_rows_of_empty_cells(blank_document: Document) -> None:
    for row in _read(blank_document):
        assert {column for column, cell in row.items() if cell} == {"target", "who"}


def test_text_that_a_spreadsheet_would_run_is_defused_and_a_negative_number_is_not(document: Document) -> None:
    l4 = document["targets"][1]
    l4["cost"]["saving_usd_per_year"] = -3.5
    l4["cost"]["report"]["lines"][2]["note"] = "=HYPERLINK(1)"
    row = _read(document)[-1]
    assert row["note"] == "'=HYPERLINK(1)"
    assert row["saving_usd_per_year"] == "-3.5"
