"""plan.html: one file that loads nothing. For each target the front, the chosen student, and why it was chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdexport.nouns.plan import Candidate, Plan, TargetPlan
from kdexport.reporting import picture, plan_figures
from kdexport.reporting.figures import BLANK, Figure, milliseconds, significant, usd
from kdexport.reporting.markup import Safe, join, tag
from kdexport.reporting.parts import (
    STACKING,
    badge,
    blank,
    bullets,
    figure,
    folded,
    number,
    page,
    section,
    table,
    warned,
)
from kdexport.reporting.picture import FRAME, Box, Mark, Point
from kdexport.reporting.plan_figures import Drawing, Place
from kdexport.reporting.scales import Scale, padded, padded_log
from kdexport.storage.files import write_text

LARGEST = 11.0  # radius of the dearest bubble, pixels
SAME_COST = 1.02  # costs nearer than this are drawn the same
ABOVE = 18  # pixels between the line of min_retention and the top of its label


def write_plan_page(plan: Plan, project_name: str, path: Path) -> None:
    """Raises BadInput where `path` cannot be written."""
    write_text(path, render_plan(plan, project_name))


def render_plan(plan: Plan, project_name: str) -> str:
    """The page. Pure: the same plan gives the same bytes."""
    sections = (
        warned(plan.warnings),
        section("Targets", "targets", _key(), _targets(plan)),
        section("One student for several targets", "shared", bullets(map(plan_figures.shared_sentence, plan.shared)))
        if plan.shared
        else "",
        section("Target by target", "cards", _legend(), *map(_card, plan.targets)),
        section("What the next stages take", "stages", *_stages(plan)),
        section("What each number rests on", "evidence", *_evidence(plan)),
    )
    header = tag(
        "header",
        tag("p", "Plan", class_="over"),
        tag("h1", project_name),
        tag("p", "Nothing has been trained for it yet.", class_="muted"),
        tag("p", plan_figures.decision(plan), class_="decision"),
    )
    return page(f"{project_name}: plan", header, sections, "Made by kdexport plan. All money is in USD.")


def _key() -> Safe:
    return tag(
        "p",
        badge("estimated"),
        " comes from a model, with a 90 % interval where there is one. ",
        badge("counted"),
        " is exact. Latency is that of one request after another, in the scope of the target's objective.",
        class_="muted",
    )


# --- the table of all targets


def _targets(plan: Plan) -> Safe:
    headings = ("Target", "Student", "Retention", "Median", "Objective", "Size", "Cost a year")
    caption = "The student chosen for each target"
    return table(caption, headings, map(_target_row, plan.targets), text=(1,), class_=STACKING)


def _target_row(target: TargetPlan) -> Sequence[str]:
    chosen, name = target.chosen, plan_figures.limit_name(target)
    binding = f"binding: {name}" if name else ""
    return (
        join([target.target, tag("br"), _verdict(target), tag("span", binding, class_="detail") if binding else ""]),
        figure(plan_figures.params(chosen), plan_figures.short_spec(chosen.spec), plan_figures.engine(chosen)),
        figure(plan_figures.retention(chosen)),
        figure(plan_figures.median(chosen)),
        figure(plan_figures.at_percentile(chosen), _objective(target)),
        figure(plan_figures.size(chosen)),
        figure(plan_figures.usd_per_year(chosen)),
    )


def _objective(target: TargetPlan) -> str:
    """'p99 ≤ 10 ms', its parts held together by no-break spaces."""
    limit = f" ≤ {target.limit_ms:g} ms" if target.limit_ms is not None else ""
    return f"p{target.percentile:g}{limit}".replace(" ", "\N{NO-BREAK SPACE}")


def _verdict(target: TargetPlan) -> Safe:
    """In words, never by colour alone."""
    kind, text = ("good", "✓ every limit met") if target.feasible else ("bad", "✗ not met")
    if plan_figures.latency_unknown(target):
        kind, text = "open", "? latency not known"
    return tag("span", text, class_=f"verdict {kind}")


# --- one target


def _card(target: TargetPlan) -> Safe:
    identity = f"card-{target.target}"
    return tag(
        "article",
        tag("header", tag("h3", target.target, id=identity), _verdict(target)),
        _infeasible(target),
        tag("p", f"{_sentence(target.reason)}"),
        tag("div", _panel(target), _facts(target.chosen, target), class_="pair"),
        _front(target),
        bullets(target.notes, "notes") if target.notes else "",
        class_="card",
        aria_labelledby=identity,
    )


def _sentence(text: str) -> str:
    """Begun with a capital, ended with a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _infeasible(target: TargetPlan) -> Safe:
    """What could be met instead, and the limit that binds."""
    if target.feasible:
        return Safe("")
    nearest = f"Nearest objective that is met: {target.nearest.rstrip('.')}." if target.nearest else ""
    name = plan_figures.limit_name(target)
    binding = tag("p", "The limit that binds: ", tag("strong", name), ".") if name else ""
    title = tag("p", tag("strong", "No candidate meets every limit of this target."))
    return tag("div", title, tag("p", nearest) if nearest else "", binding, class_="warnings")


