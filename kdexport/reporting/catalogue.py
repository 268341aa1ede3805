"""Profiles and targets as tables on a terminal: every fact with its source, every conflict with both values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kdexport.nouns.profile import Detected, HardwareProfile, Number, Offering, Text
from kdexport.nouns.target import Target
from kdexport.reporting.figures import bytes_text, objective_text, significant
from kdexport.terminal import Cell, print_table, say

if TYPE_CHECKING:
    from rich.console import Console

    from kdexport.catalogue_check import Difference

CLASSES = {
    "edge-cpu": "CPUs at the edge",
    "edge-gpu": "GPUs at the edge and on desks",
    "cpu": "CPUs",
    "datacenter-gpu": "GPUs in data centres",
}


def print_profiles(profiles: Iterable[HardwareProfile], console: Console) -> None:
    known = list(profiles)
    headings = ("Id", "Name", "GiB", "GB/s", "fp32 TFLOP/s", "fp16", "int8 TOP/s", "W", "Offerings")
    for device_class, title in CLASSES.items():
        rows = [_profile_row(p) for p in known if p.device_class == device_class]
        if rows:
            print_table(console, headings, rows, left=(0, 1), title=f"{title} ({len(rows)})")
    say(console, "Peaks are dense. Sources and dates of each: kdexport profiles show ID; two beside each other: diff")


def _profile_row(profile: HardwareProfile) -> list[Cell]:
    f = profile.facts
    numbers = (
        f.memory_gib,
        f.memory_bandwidth_gb_per_s,
        f.peak_fp32_tflops,
        f.peak_fp16_tflops,
        f.peak_int8_tops,
        f.power_w,
    )
    return [profile.id, profile.name, *(_shown(n.value if n else None) for n in numbers), str(len(profile.offerings))]


def print_profile(profile: HardwareProfile, console: Console) -> None:
    mode = f", {profile.power_mode}" if profile.power_mode else ""
    say(console, f"{profile.id}: {profile.name} ({profile.vendor}, {profile.device_class}, {profile.host}{mode})")
    known = profile.facts.known()
    rows = [row for key, fact in known.items() for row in _fact_rows(key, fact)]
    print_table(console, ("Fact", "Value", "Source", "Date", "Note"), rows, left=(0, 2, 3, 4))
    missing = [key for key in type(profile.facts).model_fields if key not in known]
    if missing:
        say(console, f"Not known: {', '.join(missing)}")
    if profile.offerings:
        _print_offerings(profile.offerings, console)
    if profile.detected:
        _print_detected(profile.detected, console)


def _fact_rows(key: str, fact: Number | Text) -> list[list[Cell]]:
    """The value that is used; below it what other sources say, confirmed or in conflict."""
    rows: list[list[Cell]] = [[key, _shown(fact.value), fact.source, fact.date.isoformat(), fact.note]]
    if isinstance(fact, Text):
        return rows
    for other in fact.also:
        word = "conflict" if other in fact.conflicts else "confirms it"
        note = f"{word}: {other.note}" if other.note else word
        rows.append(["", _shown(other.value), other.source, other.date.isoformat(), note])
    return rows


def _shown(value: float | str | None) -> Cell:
    """A whole number stays whole; the rest to three digits."""
    if value is None or isinstance(value, str):
        return value
    return f"{value:,.0f}" if value == int(value) else significant(value)


def _print_offerings(offerings: Iterable[Offering], console: Console) -> None:
    rows: list[list[Cell]] = []
    for o in offerings:
        price = o.price_usd_per_hour or o.purchase_usd
        assert price is not None  # Offering checks it
        unit = "an hour" if o.kind == "rented" else f"to buy; {o.lifetime_years:g} years assumed"
        where = ", ".join(part for part in (o.region, o.instance) if part)
        rows.append([o.id, f"${price.value:g} {unit}", where, price.source, price.date.isoformat(), price.note])
    print_table(console, ("Offering", "Price", "Where", "Source", "Date", "Note"), rows, left=(0, 2, 3, 4, 5))


def _print_detected(detected: Detected, console: Console) -> None:
    quota = f"{detected.cpu_quota_cores:g} cores" if detected.cpu_quota_cores else "none"
    rows: list[tuple[str, Cell]] = [
        ("processor", detected.cpu),
        ("logical CPUs by affinity", str(detected.cores_by_affinity)),
        ("quota of the control group", quota),
        ("clock governor", detected.governor or "hidden here"),
        ("runtimes", ", ".join(f"{name} {version}" for name, version in detected.runtimes.items()) or "none"),
        ("GPUs", ", ".join(f"{g.index}: {g.name}, {g.memory_gib:.0f} GiB" for g in detected.gpus) or detected.gpu_note),
    ]
    print_table(console, ("Detected", ""), rows, left=(0, 1))


def print_differences(names: tuple[str, str], found: Sequence[Difference], console: Console) -> None:
    rows = [
        [d.key, _shown(d.first), _shown(d.second), f"{significant(d.ratio)} ×" if d.ratio is not None else None]
        for d in found
    ]
    print_table(console, ("", *names, "Ratio"), rows)
    if not rows:
        say(console, "No fact differs.")


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


def _traffic(target: Target) -> str:
    traffic = target.traffic
    assumed = " (assumed)" if traffic.assumed else ""
    return f"{traffic.mean_requests_per_s:g} mean, {traffic.peak_requests_per_s:g} peak{assumed}"
