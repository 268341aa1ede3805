"""Nouns as tables on a terminal: profiles, targets, plans. Every figure says whether it is sourced or estimated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kdexport.nouns.profile import HardwareProfile, Number, Offering
from kdexport.nouns.target import Target
from kdexport.reporting.figures import (
    bytes_text,
    milliseconds,
    objective_text,
    params_text,
    significant,
    spec_text,
    usd,
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
    from kdexport.nouns.plan import Candidate, Plan, StageEstimate, TargetPlan
    from kdexport.teaching import FittedTeacher

SHOWN_CLASSES = 10


def print_profiles(profiles: Iterable[HardwareProfile], console: Console) -> None:
    rows = [
        (
            p.id,
            p.name,
            p.device_class,
            _value(p.facts.memory_gib),
            _value(p.facts.memory_bandwidth_gb_per_s),
            _value(p.facts.peak_fp32_tflops),
            _value(p.facts.peak_fp16_tflops),
            _value(p.facts.peak_int8_tops),
            _value(p.facts.power_w),
            str(len(p.offerings)),
        )
        for p in profiles
    ]
    headings = ("Id", "Name", "Class", "GiB", "GB/s", "fp32 TFLOP/s", "fp16", "int8 TOP/s", "W", "Offerings")
    print_table(console, headings, rows, left=(0, 1, 2))
    say(console, "Peaks are dense. Sources and dates of each: kdexport profiles show ID")


def print_profile(profile: HardwareProfile, console: Console) -> None:
    mode = f", {profile.power_mode}" if profile.power_mode else ""
    say(console, f"{profile.id}: {profile.name} ({profile.vendor}, {profile.device_class}, {profile.host}{mode})")
    facts = [(name, getattr(profile.facts, name)) for name in type(profile.facts).model_fields]
    rows = [
        (name, significant(f.value) if isinstance(f, Number) else str(f.value), f.source, f.date.isoformat(), f.note)
        for name, f in facts
        if f is not None
    ]
    print_table(console, ("Fact", "Value", "Source", "Date", "Note"), rows, left=(0, 2, 3, 4))
    missing = [name for name, fact in facts if fact is None]
    if missing:
        say(console, f"Not known: {', '.join(missing)}")
    if profile.offerings:
        _print_offerings(profile.offerings, console)


def _print_offerings(offerings: Iterable[Offering], console: Console) -> None:
    rows: list[list[Cell]] = []
    for o in offerings:
        price = o.price_usd_per_hour or o.purchase_usd
        assert price is not None  # Offering checks it
        unit = "an hour" if o.kind == "rented" else f"to buy; {o.lifetime_years:g} years assumed"
        where = ", ".join(part for part in (o.region, o.instance) if part)
        rows.append([o.id, f"${price.value:g} {unit}", where, price.source, price.date.isoformat(), price.note])
    print_table(console, ("Offering", "Price", "Where", "Source", "Date", "Note"), rows, left=(0, 2, 3, 4, 5))


def print_targets(targets: Iterable[Target], console: Console) -> None:
    rows = [
        (
            t.id,
            t.description,
            t.profile,
            ", ".join(t.runtimes),
            ", ".join(t.precisions),
            objective_text(t.objective.model_dump()),
            _traffic(t),
            t.offering,
        )
        for t in targets
    ]
    headings = ("Id", "Description", "Profile", "Runtimes", "Precisions", "Objective", "Requests/s", "Offering")
    print_table(console, headings, rows, left=range(len(headings)))


def print_target(target: Target, profile: HardwareProfile | None, console: Console) -> None:
    """profile: None for this machine."""
    limits = target.limits
    rows: list[tuple[str, Cell]] = [
        ("runtimes", ", ".join(target.runtimes)),
        ("precisions", ", ".join(target.precisions)),
        ("objective", objective_text(target.objective.model_dump())),
        ("requests per second", _traffic(target)),
        ("memory limit", f"{limits.memory_mib:g} MiB" if limits.memory_mib else None),
        ("artifact limit", bytes_text(limits.artifact_bytes) if limits.artifact_bytes else None),
        ("spare replicas", str(target.redundancy)),
        ("utilisation at peak, at most", f"{target.max_utilisation:g}"),
        ("largest batch", str(target.max_batch)),
        ("offering", target.offering or "none: its cost stays blank"),
    ]
    say(console, f"{target.id}: {target.description}")
    print_table(console, ("", ""), rows, left=(0, 1))
    if profile is None:
        say(console, "Profile: this machine, detected and measured; see kdexport profiles detect")
    else:
        print_profile(profile, console)


def print_plan(plan: Plan, console: Console) -> None:
    headings = ("Target", "Student", "Params", "Retention", "Latency p50", "USD/year", "Feasible")
    print_table(console, headings, [_plan_row(t) for t in plan.targets], left=(0, 1, 6))
    say(
        console,
        "Parameters are counted, all else is estimated; in brackets 90 % intervals. "
        "Latency is in the scope of the target's objective, one request after another.",
    )
    print_table(console, ("Stage", "Hours", "Memory GiB", "Basis"), [_stage(s) for s in plan.stages], (0, 3))
    for t in plan.targets:
        say(console, f"{t.target}: {t.reason}", *(f"  {note}" for note in t.notes))
    say(console, *(f"warning: {warning}" for warning in plan.warnings))


def _plan_row(plan: TargetPlan) -> list[Cell]:
    chosen, quality = plan.chosen, plan.chosen.quality
    return [
        plan.target,
        spec_text(chosen.spec),
        params_text(chosen.num_params),
        f"{quality.value:.3f}\n[{quality.low:.3f} to {quality.high:.3f}]",
        _latency(chosen),
        usd(chosen.usd_per_year) if chosen.usd_per_year is not None else None,
        "yes" if plan.feasible else f"no: {plan.nearest}",
    ]


def _latency(candidate: Candidate) -> Cell:
    found = candidate.latency
    if found is None:
        return None
    return f"{milliseconds(found.p50_ms)}\n[{significant(found.low_ms)} to {significant(found.high_ms)}]"


def _stage(stage: StageEstimate) -> list[Cell]:
    hours = significant(stage.hours, 2) if stage.hours is not None else None
    return [stage.stage, hours, significant(stage.memory_gib, 2), stage.basis]


def _traffic(target: Target) -> str:
    traffic = target.traffic
    assumed = " (assumed)" if traffic.assumed else ""
    return f"{traffic.mean_requests_per_s:g} mean, {traffic.peak_requests_per_s:g} peak{assumed}"


def _value(fact: Number | None) -> Cell:
    return None if fact is None else significant(fact.value)


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
