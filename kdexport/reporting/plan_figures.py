"""Figures of a plan: what page and terminal say of one candidate, and which candidates they draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdexport.nouns.plan import Candidate, Constraint, Plan, SharedStudent, StageEstimate, TargetPlan
from kdexport.reporting.figures import (
    BLANK,
    Figure,
    Interval,
    bytes_text,
    counted,
    interval_name,
    milliseconds,
    params_text,
    percent,
    significant,
    usd,
)

LEAST_RETENTION_DRAWN = 0.9  # lower ones would press all that matters against the upper edge
LIMIT_NAMES: dict[Constraint, str] = {
    "latency": "latency (limit_ms)",
    "artifact_bytes": "size (artifact_bytes)",
    "memory": "memory (memory_mib)",
    "max_params": "parameters (max_params)",
    "min_retention": "quality (min_retention)",
    "usd": "cost in USD",
}


def params(candidate: Candidate) -> Figure:
    return counted(candidate.num_params, params_text, "in the specification")


def retention(candidate: Candidate) -> Figure:
    quality = candidate.quality
    return _estimated(quality.value, percent, (quality.low, quality.high), source=f"from {quality.basis}")


def median(candidate: Candidate) -> Figure:
    """In the scope of the target's objective, batch 1."""
    latency = candidate.latency
    if latency is None:
        return Figure(None, milliseconds, reason="facts of the device are missing")
    interval = (latency.low_ms, latency.high_ms)
    return _estimated(latency.p50_ms, milliseconds, interval, source=f"by {latency.model}: {latency.basis}")


def at_percentile(candidate: Candidate) -> Figure:
    """The objective's percentile; where an upper end is held against the limit, the two as its interval."""
    found, bound = candidate.objective_ms, candidate.bound_ms
    interval = (found, bound) if found is not None and bound is not None and bound > found else None
    return Figure(
        found,
        milliseconds,
        "estimated",
        interval,
        "upper end held against the limit, from",
        source="from the median",
        reason="not estimated",
    )


def size(candidate: Candidate) -> Figure:
    return _estimated(candidate.artifact_bytes, bytes_text, source="from the parameter count, tokenizer included")


def memory(candidate: Candidate) -> Figure:
    found = candidate.memory_mib * 2**20 or None
    source = "as weights, activations and the runtime's floor"
    return _estimated(found, bytes_text, source=source, reason="not estimated")


def usd_per_year(candidate: Candidate) -> Figure:
    return _estimated(candidate.usd_per_year, usd, source="at the target's traffic", reason="no price known")


def usd_per_million(candidate: Candidate) -> Figure:
    return _estimated(candidate.usd_per_million, usd, source="at the target's mean rate", reason="no price known")


def _estimated(
    value: float | None, text: Any, interval: Interval | None = None, source: str = "", reason: str = ""
) -> Figure:
    return Figure(value, text, "estimated", interval, interval_name("estimated"), source=source, reason=reason)


def engine(candidate: Candidate) -> str:
    """'onnxruntime/int8', and the batch where several requests are answered in one run."""
    batch = f", batch {candidate.batch}" if candidate.batch > 1 else ""
    return "/".join(part for part in (candidate.runtime, candidate.precision) if part) + batch


def short_spec(spec: Mapping[str, Any]) -> str:
    """'transformer: vocab 3,330, hidden 192, hidden layers 2'."""
    fields = [f"{_short_name(name)} {value:,}" if type(value) is int else f"{_short_name(name)} {value}"
              for name, value in spec.items() if name != "backbone"]  # fmt: skip
    return f"{_backbone(spec)}: {', '.join(fields)}" if fields else _backbone(spec)


def _backbone(spec: Mapping[str, Any]) -> str:
    return str(spec.get("backbone") or "student").replace("_", " ")


def _short_name(field: str) -> str:
    return field.removeprefix("num_").removesuffix("_size").replace("_", " ")


