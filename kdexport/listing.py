"""Nouns as tables on a terminal: checkups, fitted teachers, evaluations, timings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdexport.reporting.figures import (
    bytes_text,
    milliseconds,
    significant,
)
from kdexport.terminal import Cell, print_table, say

if TYPE_CHECKING:
    from rich.console import Console

    from kdexport.bundle.evaluate import Evaluation
    from kdexport.bundle.timing import BundleTiming
    from kdexport.doctor import Checkup, DataCheckup
    from kdexport.initialise import Started
    from kdexport.nouns.bench import Quality
    from kdexport.nouns.labels import LabelsMade
    from kdexport.nouns.measurement import Latency
    from kdexport.nouns.selection import Candidate, Selection
    from kdexport.teaching import FittedTeacher

SHOWN_CLASSES = 10


def print_started(started: Started, console: Console) -> None:
    rows = [
        ("teacher", started.teacher_kind, "guessed from --teacher"),
        ("task", started.task, "guessed from train"),
        ("input column", started.input, "guessed unless given"),
        ("label column", started.label, "guessed unless given"),
        ("classes", f"{started.classes:,}", "counted"),
        ("rows", f"{started.train_rows:,} train, {started.dev_rows:,} dev, {started.test_rows:,} test", "counted"),
        ("targets", ", ".join(started.targets), "by --target, else local-cpu"),
    ]
    print_table(console, ("", "", ""), rows, left=(0, 1, 2))
    say(console, *(f"look at: {note}" for note in started.notes), f"written: {started.path}")
    say(console, f"next: kdexport plan {started.path}")


def print_checkup(checkup: Checkup, console: Console) -> None:
    e = checkup.environment
    cores, memory = f"{e.cores_allowed:g}", bytes_text(e.memory_bytes)
    bf16 = (
        "promising (amx_bf16): training tries it and keeps it only if it is faster" if checkup.bf16_promising else "no"
    )
    rows = [
        ("processor", e.cpu),
        ("instructions", " ".join(e.isa) or "baseline"),
        ("cores allowed", f"{cores} (affinity and cgroup quota)"),
        ("memory allowed", memory),
        ("bf16 training", bf16),
        ("python", f"{e.python}, {e.platform}"),
    ]
    print_table(console, ("Machine", ""), rows, left=(0, 1))
    runtimes: list[list[Cell]] = [[r.name, r.version or "not installed", r.install or None] for r in checkup.runtimes]
    print_table(console, ("Runtime", "Version", "To install"), runtimes, left=(0, 1, 2))
    if checkup.data is not None:
        _print_data(checkup.data, console)


def _print_data(data: DataCheckup, console: Console) -> None:
    rows = [
        ("classes", f"{data.classes:,}; the smallest has {data.rows_of_smallest_class:,} training rows"),
        ("rows", f"{data.train_rows:,} train, {data.dev_rows:,} dev, {data.test_rows:,} test"),
        ("unlabelled", f"{data.unlabelled_rows:,}"),
        (
            "smallest loss it can show",
            f"{data.detectable_loss:.4f} of accuracy (estimated: paired test at 5 %, power 80 %, "
            f"teacher at {data.accuracy:g}{', assumed' if data.accuracy_assumed else ''})",
        ),
    ]
    print_table(console, (data.project, ""), rows, left=(0, 1))
    say(console, *(f"note: {note}" for note in data.notes))


def print_fitted(several: Sequence[FittedTeacher], console: Console) -> None:
    for fitted in several:
        rows = [
            ("base", fitted.base),
            ("rows", f"{fitted.train_rows:,} trained on; held out {fitted.dev_rows:,} dev, {fitted.test_rows:,} test"),
            ("classes", f"{fitted.classes:,}"),
            ("dev accuracy", _quality(fitted.dev)),
            ("test accuracy", _quality(fitted.test)),
            ("seconds", f"{fitted.seconds:.0f}"),
        ]
        print_table(console, ("Teacher", fitted.path), rows, left=(0, 1))
    say(console, *(f"note: {warning}" for warning in several[0].warnings))
    members = ", ".join(f"{{model: {fitted.path}, trained_on: []}}" for fitted in several)
    say(console, f"in a project: teachers: [{members}]")


def print_evaluation(found: Evaluation, console: Console) -> None:
    rows = [
        ("data", f"{found.data}, columns {found.columns[0]} and {found.columns[1]}"),
        (found.quality.metric, _quality(found.quality) + (", rows by weight" if found.weighted else "")),
        ("answered", f"{found.answered:.4f}"),
    ]
    if found.teacher is not None:
        rows.append((f"the teacher's {found.teacher.metric}", f"{_quality(found.teacher)}, on other rows: see below"))
    print_table(console, ("Bundle", found.bundle), rows, left=(0, 1))
    worst = [
        (c.name, f"{c.n:,}", f"{c.recall:.4f}", f"{c.ci95[0]:.4f} to {c.ci95[1]:.4f}")
        for c in found.per_class[:SHOWN_CLASSES]
    ]
    print_table(console, ("Class", "Rows", "Recall", "95 % interval"), worst)
    if len(found.per_class) > SHOWN_CLASSES:
        say(console, f"The {SHOWN_CLASSES} lowest of {len(found.per_class)} classes; --json has all.")
    if found.teacher is not None:
        say(
            console,
            f"The teacher's figure is of the test set of {found.teacher_source}, not of these rows: "
            "their ratio is no retention.",
        )


def print_labels(found: LabelsMade, console: Console) -> None:
    stored = f"{found.classes}"
    if found.stored_classes < found.classes:
        stored = f"the likeliest {found.stored_classes} of {found.classes}, and the mass of the others"
    rows = [
        ("rows", f"{found.rows:,}"),
        ("distinct, each asked once", f"{found.distinct_rows:,}"),
        ("classes of each row", stored),
        ("size", f"{bytes_text(found.bytes)}, {found.bytes_per_row:,.0f} bytes a row"),
        ("engine", found.engine),
    ]
    print_table(console, ("Soft labels", found.path), rows, left=(0, 1))


def print_timing(found: BundleTiming, console: Console) -> None:
    rows = [("end to end", *_percentiles(found.end_to_end)), ("model alone", *_percentiles(found.model))]
    headings = ("Measured", "p50", "95 % interval", "p90", "p95", "p99", "Calls")
    print_table(console, headings, rows)
    e = found.environment
    say(
        console,
        f"{found.bundle}: {found.runtime}/{found.precision}, {found.threads} thread(s), one request after another; "
        f"{found.requests} distinct requests from {found.requests_from}",
        f"peak memory of this process, Python included: {bytes_text(found.peak_memory_bytes)}",
        f"on {e.cpu}, {e.cores_allowed:g} cores allowed, {e.taken_at}",
        "p90 to p99 are upper bounds at 99 % confidence; blank where there were too few calls",
    )


def _percentiles(latency: Latency) -> list[Cell]:
    low, high = latency.ci95 or (None, None)
    interval = f"{significant(low)} to {significant(high)} ms" if low is not None and high is not None else None
    tails = [milliseconds(v) if v is not None else None for v in (latency.p90_ms, latency.p95_ms, latency.p99_ms)]
    return [milliseconds(latency.p50_ms), interval, *tails, f"{latency.n:,}"]


def _quality(quality: Quality) -> str:
    return f"{quality.value:.4f} [{quality.ci95[0]:.4f} to {quality.ci95[1]:.4f}], n = {quality.n:,} (measured)"


def print_selection(found: Selection, console: Console) -> None:
    metric = next((c.quality.metric for c in found.candidates if c.quality), "quality")
    headings = (
        "Teacher",
        f"dev {metric}",
        "95 %",
        "NLL",
        "ECE",
        "agrees",
        "differ",
        "rows/s",
        "to label",
        "USD",
        "student",
    )
    rows: list[list[Cell]] = [_candidate(c, found.recommended) for c in found.candidates]
    print_table(console, headings, rows, title=found.project)
    mixes = [f"{c.name}: {c.combination}" for c in found.candidates if c.combination]
    say(console, *mixes, *_notes_on(found), *(f"warning: {warning}" for warning in found.warnings), found.sentence)


def _candidate(c: Candidate, recommended: str) -> list[Cell]:
    quality, student = c.quality, c.student
    return [
        ("> " if c.name == recommended else "  ") + c.name + (" *" if c.seen_dev else ""),
        f"{quality.value:.4f}" if quality else None,
        f"{quality.ci95[0]:.4f} to {quality.ci95[1]:.4f}" if quality else None,
        f"{c.nll:.4f}" if c.nll is not None else None,
        f"{c.ece:.4f}" if c.ece is not None else None,
        f"{c.agreement:.4f}" if c.agreement is not None else None,
        f"{c.inner_disagreement:.4f}" if c.inner_disagreement is not None else None,
        significant(c.labelling.rows_per_s),
        f"{c.labelling.seconds:,.0f} s",
        f"{c.labelling.usd:.4f}" if c.labelling.usd is not None else None,
        f"{student.quality.value:.4f}" if student else None,
    ]


def _notes_on(found: Selection) -> list[str]:
    of_all = f"the ensemble of all on {found.agreement_rows:,} {found.agreement_on}"
    notes = [
        f"measured on {found.dev_rows:,} dev rows: metric, NLL (nats a row), ECE, rows/s; agrees: share of answers "
        f"equal to those of {of_all}; differ: share to which its own members give different answers",
        f"estimated: the time and price to label all {found.candidates[0].labelling.rows:,} rows of the transfer set",
    ]
    if found.student_rows is not None:
        notes.append(
            f"student: one of {found.student_params:,} parameters, taught {found.student_epochs} epochs on the same "
            f"{found.student_rows:,} rows by each; its figure on dev, measured, ranks teachers and is no forecast"
        )
    if any(c.seen_dev for c in found.candidates):
        notes.append("*: may have learnt from the dev rows (trained_on), which flatter it; the student's figure counts")
    return notes
