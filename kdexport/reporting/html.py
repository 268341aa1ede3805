"""report.html: one file that loads nothing, on screen or on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdexport.reporting import figures
from kdexport.reporting.card import card, gate_verdict, verdict
from kdexport.reporting.curves import curves
from kdexport.reporting.figures import BLANK, Document, Figure, finite, mapping, rows, words
from kdexport.reporting.forgotten import forgotten
from kdexport.reporting.markup import Safe, join, tag
from kdexport.reporting.parts import STACKING, badge, blank, figure, folded, number, page, section, table, warned
from kdexport.reporting.picture import panels
from kdexport.reporting.plan import candidates
from kdexport.reporting.provenance import assumptions, data, environments, evidence
from kdexport.reporting.slices import by_slice
from kdexport.reporting.tuning import tuning


def render_html(document: Document) -> str:
    """The page of one run, from the report document. Pure: the same document gives the same bytes."""
    project = mapping(document.get("project"))
    name = words(project.get("name")) or "kdexport"
    made_by = f"Made by kdexport {words(document.get('kdexport'))}. All money is in USD."
    return page(f"{name}: distillation report", _header(document, project, name), _sections(document), made_by)


def _sections(document: Document) -> Sequence[Safe]:
    training = rows(document.get("training"))
    cards = [card(document, target) for target in rows(document.get("targets"))]
    return (
        _warnings(document),
        section("Targets", "targets", _key(), _targets(document)),
        section("Quality, latency and cost", "picture", *_picture(document)),
        section("The teacher", "teacher", _teacher(document)),
        section("Target by target", "cards", *cards),
        section("What the student forgot", "forgotten", *forgotten(document)),
        section("Quality by slice", "slices", *by_slice(document)),
        section("Training", "training", tuning(document), *map(_training, training)) if training else Safe(""),
        section("Other candidates of the plan", "plan", *candidates(document)),
        section(
            "Assumptions and evidence", "evidence", assumptions(document), _folded_evidence(document), data(document)
        ),
        section("Environments", "environments", environments(document)),
    )


def _header(document: Document, project: Document, name: str) -> Safe:
    about = (project.get("task"), project.get("metric"), words(document.get("created"))[:10])
    shown = " · ".join(words(part).replace("_", " ") for part in about if part)
    decision = words(document.get("decision")) or "No decision was recorded."
    return tag(
        "header",
        tag("p", "Distillation report", class_="over"),
        tag("h1", name),
        tag("p", shown, class_="muted"),
        tag("p", decision, class_="decision"),
    )


def _warnings(document: Document) -> Safe:
    return warned([words(warning) for warning in document.get("warnings") or ()])


def _key() -> Safe:
    return tag(
        "p",
        badge("measured"),
        " ran on the machine named under Environments, with a 95 % interval. ",
        badge("estimated"),
        " comes from a model, with a 90 % interval. ",
        badge("counted"),
        " is exact.",
        class_="muted",
    )


def _targets(document: Document) -> Safe:
    headings = ("Target", "Student", "Quality kept", "Latency, end to end", "Speed-up", "Cost a year", "Saving a year")
    lines = [_target_row(document, target) for target in rows(document.get("targets"))]
    return table("What the student is on each target", headings, lines, class_=STACKING)


def _target_row(document: Document, target: Document) -> Sequence[str]:
    fewer = figures.fewer(target)
    params = figures.counted(mapping(target.get("student")).get("params"), figures.params_text)
    name = figures.retention_name(target)
    kept, fast, saved = figures.retention(target), figures.speedup(target), figures.saving(target)
    return (
        join(
            [
                figures.target_name(target),
                tag("code", words(target.get("target"))),
                verdict(mapping(target.get("objective"))),
                gate_verdict(target),
            ]
        ),
        figure(params, f"{fewer} parameters" if fewer else ""),
        figure(kept, name if name != "retention" else ""),
        figure(figures.latency(document, mapping(target.get("latency")).get("student")), "median"),
        figure(fast, "no significant difference" if fast.spans(1.0) else ""),
        _cost(target),
        _saving(saved),
    )


def _saving(saved: Figure) -> Safe:
    remark = figures.saving_remark(saved)
    return figure(replace(saved, interval=None) if remark == figures.SAME_REPLICAS else saved, remark)


def _cost(target: Document) -> Safe:
    before, after = (figures.usd_per_year(target, who) for who in ("incumbent", "student"))
    if before.value is None and after.value is None:
        return figure(after)
    kind = "measured" if before.kind == after.kind == "measured" else "estimated"
    return join(
        [
            tag("span", number(before), " → ", number(after)),
            tag("span", f"{figures.incumbent_name(target)} → student", class_="detail"),
            badge(kind),
        ]
    )


def _picture(document: Document) -> Sequence[Safe]:
    drawn = panels(document)
    if not drawn:
        return (tag("p", f"{BLANK} No target has both a quality and a latency yet.", class_="muted"),)
    return _legend(), tag("div", drawn, class_="panels")


def _legend() -> Safe:
    return tag(
        "p",
        "Up is better, left is faster. ",
        badge("measured"),
        " is filled, ",
        badge("estimated"),
        " is hollow; bars are intervals; faint bubbles are candidates of the plan, if predicted to keep 90 % or more; "
        "a bubble grows with the parameters. "
        "The dashed line is the objective: it limits the percentile it names, while bubbles stand at the median.",
        class_="muted",
    )


def _teacher(document: Document) -> Safe:
    teacher = mapping(document.get("teacher"))
    licence = mapping(teacher.get("licence"))
    allowed = f"{blank(licence.get('distillation'))}{f' ({source})' if (source := licence.get('source')) else ''}"
    quality = figures.quality(teacher.get("quality"), "on the test rows")
    label = f"Quality ({words(mapping(teacher.get('quality')).get('metric')) or 'metric not named'})"
    rows_used = f"n = {quality.n:,}" if quality.n else ""
    facts = (
        ("Name", blank(teacher.get("name"))),
        *([("Combined", blank(mapping(teacher["ensemble"]).get("reason")))] if teacher.get("ensemble") else []),
        (label, figure(quality, rows_used)),
        ("Parameters", figure(figures.counted(teacher.get("params"), figures.whole))),
        ("Bytes, fp32, tokenizer included", figure(figures.counted(teacher.get("bytes"), figures.bytes_text))),
        ("May it be distilled?", allowed),
    )
    listed = tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts wide")
    return join([listed, _teacher_engines(document, rows(teacher.get("engines")))])


def _teacher_engines(document: Document, engines: Sequence[Document]) -> Safe:
    if not engines:
        return Safe("")
    lines = [
        (
            words(engine.get("label")),
            number(figures.quality({"value": engine.get("quality")}, "on the test rows")),
            figure(figures.latency(document, engine.get("end_to_end"))),
            figure(figures.latency(document, engine.get("model"))),
            number(figures.counted(engine.get("bytes"), figures.bytes_text)),
        )
        for engine in engines
    ]
    headings = ("Engine", "Quality (measured)", "Median, end to end", "Median, model alone", "Size (counted)")
    return table("The teacher itself, and merely quantised: what one gets without distillation", headings, lines)


def _training(run: Document) -> Safe:
    seconds = finite(run.get("seconds"))
    took = "" if seconds is None else f", {figures.significant(seconds)} s (measured)"
    trained = ", ".join(map(str, run.get("targets") or ())) or BLANK
    return tag(
        "div",
        tag("p", tag("strong", trained), f" · {figures.spec_text(run.get('spec'))}"),
        tag("p", f"{blank(run.get('epochs'))} epochs{took}{_terms(run)}", class_="muted"),
        curves(run),
    )


def _terms(run: Document) -> str:
    """What the loss of the last epoch was made of."""
    told = [f"{name} {figures.significant(v)}" for name, v in _last(run.get("terms"))]
    norms = [f"{name} {figures.significant(v)}" for name, v in _last(run.get("gradient_norms"))]
    if not told:
        return ""
    return f"; loss of the last epoch, in nats: {', '.join(told)}" + (
        f"; gradient norms: {', '.join(norms)}" if norms else ""
    )


def _last(epochs: object) -> list[tuple[str, float]]:
    found = figures.rows(epochs)
    return [(name, v) for name, value in (found[-1] if found else {}).items() if (v := finite(value)) is not None]


def _folded_evidence(document: Document) -> Safe:
    return folded("Where each figure comes from", evidence(document))