def initials(specs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A letter or two for each field, 'hl' for num_hidden_layers; the name itself where two fields would share them."""
    fields = dict.fromkeys(name for spec in specs for name in spec if name != "backbone")
    letters = {name: "".join(word[0] for word in _short_name(name).split()) for name in fields}
    return {name: short if list(letters.values()).count(short) == 1 else name for name, short in letters.items()}


def tiny_spec(spec: Mapping[str, Any], letters: Mapping[str, str]) -> str:
    """Backbone and, on a second line, its fields by their initials: 'v3330 h192 hl2'."""
    fields = " ".join(f"{letters[name]}{value}" for name, value in spec.items() if name != "backbone")
    return f"{_backbone(spec)}\n{fields}".rstrip()


def limit_name(target: TargetPlan) -> str:
    return LIMIT_NAMES[target.binding] if target.binding else ""


def broken_names(candidate: Candidate) -> str:
    return ", ".join(LIMIT_NAMES[constraint] for constraint in candidate.broken)


def latency_unknown(target: TargetPlan) -> bool:
    """Has the target a latency limit of which nobody can say whether it is met?"""
    return target.feasible and target.limit_ms is not None and target.chosen.latency is None


def verdict(target: TargetPlan) -> str:
    """'yes', 'not known' (the latency), or 'no' with the limit that binds."""
    if latency_unknown(target):
        return "not known"
    if target.feasible:
        return "yes"
    return f"no: {target.binding}" if target.binding else "no"


def not_met_sentence(target: TargetPlan) -> str:
    """'not met; nearest: limit_ms 1.4; binding: latency (limit_ms)'; empty where it is met."""
    if target.feasible:
        return ""
    nearest = f"; nearest: {target.nearest}" if target.nearest else ""
    binding = f"; binding: {limit_name(target)}" if target.binding else ""
    return f"not met{nearest}{binding}"


def decision(plan: Plan) -> str:
    """The plan in a sentence: which targets can be met."""
    total = len(plan.targets)
    missed = [t.target for t in plan.targets if not t.feasible]
    unknown = [t.target for t in plan.targets if latency_unknown(t)]
    met = total - len(missed) - len(unknown)
    first = f"{met} of {total} targets can be met" if total > 1 or not met else "The target can be met"
    first = f"All {total} targets can be met" if met == total > 1 else first
    not_met = f"not: {', '.join(missed)}" if missed else ""
    not_known = f"latency is not known on {', '.join(unknown)}" if unknown else ""
    return "; ".join(part for part in (first, not_met, not_known) if part) + "."


def shared_sentence(shared: SharedStudent) -> str:
    """Which student serves which targets, and what that costs against one student each."""
    return (
        f"One student can serve {', '.join(shared.targets)}: {short_spec(shared.spec)}, "
        f"{params_text(shared.num_params)} parameters. {usd(shared.usd_per_year)} a year against "
        f"{usd(shared.usd_per_year_apart)} with one student each (estimated): it {shared.reason.rstrip('.')}."
    )


def stages_sentence(stages: Sequence[StageEstimate]) -> str:
    """The sum of what is known, and how many stages are not in it."""
    hours = [s.hours for s in stages if s.hours is not None]
    prices = [s.usd for s in stages if s.usd is not None]
    if not hours:
        return ""
    money = f", {usd(sum(prices))}" if prices else ""
    unknown = len(stages) - len(hours)
    without = f", without {unknown} whose hours are not known" if unknown else ""
    return f"Together {significant(sum(hours), 2)} hours{money} (estimated){without}."


def front(target: TargetPlan) -> list[Candidate]:
    """The front, fastest first, and the chosen one where a tie put it beside the front."""
    found = list(target.front)
    if target.chosen not in found:
        found.append(target.chosen)
    return sorted(found, key=lambda c: (c.latency is None, c.latency.p50_ms if c.latency else 0.0, c.num_params))


def thinned(candidates: Sequence[Candidate], chosen: Candidate, most: int) -> list[Candidate]:
    """At most `most` (two or more) of them, evenly spread from first to last, the chosen one among them."""
    if len(candidates) <= most:
        return list(candidates)
    kept = {round(i * (len(candidates) - 1) / (most - 1)) for i in range(most)}
    at = candidates.index(chosen)
    if at not in kept:
        inner = kept - {0, len(candidates) - 1} or kept
        kept.remove(min(inner, key=lambda i: (abs(i - at), i)))
        kept.add(at)
    return [candidates[i] for i in sorted(kept)]


@dataclass(frozen=True)
class Place:
    """Where a candidate stands in the drawing."""

    candidate: Candidate
    ms: float
    ms_interval: Interval
    chosen: bool


@dataclass(frozen=True)
class Drawing:
    """What is drawn of one target's front: latency is the objective's percentile where all have it, else the median."""

    latency_name: str
    places: tuple[Place, ...]
    left_out: int  # of the front: no latency, or predicted to keep too little


def drawing(target: TargetPlan) -> Drawing:
    candidates = front(target)
    floors = [LEAST_RETENTION_DRAWN, target.chosen.quality.low]
    if target.min_retention is not None:
        floors.append(target.min_retention)
    shown = [c for c in candidates if c.latency and (c == target.chosen or c.quality.value >= min(floors))]
    at_objective = all(c.objective_ms for c in shown)
    places = [place for c in shown if (place := _place(c, at_objective, c == target.chosen))]
    name = f"p{target.percentile:g}" if at_objective else "median"
    return Drawing(name, tuple(places), len(candidates) - len(places))


def _place(candidate: Candidate, at_objective: bool, chosen: bool) -> Place | None:
    """The median's interval is carried to the percentile in proportion, but for an upper end that the planner gives."""
    latency = candidate.latency
    if latency is None:
        return None
    ms = candidate.objective_ms if at_objective and candidate.objective_ms else latency.p50_ms
    ratio = ms / latency.p50_ms
    bound = candidate.bound_ms if at_objective else None
    return Place(candidate, ms, (latency.low_ms * ratio, bound or latency.high_ms * ratio), chosen)


def spec_and_engine(candidate: Candidate) -> str:
    return f"{short_spec(candidate.spec)}; {engine(candidate) or BLANK}"