def _facts(chosen: Candidate, target: TargetPlan) -> Safe:
    broken = plan_figures.broken_names(chosen)
    facts = (
        ("Student", plan_figures.short_spec(chosen.spec)),
        ("Engine", blank(plan_figures.engine(chosen))),
        ("Parameters", figure(plan_figures.params(chosen))),
        ("Predicted retention", figure(plan_figures.retention(chosen), _wanted(target))),
        ("Median latency", figure(plan_figures.median(chosen))),
        ("Latency of the objective", figure(plan_figures.at_percentile(chosen), _objective(target))),
        ("Size, tokenizer included", figure(plan_figures.size(chosen))),
        ("Memory", figure(plan_figures.memory(chosen))),
        ("USD a year", figure(plan_figures.usd_per_year(chosen))),
        ("USD a million requests", figure(plan_figures.usd_per_million(chosen))),
        *((("Breaks", broken),) if broken else ()),
    )
    return tag("dl", *(tag("div", tag("dt", n), tag("dd", v)) for n, v in facts), class_="facts wide")


def _wanted(target: TargetPlan) -> str:
    return f"min_retention {100 * target.min_retention:.4g} %" if target.min_retention is not None else ""


def _front(target: TargetPlan) -> Safe:
    candidates = plan_figures.front(target)
    caption = "Parameters are counted; every other figure is estimated, with a 90 % interval where there is one"
    percentile = f"p{target.percentile:g}"
    headings = ("Candidate", "Params", "Retention", "Median", percentile, "Size", "Memory", "USD/year", "USD/million")
    lines = [_front_row(c, c == target.chosen) for c in candidates]
    whole = max(target.front_size, len(candidates))
    shown = f"{len(candidates)} of the {whole:,}" if whole > len(candidates) else f"the {whole:,}"
    summary = f"The front: {shown} that no other of {target.num_candidates:,} candidates beats, fastest first"
    return folded(summary, table(caption, headings, lines, class_="plan"))


def _front_row(candidate: Candidate, chosen: bool) -> Sequence[str]:
    broken = candidate.why_not or plan_figures.broken_names(candidate)
    return (
        join(
            [
                tag("strong", "✓ chosen ", class_="num") if chosen else "",
                plan_figures.short_spec(candidate.spec),
                tag("span", plan_figures.engine(candidate), class_="detail"),
                tag("span", f"✗ {broken}", class_="detail bad") if broken else "",
            ]
        ),
        number(plan_figures.params(candidate)),
        _with_interval(plan_figures.retention(candidate)),
        _with_interval(plan_figures.median(candidate)),
        _with_interval(plan_figures.at_percentile(candidate)),
        number(plan_figures.size(candidate)),
        number(plan_figures.memory(candidate)),
        number(plan_figures.usd_per_year(candidate)),
        number(plan_figures.usd_per_million(candidate)),
    )


