"""A number of the report document with its evidence, and how each unit is written for people.

The document is report.json as plain values. A figure that is absent, null or not finite is blank: it is shown as a
dash with its reason, never as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]
Interval = tuple[float, float]

BLANK = "—"
WHO = {
    "incumbent": "Incumbent",
    "teacher": "Teacher",
    "teacher_quantised": "Teacher, quantised",
    "student": "Student",
}


def finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mapping(value: object) -> Document:
    return value if isinstance(value, Mapping) else {}


def rows(value: object) -> list[Document]:
    return [mapping(row) for row in value] if isinstance(value, list | tuple) else []


def words(value: object) -> str:
    return "" if value is None else str(value)


def significant(value: float, digits: int = 3) -> str:
    """Without an exponent: 0.0714, 3.14, 1,240."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def milliseconds(value: float) -> str:
    return f"{significant(value)} ms"


def quality_text(value: float) -> str:
    return f"{value:.4f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def times(value: float) -> str:
    return f"{significant(value)}×"


def rate(value: float) -> str:
    return f"{significant(value)} requests/s"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def params_text(value: float) -> str:
    for unit, scale in ((" B", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= scale:
            return f"{significant(value / scale)}{unit}"
    return whole(value)


def bytes_text(value: float) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{significant(value / scale)} {unit}"
    return f"{value:,.0f} B"


def usd(value: float) -> str:
    """Whole dollars from 100 up, cents below, three digits below one dollar."""
    size = abs(value)
    shown = significant(size) if 0 < size < 1 else f"{size:,.0f}" if size >= 100 else f"{size:,.2f}"
    return f"{'−' if value < 0 else ''}${shown}"


def between(interval: Interval, text: Callable[[float], str]) -> str:
    """'0.138 to 0.149 ms': the unit is said once where both ends share it."""
    low, high = (text(end) for end in interval)
    unit = low.lstrip("−$-0123456789.,")
    return f"{low.removesuffix(unit) if high.endswith(unit) else low} to {high}"


@dataclass(frozen=True)
class Figure:
    """One number with its evidence. `value` None: blank, and `reason` says why where that is known."""

    value: float | None
    text: Callable[[float], str]
    kind: str = ""  # measured or estimated; counted: an exact number of parameters or bytes
    interval: Interval | None = None
    interval_name: str = ""
    n: int = 0
    source: str = ""  # measured: where and when; estimated: by which model
    reason: str = ""

    def shown(self) -> str:
        return BLANK if self.value is None else self.text(self.value)

    def shown_interval(self) -> str:
        return "" if self.value is None or self.interval is None else between(self.interval, self.text)

    def spans(self, neutral: float) -> bool:
        """Is the figure inside the noise: does its interval hold the value that means 'no difference'?"""
        return self.interval is not None and self.interval[0] <= neutral <= self.interval[1]

    def evidence(self) -> str:
        """Everything that is known about where the number comes from, in one line."""
        if self.value is None:
            return self.reason or "not known"
        parts = [f"{self.kind} {self.source}".strip()]
        if self.n:
            parts.append(f"n = {self.n:,}")
        if self.interval:
            parts.append(f"{self.interval_name} {self.shown_interval()}".strip())
        return "; ".join(part for part in parts if part)


def interval_of(value: object) -> Interval | None:
    """A pair of finite ends, in order; None for anything else, an empty list included."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = finite(value[0]), finite(value[1])
    return None if low is None or high is None else (low, high)


def interval_name(kind: str) -> str:
    return "90 % interval" if kind == "estimated" else "95 % interval"


def reason_of(source: Document, otherwise: str = "") -> str:
    return words(source.get("reason") or source.get("note")) or otherwise


def environment_text(document: Document, reference: object) -> str:
    """'on CPU name, 1 thread, 2026-11-24': where and when a measurement was taken."""
    if not reference:
        return ""
    environment = mapping(mapping(document.get("environments")).get(str(reference)))
    if not environment:
        return f"in environment {reference}"
    threads = environment.get("threads")
    where = f"on {environment.get('cpu')}, {threads} thread{'' if threads == 1 else 's'}"
    return f"{where}, {words(environment.get('taken_at'))[:16].replace('T', ' ')}".rstrip(", ")


def latency(document: Document, source: object, key: str = "p50_ms") -> Figure:
    """A percentile of one latency; only the median carries the interval."""
    entry = mapping(source)
    kind = words(entry.get("kind"))
    interval = interval_of(entry.get("error_interval" if kind == "estimated" else "ci95")) if key == "p50_ms" else None
    model = words(entry.get("model"))
    return Figure(
        finite(entry.get(key)),
        milliseconds,
        kind=kind,
        interval=interval,
        interval_name=interval_name(kind),
        n=int(finite(entry.get("n")) or 0),
        source=f"by {model}" if kind == "estimated" and model else environment_text(document, entry.get("environment")),
        reason=reason_of(entry, _why_no_percentile(kind, key) if entry.get("p50_ms") is not None else "not measured"),
    )


def _why_no_percentile(kind: str, key: str) -> str:
    """Of an entry that has a median."""
    percentile = key.removesuffix("_ms")
    return f"{percentile} is not estimated" if kind == "estimated" else f"too few requests to bound {percentile}"


def quality(source: object, label: str = "") -> Figure:
    entry = mapping(source)
    return Figure(
        finite(entry.get("value")),
        quality_text,
        kind=words(entry.get("kind")) or "measured",
        interval=interval_of(entry.get("ci95") or entry.get("error_interval")),
        interval_name="95 % interval",
        n=int(finite(entry.get("n")) or 0),
        source=label,
        reason=reason_of(entry, "not measured"),
    )


def retention(target: Document) -> Figure:
    """Student's quality over the teacher's, paired on the same test rows; or agreement, where they have no labels."""
    entry = mapping(target.get("retention"))
    n = finite(entry.get("n")) or finite(mapping(target.get("quality")).get("n")) or 0
    return Figure(
        finite(entry.get("value")),
        percent,
        kind=words(entry.get("kind")) or "measured",
        interval=interval_of(entry.get("ci95") or entry.get("error_interval")),
        interval_name="95 % interval",
        n=int(n),
        source="on the test rows",
        reason=reason_of(entry, "not measured"),
    )


def query_agreement(target: Document) -> Figure:
    """How often the student answers held-out production queries as the teacher does."""
    entry = mapping(target.get("query_agreement"))
    return Figure(
        finite(entry.get("value")),
        percent,
        kind="measured",
        interval=interval_of(entry.get("ci95")),
        interval_name="95 % interval",
        n=int(finite(entry.get("n")) or 0),
        source="on the held-out queries",
    )


def retention_name(target: Document) -> str:
    return words(target.get("retention_kind")) or "retention"


def gate_text(target: Document) -> tuple[bool | None, str]:
    """(met, "retention gate met"): whether min_retention is reached; an empty text where the report does not say."""
    gate = mapping(target.get("gate"))
    met, wanted = gate.get("met"), finite(gate.get("min_retention"))
    if not isinstance(met, bool):
        return None, ""
    at_least = f" of {percent(wanted)}" if wanted is not None else ""
    return met, f"min_retention{at_least} {'met' if met else 'missed'}"


def fewer(target: Document) -> str:
    """'125× fewer': the teacher's parameters over the student's; empty where a count is not known."""
    ratio = finite(mapping(target.get("size")).get("params_ratio"))
    return "" if ratio is None else f"{times(ratio)} fewer"


def speedup(target: Document, scope: str = "latency") -> Figure:
    """Teacher's median over the student's. Measured only where both are."""
    entry = mapping(target.get(scope))
    ratio = mapping(entry.get("speedup"))
    kinds = {words(mapping(entry.get(who)).get("kind")) for who in ("teacher", "student")}
    kind = words(ratio.get("kind")) or ("measured" if kinds == {"measured"} else "estimated")
    return Figure(
        finite(ratio.get("value")),
        times,
        kind=kind,
        interval=interval_of(ratio.get("ci95") or ratio.get("error_interval")),
        interval_name=interval_name(kind),
        source="as the teacher's median over the student's",
        reason=reason_of(ratio, "needs both latencies"),
    )


def counted(value: object, text: Callable[[float], str], source: str = "in the shipped files") -> Figure:
    return Figure(finite(value), text, kind="counted", source=source, reason="not known")


def cost_line(target: Document, who: str) -> Document:
    report = mapping(mapping(target.get("cost")).get("report"))
    return next((line for line in rows(report.get("lines")) if line.get("who") == who), {})


def usd_per_year(target: Document, who: str) -> Figure:
    line = cost_line(target, who)
    cost = mapping(target.get("cost"))
    kind = words(line.get("kind")) or "estimated"
    value = finite(cost.get(f"{who}_usd_per_year"))
    return Figure(
        finite(line.get("usd_per_year")) if value is None else value,
        usd,
        kind=kind,
        interval=interval_of(line.get("usd_per_year_interval")),
        interval_name=interval_name(kind),
        source=_price_source(line),
        reason=words(line.get("note")) or reason_of(cost, "no cost known"),
    )


def _price_source(line: Document) -> str:
    price = finite(line.get("usd_per_replica_hour"))
    if not line.get("price_source"):
        return ""
    rated = f" at {usd(price)} per replica-hour" if price is not None else ""
    dated = f", {line['price_date']}" if line.get("price_date") else ""
    return f"by capacity, priced{rated} in {line.get('region')} ({line['price_source']}{dated})"


def saving(target: Document) -> Figure:
    cost = mapping(target.get("cost"))
    report = mapping(cost.get("report"))
    kinds = {words(cost_line(target, who).get("kind")) for who in ("incumbent", "student")}
    return Figure(
        finite(cost.get("saving_usd_per_year")),
        usd,
        kind="measured" if kinds == {"measured"} else "estimated",
        interval=interval_of(report.get("saving_interval_usd_per_year")),
        interval_name="interval (far ends of both costs)",
        source="as incumbent minus student",
        reason=words(report.get("note")) or usd_per_year(target, "student").reason,
    )


SAME_REPLICAS = "none: the same replicas serve either"
NO_DIFFERENCE = "no significant difference"


def saving_remark(saved: Figure) -> str:
    """What a saving inside the noise is called."""
    if saved.value == 0 and saved.interval == (0, 0):
        return SAME_REPLICAS
    return NO_DIFFERENCE if saved.spans(0.0) else ""


def incumbent_name(target: Document) -> str:
    """'incumbent', and what it is assumed to be where the project does not say."""
    return "incumbent (assumed: teacher here)" if assumed_incumbent(target) else "incumbent"


def assumed_incumbent(target: Document) -> str:
    """What the incumbent is assumed to be; empty where the project names one."""
    return words(mapping(mapping(target.get("cost")).get("report")).get("incumbent"))


def target_name(target: Document) -> str:
    return words(target.get("name")) or words(target.get("target")) or "unnamed target"


def spec_text(spec: object) -> str:
    """'convolution: vocab_size 4,349, hidden_size 256'."""
    fields = dict(mapping(spec))
    backbone = words(fields.pop("backbone", "")) or "student"
    listed = ", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in fields.items())
    return f"{backbone}: {listed}" if listed else backbone


def objective_text(objective: Document) -> str:
    """'p99 ≤ 10 ms, end to end, single stream'; empty where the target has none."""
    limit = finite(objective.get("limit_ms"))
    if limit is None:
        return ""
    scope, scenario = (words(objective.get(key)).replace("_", " ") for key in ("scope", "scenario"))
    return ", ".join(part for part in (f"{percentile_text(objective)} ≤ {limit:g} ms", scope, scenario) if part)


def percentile_text(objective: Document) -> str:
    percentile = finite(objective.get("percentile"))
    return "latency" if percentile is None else f"p{percentile:g}"
