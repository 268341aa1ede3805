"""Quality by slice: class, length, time, source and the user's columns, of teacher and student."""

from __future__ import annotations

from collections.abc import Sequence

from kdexport.reporting import figures
from kdexport.reporting.figures import BLANK, Document, Figure, finite, interval_of, rows, words
from kdexport.reporting.markup import Safe, join, tag
from kdexport.reporting.parts import badge, bullets, folded, number, table

AGREEMENT = "agreement"
HEADINGS = ("Slice", "n", "Share", "Metric", "Teacher", "Student", "Retention", "Verdict")


def by_slice(document: Document) -> Sequence[Safe]:
    """One block for each student; targets that share one, with the same slices, share the block."""
    groups: list[tuple[list[str], Document]] = []
    for target in rows(document.get("targets")):
        same = next((names for names, known in groups if known.get("slices") == target.get("slices")), None)
        if same is not None:
            same.append(figures.target_name(target))
        elif rows(target.get("slices")):
            groups.append(([figures.target_name(target)], target))
    if not groups:
        return (tag("p", f"{BLANK} No slices were measured.", class_="muted"),)
    return [_block(names, target) for names, target in groups]


def slice_remarks(document: Document) -> list[str]:
    """For a terminal: what was lost or gained, by target; nothing where no slice differs."""
    return [
        f"{words(target.get('target'))}: {line}"
        for target in rows(document.get("targets"))
        if any(s.get("verdict") in ("lost", "gained") for s in rows(target.get("slices")))
        for line in map(words, target.get("slices_in_words") or ())
    ]


def _block(names: Sequence[str], target: Document) -> Safe:
    found = rows(target.get("slices"))
    kinds = list(dict.fromkeys((words(s.get("by")), words(s.get("on"))) for s in found))
    blocks = []
    for by, on in kinds:
        own = [s for s in found if (words(s.get("by")), words(s.get("on"))) == (by, on)]
        shown = table(f"By {by}, on the {on} (measured)", HEADINGS, [_row(s) for s in own], text=(3, 7))
        blocks.append(folded(f"By {by}, on the {on}: {len(own)}", shown))
    said = bullets([words(line) for line in target.get("slices_in_words") or ()])
    return tag("div", tag("h3", " · ".join(names), " ", badge("measured")), said, *blocks, class_="block")


def _row(entry: Document) -> Sequence[str]:
    n, share = finite(entry.get("n")), finite(entry.get("share"))
    ratios = [_ratio(entry.get(key)) for key in ("teacher", "student", "retention")]
    if entry.get("metric") == AGREEMENT:  # with the teacher itself: it has none of its own
        ratios = [_ratio(None), ratios[1], _ratio(None)]
    return (
        words(entry.get("name")),
        BLANK if n is None else f"{n:,.0f}",
        BLANK if share is None else figures.percent(share),
        words(entry.get("metric")),
        *(_with_interval(ratio) for ratio in ratios),
        words(entry.get("verdict")) or BLANK,
    )


def _ratio(value: object) -> Figure:
    entry = figures.mapping(value)
    return Figure(finite(entry.get("value")), figures.percent, kind="measured", interval=interval_of(entry.get("ci95")))


def _with_interval(found: Figure) -> Safe:
    interval = tag("span", found.shown_interval(), class_="detail interval") if found.interval else ""
    return join([number(found), interval])
