"""A run's report on disk: report.json, and the page and table of costs that are drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdexport.errors import BadInput, Damaged
from kdexport.storage.files import read_json, write_json, write_text

REPORT = "report.json"


def write_report(document: dict[str, Any], out: Path) -> None:
    """report.json, report.html and costs.csv in `out`."""
    write_json(out / REPORT, document)
    draw_report(document, out)


def draw_report(document: dict[str, Any], out: Path) -> None:
    """report.html and costs.csv alone."""
    from kdexport.reporting.costs import costs_csv
    from kdexport.reporting.html import render_html

    write_text(out / "report.html", render_html(document))
    write_text(out / "costs.csv", costs_csv(document))


def read_report(folder: Path) -> dict[str, Any]:
    """report.json of a finished run. Raises BadInput where there is none, Damaged where it is no report."""
    path = folder / REPORT
    if not path.is_file():
        raise BadInput(f"{path}: no such file; name the --out folder of a finished `kdexport run`")
    document = read_json(path, "run `kdexport run` again, it writes it")
    if not isinstance(document, dict) or document.get("schema") != 1 or not isinstance(document.get("targets"), list):
        raise Damaged(f"{path}: not a report of this version (schema 1); run `kdexport run` again")
    return document
