"""What else the plan could have built: candidates of each target, with what was predicted of them."""

from __future__ import annotations

from collections.abc import Sequence

from kdexport.reporting import figures
from kdexport.reporting.figures import BLANK, Document, Figure, finite, interval_of, mapping, rows, words
from kdexport.reporting.markup import Safe, tag
from kdexport.reporting.parts import blank, folded, number, table

HEADINGS = ("Candidate", "Params", "Retention", "Interval", "Median", "Interval", "USD/year", "Choice")
CAPTION = "Parameters are counted; every other figure is estimated, with a 90 % interval"


def candidates(document: Document) -> Sequence[Safe]:
    """Why each target's student was chosen, over its folded table; a sentence where no target has candidates."""
    found = [(target, listed) for target in rows(document.get("targets")) if (listed := rows(target.get("candidates")))]
    if not found:
        return (tag("p", "The plan names no candidates.", class_="muted"),)
    return [
        block
        for target, listed in found
        for block in (
            _reason(target),
            folded(
                f"{figures.target_name(target)}: {len(listed)} candidates",
                table(CAPTION, HEADINGS, [_candidate_row(c) for c in listed], text=(7,), class_="plan"),
            ),
        )
    ]


def _reason(target: Document) -> Safe:
    """The plan's own words; infeasible: what could be met instead."""
    plan = mapping(target.get("plan"))
    reason, nearest = words(plan.get("reason")), words(plan.get("nearest"))
    if not reason and not nearest:
        return Safe("")
    missed = f" Not every limit can be met; {nearest}." if nearest else ""
    return tag("p", tag("strong", figures.target_name(target)), f": {reason}.{missed}")


def _candidate_row(candidate: Document) -> Sequence[str]:
    kept = mapping(candidate.get("predicted_retention"))
    retention = Figure(
        finite(kept.get("value")), figures.percent, "estimated", interval_of([kept.get("low"), kept.get("high")])
    )
    bounds = interval_of([candidate.get("low_ms"), candidate.get("high_ms")])
    median = Figure(finite(candidate.get("p50_ms")), figures.milliseconds, "estimated", bounds)
    why_not = blank(candidate.get("why_not"))
    return (
        figures.spec_text(candidate.get("spec")),
        number(figures.counted(candidate.get("params"), figures.params_text, "in the specification")),
        number(retention),
        retention.shown_interval() or BLANK,
        number(median),
        median.shown_interval() or BLANK,
        number(Figure(finite(candidate.get("usd_per_year")), figures.usd, "estimated", reason="no price")),
        tag("strong", "✓ chosen", class_="num") if candidate.get("chosen") else why_not,
    )