def _with_interval(found: Figure) -> Safe:
    between = found.shown_interval()
    return join([number(found), tag("span", between, class_="detail interval") if between else ""])


# --- the picture of one target


def _legend() -> Safe:
    return tag(
        "p",
        "Up is better, left is faster. A bubble is one candidate of the front; all are estimated. It grows with the "
        "USD a year where a price is known; a broken outline breaks a limit. Bars are 90 % intervals; along a "
        "percentile the median's is drawn in proportion, or up to the end that is held against the limit. "
        "Dashed lines are the objective and min_retention.",
        class_="muted",
    )


def _panel(target: TargetPlan) -> Safe:
    drawing = plan_figures.drawing(target)
    if not drawing.places:
        return tag("p", f"{BLANK} No picture: latency is not known on this target.", class_="muted")
    x, y = _scales(target, drawing)
    marks = [_mark(place, drawing, x, y) for place in sorted(drawing.places, key=lambda p: p.chosen)]
    limit, taken, lines = picture.limit_line({"limit_ms": target.limit_ms, "percentile": target.percentile}, x)
    least, least_label, least_line = _least_retention(target, y, [*taken, *lines])
    # the faint bars of the others may be written over
    around = [m if m.point.label else replace(m, bars=()) for m in marks]
    drawn = tag(
        "svg",
        tag("title", f"Predicted retention over estimated latency on {target.target}"),
        tag("desc", "; ".join(m.point.evidence for m in marks if m.point.label)),
        picture.axes(x, y, "predicted retention, %", f"{_latency_name(drawing)}, ms (log scale)", least_decimals=0),
        limit,
        least,
        *map(picture.drawn, marks),
        *picture.labels(around, [*taken, *least_label], [*lines, *least_line]),
        viewBox=f"0 0 {picture.WIDTH} {picture.HEIGHT}",
        role="img",
    )
    more = (
        f"{drawing.left_out} more of the front stand in its table alone: no latency, or predicted to keep too little."
    )
    return tag("figure", drawn, tag("figcaption", more, class_="muted") if drawing.left_out else "", class_="panel")


def _latency_name(drawing: Drawing) -> str:
    return f"estimated {drawing.latency_name} latency"


def _scales(target: TargetPlan, drawing: Drawing) -> tuple[Scale, Scale]:
    """Room for every point, both lines and the chosen one's bars; the bars of others are cut at the frame."""
    chosen = [p for p in drawing.places if p.chosen]
    ms = [p.ms for p in drawing.places] + [end for p in chosen for end in p.ms_interval]
    kept = [100 * p.candidate.quality.value for p in drawing.places]
    kept += [100 * end for p in chosen for end in (p.candidate.quality.low, p.candidate.quality.high)]
    ms += [target.limit_ms] if target.limit_ms else []
    kept += [100 * target.min_retention] if target.min_retention is not None else []
    x = Scale(*padded_log(ms), FRAME.left, FRAME.right, logarithmic=True)
    return x, Scale(*padded(kept, least=1.0), FRAME.bottom, FRAME.top)


def _mark(place: Place, drawing: Drawing, x: Scale, y: Scale) -> Mark:
    candidate = place.candidate
    quality = plan_figures.retention(candidate)
    yearly = plan_figures.usd_per_year(candidate)
    money = "" if yearly.value is None else f" · {yearly.shown()}/year"
    point = Point(
        label=f"chosen{money}" if place.chosen else "",
        role=("student" if place.chosen else "candidate")
        + (" broken" if candidate.broken or candidate.why_not else ""),
        ms=place.ms,
        quality=100 * candidate.quality.value,
        ms_interval=_cut(place.ms_interval, x.low, x.high),
        quality_interval=_cut((100 * candidate.quality.low, 100 * candidate.quality.high), y.low, y.high),
        params=None,
        measured=False,
        evidence=f"{plan_figures.spec_and_engine(candidate)}: retention {quality.shown()} ({quality.evidence()}); "
        f"{drawing.latency_name} {milliseconds(place.ms)} (estimated){money}",
    )
    return picture.mark_of(point, x, y, _radius(yearly.value, drawing))


