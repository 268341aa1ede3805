"""What one gets without distillation, beside the student, and what distillation bought in words."""

from __future__ import annotations

from collections.abc import Sequence

from kdexport.reporting import figures
from kdexport.reporting.figures import BLANK, Document, Figure, finite, interval_of, mapping, words
from kdexport.reporting.markup import Safe, join, tag
from kdexport.reporting.parts import blank, figure, number, table

KINDS = ("hard_labels", "plain")


def verdict_text(target: Document) -> str:
    return words(mapping(target.get("baselines")).get("verdict"))


def verdicts(targets: Sequence[Document]) -> list[str]:
    """'local-cpu, l4: distillation bought ...': targets of which the same is true are named together."""
    found: dict[str, list[str]] = {}
    for target in targets:
        if text := verdict_text(target):
            found.setdefault(text, []).append(words(target.get("target")))
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def baselines(document: Document, target: Document) -> Safe:
    """Verdict and table; empty for a report without baselines."""
    known = mapping(target.get("baselines"))
    if not known:
        return Safe("")
    lines = [_student(document, target), *(_line(document, mapping(known.get(kind))) for kind in KINDS)]
    headings = ("Model", "Quality", "Student is better by", "Parameters", "Bytes", "Median, end to end", "How")
    caption = "What one gets without distillation, on the same test rows"
    verdict = tag("p", tag("strong", _sentence(verdict_text(target))))
    return join([verdict, table(caption, headings, lines, text=(6,))])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else BLANK


def _student(document: Document, target: Document) -> Sequence[str]:
    size, student = mapping(target.get("size")), mapping(target.get("student"))
    latency = mapping(mapping(target.get("latency")).get("student"))
    return (
        "The student",
        figure(figures.quality(target.get("quality"), "on the test rows")),
        "",
        number(figures.counted(student.get("params"), figures.whole)),
        number(figures.counted(size.get("student_bytes"), figures.bytes_text)),
        figure(figures.latency(document, latency)),
        "distilled",
    )


def _line(document: Document, baseline: Document) -> Sequence[str]:
    if reason := words(baseline.get("reason")):
        return (blank(baseline.get("name")), BLANK, BLANK, BLANK, BLANK, BLANK, reason)
    latency = baseline.get("latency")
    return (
        blank(baseline.get("name")),
        figure(figures.quality(baseline.get("quality"), "on the test rows")),
        figure(difference(baseline)),
        number(figures.counted(baseline.get("num_params"), figures.whole)),
        number(figures.counted(baseline.get("bytes"), figures.bytes_text)),
        figure(figures.latency(document, latency)) if latency else BLANK,
        blank(baseline.get("how")),
    )


def difference(baseline: Document) -> Figure:
    """In points: hundredths of the metric."""
    found = mapping(baseline.get("difference"))
    n = int(finite(mapping(baseline.get("quality")).get("n")) or 0)
    interval = interval_of(found.get("ci95"))
    return Figure(finite(found.get("value")), _points, "measured", interval, figures.interval_name("measured"), n)


def _points(value: float) -> str:
    return f"{'−' if value < 0 else ''}{abs(100 * value):.1f} points"
