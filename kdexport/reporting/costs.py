"""costs.csv: one row for each model on each target, blank cells where a figure is not known."""

from __future__ import annotations

import csv
import io

from kdexport.reporting.figures import Document, Interval, finite, interval_of, mapping, rows, words

COLUMNS = (
    "target",
    "who",
    "runs_on",
    "kind",
    "quality",
    "quality_label",
    "quality_n",
    "mean_requests_per_s",
    "peak_requests_per_s",
    "traffic_assumed",
    "capacity_requests_per_s",
    "capacity_low",
    "capacity_high",
    "capacity_kind",
    "capacity_how",
    "redundancy",
    "replicas",
    "usd_per_replica_hour",
    "usd_per_hour",
    "usd_per_year",
    "usd_per_year_low",
    "usd_per_year_high",
    "usd_per_million",
    "saving_usd_per_year",
    "saving_usd_per_year_low",
    "saving_usd_per_year_high",
    "zero_saving_requests_per_s",
    "region",
    "price_basis",
    "price_source",
    "price_date",
    "note",
)
Cell = str | float | int | None


def costs_csv(document: Document) -> str:
    """The money as CSV (RFC 4180, with a header). The saving stands on the student's row."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for row in cost_rows(document):
        writer.writerow({key: _safe(value) for key, value in row.items()})
    return out.getvalue()


def cost_rows(document: Document) -> list[dict[str, Cell]]:
    """One dict for each row of costs.csv, with all of COLUMNS; None is a blank cell."""
    return [row for target in rows(document.get("targets")) for row in _target_rows(target)]


def _target_rows(target: Document) -> list[dict[str, Cell]]:
    cost = mapping(target.get("cost"))
    report = mapping(cost.get("report"))
    lines = rows(report.get("lines")) or [
        {"who": who, "usd_per_year": cost.get(f"{who}_usd_per_year")}
        for who in ("incumbent", "teacher_quantised", "student")
    ]
    return [_row(target, line, report) for line in lines]


def _row(target: Document, line: Document, report: Document) -> dict[str, Cell]:
    traffic, capacity = mapping(line.get("traffic")), mapping(line.get("capacity"))
    capacity_low, capacity_high = _ends(interval_of(capacity.get("ci95") or capacity.get("error_interval")))
    usd_low, usd_high = _ends(interval_of(line.get("usd_per_year_interval")))
    row: dict[str, Cell] = dict.fromkeys(COLUMNS)
    row |= {key: line[key] for key in COLUMNS if key in line and key != "target"}
    row |= {
        "target": words(target.get("target")),
        "runs_on": line.get("target"),
        "mean_requests_per_s": finite(traffic.get("mean_requests_per_s")),
        "peak_requests_per_s": finite(traffic.get("peak_requests_per_s")),
        "traffic_assumed": {True: "yes", False: "no"}.get(traffic.get("assumed", "")),
        "capacity_requests_per_s": finite(capacity.get("requests_per_s")),
        "capacity_low": capacity_low,
        "capacity_high": capacity_high,
        "capacity_kind": capacity.get("kind"),
        "capacity_how": capacity.get("how"),
        # teacher and student are asked the same test rows
        "quality_n": None if line.get("quality") is None else mapping(target.get("quality")).get("n"),
        "usd_per_year_low": usd_low,
        "usd_per_year_high": usd_high,
    }
    return row | (_saving(target, report) if line.get("who") == "student" else {})


def _saving(target: Document, report: Document) -> dict[str, Cell]:
    cost = mapping(target.get("cost"))
    low, high = _ends(interval_of(report.get("saving_interval_usd_per_year")))
    return {
        "saving_usd_per_year": finite(cost.get("saving_usd_per_year")),
        "saving_usd_per_year_low": low,
        "saving_usd_per_year_high": high,
        "zero_saving_requests_per_s": finite(cost.get("zero_saving_requests_per_s")),
    }


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return interval or (None, None)


def _safe(value: Cell) -> Cell:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
