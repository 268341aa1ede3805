"""Nouns as tables on a terminal: checkups, fitted teachers, evaluations, timings."""

from __future__ import annotations

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
    from kdexport.nouns.measurement import Latency
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


def print_fitted(fitted: FittedTeacher, console: Console) -> None:
    rows = [
        ("base", fitted.base),
        ("rows", f"{fitted.train_rows:,} trained on; held out {fitted.dev_rows:,} dev, {fitted.test_rows:,} test"),
        ("classes", f"{fitted.classes:,}"),
        ("dev accuracy", _quality(fitted.dev)),
        ("test accuracy", _quality(fitted.test)),
        ("seconds", f"{fitted.seconds:.0f}"),
    ]
    print_table(console, ("Teacher", fitted.path), rows, left=(0, 1))
    say(console, *(f"note: {warning}" for warning in fitted.warnings))
    say(console, f"in a project: teachers: [{{model: {fitted.path}, trained_on: []}}]")


def print_evaluation(found: Evaluation, console: Console) -> None:
    rows = [
        ("data", f"{found.data}, columns {found.columns[0]} and {found.columns[1]}"),
        (found.quality.metric, _quality(found.quality)),
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