def _cut(interval: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    return max(low, min(interval[0], high)), min(high, max(interval[1], low))


def _radius(usd_per_year: float | None, drawing: Drawing) -> float:
    """Linear in the logarithm of the cost, from the cheapest to the dearest that is drawn."""
    costs = [cost for p in drawing.places if (cost := p.candidate.usd_per_year)]
    if not usd_per_year or max(costs) / min(costs) < SAME_COST:
        return picture.SMALLEST
    share = math.log(usd_per_year / min(costs)) / math.log(max(costs) / min(costs))
    return picture.SMALLEST + (LARGEST - picture.SMALLEST) * share


def _least_retention(target: TargetPlan, y: Scale, taken: Sequence[Box]) -> tuple[Safe, list[Box], list[Box]]:
    """The line of min_retention with its label; the boxes of the label and of the line, to keep clear of."""
    text = _wanted(target)
    if not text or target.min_retention is None:
        return Safe(""), [], []
    at, width = y(100 * target.min_retention), len(text) * picture.CHARACTER * 0.86
    left, right = FRAME.left, FRAME.right - width - 8
    places = [Box(start, at - ABOVE, start + width + 8, at) for start in (right, left)]
    box = min(places, key=lambda place: sum(map(place.overlap, taken)))
    label = tag("text", text, x=box.left + 4, y=at - 5, class_="limit")
    drawn = join([picture.line(FRAME.left, at, FRAME.right, at, "objective"), label])
    return drawn, [box], [Box(FRAME.left, at - 3, FRAME.right, at + 3)]


# --- stages and evidence


def _stages(plan: Plan) -> Sequence[Safe]:
    if not plan.stages:
        return (tag("p", "The plan names no stages.", class_="muted"),)
    lines = [
        (
            stage.stage,
            number(Figure(stage.hours, lambda hours: significant(hours, 2), "estimated", reason=stage.basis)),
            number(Figure(stage.usd, usd, "estimated", reason="no price of training is given")),
            f"{significant(stage.memory_gib, 2)} GiB",
            stage.basis,
        )
        for stage in plan.stages
    ]
    headings = ("Stage", "Hours", "USD", "Memory", "Basis")
    total = plan_figures.stages_sentence(plan.stages)
    caption = "Estimated before any of it is spent"
    return table(caption, headings, lines, text=(4,)), tag("p", total) if total else Safe("")


def _evidence(plan: Plan) -> Sequence[Safe]:
    headings = ("Target", "Latency", "Where it comes from", "Retention", "Cost a year")
    lines = [_evidence_row(target) for target in plan.targets]
    quality = tag("p", f"Quality: {_sentence(plan.quality_basis)}") if plan.quality_basis else Safe("")
    counts = "Parameters are counted in the specification; size follows from them and the precision, memory from size."
    return quality, table("Of the chosen student", headings, lines, text=(1, 2, 3, 4)), tag("p", counts, class_="muted")


def _evidence_row(target: TargetPlan) -> Sequence[str]:
    chosen, latency = target.chosen, target.chosen.latency
    median, yearly = plan_figures.median(chosen), plan_figures.usd_per_year(chosen)
    return (
        target.target,
        f"{latency.model}, {median.interval_name} {median.shown_interval()}" if latency else BLANK,
        f"{latency.basis}{'; extrapolated' if latency.extrapolated else ''}" if latency else median.reason,
        f"{chosen.quality.basis}, {plan_figures.retention(chosen).shown_interval()}",
        f"{yearly.kind} {yearly.source}" if yearly.value is not None else f"{BLANK} {yearly.reason}",
    )
