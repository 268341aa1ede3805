"""The card of one target: objective, figures, engines, money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdexport.reporting import figures
from kdexport.reporting.baselines import baselines
from kdexport.reporting.figures import BLANK, Document, Figure, finite, interval_of, mapping, rows, words
from kdexport.reporting.markup import Safe, join, tag
from kdexport.reporting.parts import badge, blank, bullets, figure, number, table


def card(document: Document, target: Document) -> Safe:
    identity = words(target.get("target"))
    notes = [words(note) for note in target.get("notes") or ()]
    heading = tag(
        "h3",
        figures.target_name(target),
        " ",
        tag("code", identity) if target.get("name") else "",
        id=f"card-{identity}",
    )
    return tag(
        "article",
        tag("header", heading, verdict(mapping(target.get("objective"))), gate_verdict(target)),
        _objective(mapping(target.get("objective"))),
        tag("p", figures.spec_text(mapping(target.get("student")).get("spec")), class_="muted"),
        tag("div", _quality(document, target), _size(target), class_="pair"),
        baselines(document, target),
        _latency(document, target),
        _engines(target),
        _money(target),
        bullets(notes, "notes") if notes else "",
        _bundle(target),
        class_="card",
        aria_labelledby=f"card-{identity}",
    )


def verdict(objective: Document) -> Safe:
    """Objective met, missed or not known: in words, never by colour alone."""
    shown = {True: ("good", "✓ objective met"), False: ("bad", "✗ objective missed")}
    kind, text = shown.get(objective.get("met", ""), ("open", "? objective not proven"))
    return tag("span", text, class_=f"verdict {kind}") if objective.get("limit_ms") else Safe("")


def gate_verdict(target: Document) -> Safe:
    """min_retention met or missed; nothing where the report does not say."""
    met, text = figures.gate_text(target)
    kind, sign = ("good", "✓") if met else ("bad", "✗")
    return tag("span", f"{sign} {text}", class_=f"verdict {kind}") if text else Safe("")


def _objective(objective: Document) -> Safe:
    text = figures.objective_text(objective)
    if not text:
        return tag("p", "No latency objective.", class_="muted")
    value = finite(objective.get("value_ms"))
    found = f" Found: {figures.milliseconds(value)}." if value is not None else ""
    basis = f" Basis: {objective['basis']}." if objective.get("basis") else ""
    safe = objective.get("interval_excludes_failure")
    end = f" The upper end of the estimate {'meets' if safe else 'misses'} it, too."
    end = end if safe == objective.get("met") else end.replace(", too", "")
    return tag("p", f"Objective: {text}.{found}{basis}{end if isinstance(safe, bool) else ''}")


def _quality(document: Document, target: Document) -> Safe:
    teacher = mapping(mapping(document.get("teacher")).get("quality"))
    metric = words(teacher.get("metric")) or "quality"
    kept = figures.retention(target)
    name = figures.retention_name(target)
    lines = [
        _evidence_row(f"Teacher, {metric}", figures.quality(teacher, "on the test rows")),
        _evidence_row(f"Student, {metric}", figures.quality(target.get("quality"), "on the test rows")),
        _evidence_row(name.capitalize(), kept),
    ]
    if target.get("query_agreement"):
        asked = figures.query_agreement(target)
        lines.append(_evidence_row("Agreement with the teacher, held-out queries", asked))
    remark = "The retention's interval holds 100 %: no significant difference from the teacher."
    shown = kept.spans(1.0) and name == "retention"
    quality = table("Quality on the test rows", ("Figure", "Value", "95 % interval", "n", "Evidence"), lines, text=(4,))
    return tag("div", quality, tag("p", remark, class_="muted") if shown else "")


def _evidence_row(name: str, found: Figure) -> Sequence[str]:
    n = f"{found.n:,}" if found.n and found.value is not None else BLANK
    return name, number(found), found.shown_interval() or BLANK, n, _evidence(found)


def _evidence(found: Figure) -> str:
    return found.reason or BLANK if found.value is None else badge(found.kind)


def _size(target: Document) -> Safe:
    student, size = mapping(target.get("student")), mapping(target.get("size"))
    lines = [
        (
            "Parameters",
            number(figures.counted(student.get("params"), figures.whole)),
            _ratio(size.get("params_ratio")),
        ),
        (
            "Parameters without embeddings",
            number(figures.counted(student.get("params_without_embeddings"), figures.whole)),
            "",
        ),
        (
            "Bytes, tokenizer included",
            number(figures.counted(size.get("student_bytes"), figures.bytes_text)),
            _ratio(size.get("bytes_ratio")),
        ),
        ("Teacher's bytes, fp32", number(figures.counted(size.get("teacher_bytes"), figures.bytes_text)), ""),
    ]
    return table("Size of the student (counted exactly)", ("Figure", "Value", "Smaller than the teacher"), lines)


def _ratio(value: object) -> Safe:
    return number(figures.counted(value, figures.times, "teacher over student"))


def _latency(document: Document, target: Document) -> Safe:
    scopes = (("End to end", "latency"), ("Model alone", "latency_model"))
    lines = [
        (f"{scope}, {who}", *_percentiles(document, mapping(target.get(key)).get(who)), _speedup(target, key, who))
        for scope, key in scopes
        for who in ("teacher", "student")
    ]
    headings = ("Latency", "Median", "Interval", "p90", "p99", "n", "Evidence", "Speed-up")
    caption = "Latency of one request; end to end is raw request in, answer out"
    remark = "p90 and p99 are blank where the latency is estimated, or the requests were too few to bound them."
    told = tag("p", remark, class_="muted") if _lacks_percentiles(target) else ""
    return join([table(caption, headings, lines, text=(6,)), told])


def _lacks_percentiles(target: Document) -> bool:
    latency = mapping(target.get("latency"))
    known = [m for who in ("teacher", "student") if (m := mapping(latency.get(who))).get("p50_ms") is not None]
    return any(m.get(key) is None for m in known for key in ("p90_ms", "p99_ms"))


def _percentiles(document: Document, source: object) -> Sequence[str]:
    median = figures.latency(document, source)
    tail = [number(figures.latency(document, source, key)) for key in ("p90_ms", "p99_ms")]
    n = f"{median.n:,}" if median.n else BLANK
    return number(median), median.shown_interval() or BLANK, *tail, n, _evidence(median)


def _speedup(target: Document, scope: str, who: str) -> str:
    if who == "teacher":
        return ""
    found = figures.speedup(target, scope)
    return figure(found, "no significant difference" if found.spans(1.0) else "")


def _engines(target: Document) -> Safe:
    engines = rows(target.get("engines"))
    if not engines:
        return Safe("")
    lines = [
        (
            _engine_name(engine),
            tag("strong", "✓ chosen", class_="num") if engine.get("chosen") else "",
            number(figures.quality({"value": engine.get("quality")})),
            number(figures.latency({}, {k: engine.get(k) for k in ("p50_ms", "kind", "reason")})),
            badge(words(engine.get("kind"))) if finite(engine.get("p50_ms")) is not None else BLANK,
            number(figures.counted(engine.get("bytes"), figures.bytes_text)),
            blank(engine.get("reason")),
        )
        for engine in engines
    ]
    headings = ("Engine", "Choice", "Quality", "Median", "Evidence", "Size", "Reason")
    drawn = table("Engines tried; quality is measured on the dev rows", headings, lines, text=(1, 4, 6))
    return join([drawn, *(tag("p", finish_text(found)) for found in rows(target.get("quantisation_aware")))])


def finish_text(found: Document) -> str:
    """'int8 in openvino, on dev: 0.9363 as distilled, 0.9401 after ..., 0.9403 in fp32 (measured).'"""
    before, after, fp32 = (
        "without parity" if (value := finite(found.get(key))) is None else figures.quality_text(value)
        for key in ("before", "after", "fp32")
    )
    kept = "kept" if found.get("kept") else "left: it is no better"
    return (
        f"int8 in {words(found.get('runtime'))}, on the dev rows: {before} as distilled, {after} after a short "
        f"distillation with int8 in the loop ({kept}), {fp32} in fp32 (measured)."
    )


def _engine_name(engine: Document) -> str:
    finished = ", trained for it" if engine.get("finished") else ""
    return f"{engine.get('runtime')} {engine.get('precision')}{finished}"


def _money(target: Document) -> Safe:
    cost = mapping(target.get("cost"))
    report = mapping(cost.get("report"))
    known = [line for line in rows(report.get("lines")) if line.get("who") in figures.WHO]
    names = [words(line.get("who")) for line in known] or ["incumbent", "teacher_quantised", "student"]
    headings = (
        "Cost",
        "Runs on",
        "Replicas",
        "Capacity of one",
        "Quality",
        "USD/hour",
        "USD/year",
        "USD/million",
        "Note",
    )
    return join(
        [
            table("Cost at the target's traffic", headings, [_cost_row(target, who) for who in names], text=(1, 8)),
            _incumbent(report),
            _saving(target),
        ]
    )


def _incumbent(report: Document) -> Safe:
    told = words(report.get("incumbent"))
    return tag("p", f"Incumbent: {told}.", class_="muted") if told else Safe("")


def _cost_row(target: Document, who: str) -> Sequence[str]:
    line = figures.cost_line(target, who)
    yearly = figures.usd_per_year(target, who)
    point = replace(yearly, interval=None)
    per_million = finite(mapping(mapping(target.get("cost")).get("usd_per_million")).get(who))
    if per_million is None:
        per_million = finite(line.get("usd_per_million"))
    return (
        figures.WHO[who],
        tag("span", blank(line.get("target")), class_="num"),
        number(replace(point, value=finite(line.get("replicas")), text=figures.whole)),
        figure(_capacity(line)),
        number(figures.quality({"value": line.get("quality")}, words(line.get("quality_label")))),
        number(replace(point, value=finite(line.get("usd_per_hour")))),
        figure(yearly) if yearly.value is not None else number(yearly),
        number(replace(point, value=per_million)),
        words(line.get("note") or (yearly.reason if yearly.value is None else "")),
    )


def _capacity(line: Document) -> Figure:
    capacity = mapping(line.get("capacity"))
    kind = words(capacity.get("kind"))
    interval = interval_of(capacity.get("ci95") or capacity.get("error_interval"))
    value, how = finite(capacity.get("requests_per_s")), words(capacity.get("how"))
    return Figure(value, figures.rate, kind, interval, figures.interval_name(kind), source=f"({how})" if how else "")


def _saving(target: Document) -> Safe:
    saved = figures.saving(target)
    report = mapping(mapping(target.get("cost")).get("report"))
    zero = finite(mapping(target.get("cost")).get("zero_saving_requests_per_s"))
    if saved.value is None:
        return tag("p", "Saving: ", BLANK, f" ({saved.reason})" if saved.reason else "")
    remark = figures.saving_remark(saved)
    between = f", {saved.shown_interval()}" if saved.interval and remark != figures.SAME_REPLICAS else ""
    inside = "the interval holds 0: " if remark == figures.NO_DIFFERENCE else ""
    noise = f" ({inside}{remark})" if remark else ""
    if zero is None:
        break_even = f". Break-even: {BLANK} ({report.get('note') or 'not known'})."
    elif zero == 0:
        break_even = ". The student saves at any traffic."
    else:
        break_even = f". At a peak of {figures.significant(zero, 4)} requests/s and below, the student saves nothing."
    amount = tag("strong", number(saved), " a year")
    return tag("p", "Saving: ", amount, between, " ", badge(saved.kind), noise, break_even)


def _bundle(target: Document) -> Safe:
    parity = mapping(target.get("parity"))
    error, agreement = finite(parity.get("max_abs_err")), finite(parity.get("agreement"))
    facts = (
        ("Bundle", tag("code", blank(target.get("bundle")))),
        ("SHA-256", tag("code", blank(target.get("bundle_sha256")))),
        ("Ships as", " ".join(words(target.get(k)) for k in ("artifact", "runtime", "precision")).strip() or BLANK),
        ("Quality and parity are those of", blank(target.get("verified_on"))),
        (
            "Parity with the trained student",
            f"largest difference of a logit {BLANK if error is None else f'{error:.4g}'}, "
            f"same answer on {BLANK if agreement is None else f'{100 * agreement:.2f} %'} (measured)"
            if error is not None or agreement is not None
            else BLANK,
        ),
    )
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts")
