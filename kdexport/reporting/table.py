"""The summary on a terminal: one row a target, and several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdexport.reporting import figures
from kdexport.reporting.baselines import verdicts
from kdexport.reporting.figures import NO_DIFFERENCE, Document, Figure, finite, mapping, rows, words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HEADINGS = ("Target", "Student", "Retention", "Latency p50, end to end", "Speed-up", "USD/year", "Saving/year")


def summary_rows(document: Document) -> list[dict[str, Any]]:
    """One plain dict for each target; None where a figure is blank. Ratios 0..1, times in ms, money in USD."""
    return [_summary(document, target) for target in rows(document.get("targets"))]


def compare_rows(documents: Mapping[str, Document]) -> list[dict[str, Any]]:
    """The rows of every run, sorted by target, with `run` and what differs from the first run on that target.

    Intervals that overlap are 'no significant difference'; so is a difference without intervals."""
    found = [{"run": run, **row} for run, document in documents.items() for row in summary_rows(document)]
    first: dict[str, dict[str, Any]] = {}
    for row in found:
        base = first.setdefault(row["target"], row)
        row["quality_difference"] = None if base is row else _difference(base, row, "quality", "quality_ci95")
        row["latency_difference"] = None if base is row else _difference(base, row, "p50_ms", "p50_interval_ms")
    order = list(first)
    return sorted(found, key=lambda row: order.index(row["target"]))


def print_summary(document: Document, console: Console) -> None:
    table = _table(HEADINGS)
    for target in rows(document.get("targets")):
        table.add_row(*_cells(document, target))
    console.print(table)
    for remark in [*verdicts(rows(document.get("targets"))), *_remarks(document)]:
        console.print(remark, markup=False, highlight=False)
    if document.get("decision"):
        console.print(f"\n{document['decision']}", markup=False, highlight=False)
    for warning in document.get("warnings") or ():
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def print_comparison(named_documents: Mapping[str, Document], console: Console) -> None:
    """Runs side by side, the runs of one target together."""
    table = _table(("Run", *HEADINGS, "Against the first run"))
    cells = {
        (run, words(target.get("target"))): _cells(document, target)
        for run, document in named_documents.items()
        for target in rows(document.get("targets"))
    }
    for row in compare_rows(named_documents):
        table.add_row(_plain(row["run"]), *cells[row["run"], row["target"]], _against(row))
    console.print(table)


def _summary(document: Document, target: Document) -> dict[str, Any]:
    student, size = mapping(target.get("student")), mapping(target.get("size"))
    retention, speedup, saving = figures.retention(target), figures.speedup(target), figures.saving(target)
    latency = figures.latency(document, mapping(target.get("latency")).get("student"))
    quality = figures.quality(target.get("quality"))
    return {
        "target": words(target.get("target")),
        "name": figures.target_name(target),
        "params": finite(student.get("params")),
        "params_ratio": finite(size.get("params_ratio")),
        "student_bytes": finite(size.get("student_bytes")),
        "bytes_ratio": finite(size.get("bytes_ratio")),
        "quality": quality.value,
        "quality_ci95": quality.interval,
        "retention": retention.value,
        "retention_ci95": retention.interval,
        "retention_kind": figures.retention_name(target),
        "p50_ms": latency.value,
        "p50_interval_ms": latency.interval,
        "latency_kind": latency.kind or None,
        "speedup": speedup.value,
        "speedup_interval": speedup.interval,
        "incumbent_usd_per_year": figures.usd_per_year(target, "incumbent").value,
        "student_usd_per_year": figures.usd_per_year(target, "student").value,
        "saving_usd_per_year": saving.value,
        "saving_interval_usd_per_year": saving.interval,
        "objective_met": mapping(target.get("objective")).get("met"),
        "gate_met": figures.gate_text(target)[0],
    }


def _remarks(document: Document) -> list[str]:
    """Why money is blank, and against whom it is saved where the project does not say."""
    targets = rows(document.get("targets"))
    money = {words(t.get("target")): figures.usd_per_year(t, "student") for t in targets}
    found = [f"{name}: USD/year is blank: {usd.reason}" for name, usd in money.items() if usd.value is None]
    if any(figures.usd_per_year(t, "incumbent").value is not None and figures.assumed_incumbent(t) for t in targets):
        found.append("USD/year: incumbent (assumed: teacher here) → student")
    return found


def _cells(document: Document, target: Document) -> tuple[str, ...]:
    params = figures.counted(mapping(target.get("student")).get("params"), figures.params_text)
    fewer = figures.fewer(target)
    latency = figures.latency(document, mapping(target.get("latency")).get("student"))
    kept = figures.retention(target)
    objective = mapping(target.get("objective"))
    verdicts = {True: "objective met", False: "objective missed"}
    met = verdicts.get(objective.get("met", ""), "objective not proven" if objective.get("limit_ms") else "")
    shown = "" if figures.retention_name(target) == "retention" else figures.retention_name(target)
    cells = (
        _lines(words(target.get("target")), met, _gate(target)),
        _lines(params.shown(), fewer, "parameters" if fewer else ""),
        _lines(_with_interval(kept), shown, kept.kind if kept.value is not None else ""),
        _lines(_with_interval(latency), latency.kind if latency.value is not None else ""),
        _with_kind(figures.speedup(target)),
        _money(target),
        _with_kind(figures.saving(target)),
    )
    return tuple(_plain(cell) for cell in cells)


def _gate(target: Document) -> str:
    met, _ = figures.gate_text(target)
    return "" if met is None else f"retention {'met' if met else 'missed'}"


def _money(target: Document) -> str:
    before, after = (figures.usd_per_year(target, who) for who in ("incumbent", "student"))
    if before.value is None and after.value is None:
        return figures.BLANK
    return _lines(f"{before.shown()} → {after.shown()}", after.kind if after.value is not None else "")


def _with_interval(figure: Figure) -> str:
    return _lines(figure.shown(), figure.shown_interval())


def _with_kind(figure: Figure) -> str:
    return figure.shown() if figure.value is None else _lines(figure.shown(), figure.kind)


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _table(headings: tuple[str, ...]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_lines=False, padding=(0, 1, 1, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("Run", "Target") else "right")
    return table


def _difference(base: dict[str, Any], row: dict[str, Any], key: str, interval_key: str) -> float | None:
    """Value minus the first run's; 0.0 inside the noise, None where one of the two is blank."""
    if base[key] is None or row[key] is None:
        return None
    mine, other = row[interval_key], base[interval_key]
    if mine is None or other is None or (mine[0] <= other[1] and other[0] <= mine[1]):
        return 0.0
    return float(row[key] - base[key])


def _against(row: dict[str, Any]) -> str:
    texts = {"quality": figures.quality_text, "latency": figures.milliseconds}
    parts = []
    for name, text in texts.items():
        difference = row[f"{name}_difference"]
        if difference is not None:
            sign = "+" if difference > 0 else "−"
            parts.append(f"{name}: {sign + text(abs(difference)) if difference else NO_DIFFERENCE}")
    return "\n".join(parts) or figures.BLANK
