"""What the student forgot: recall by class of teacher and student on the test rows, the largest loss first."""

from __future__ import annotations

from collections.abc import Sequence

from kdexport.reporting import figures
from kdexport.reporting.figures import BLANK, Document, finite, rows, words
from kdexport.reporting.markup import Safe, tag
from kdexport.reporting.parts import badge, folded, number, table

SHOWN = 15
HEADINGS = (
    "Class",
    "Test rows",
    "Teacher found",
    "Student found",
    "Recall, teacher",
    "Recall, student",
    "Answers lost",
)


def forgotten(document: Document) -> Sequence[Safe]:
    """One block for each student; targets that share one, with the same recalls, share the block."""
    groups: list[tuple[list[str], list[Document]]] = []
    for target in rows(document.get("targets")):
        classes = rows(target.get("per_class"))
        same = next((names for names, known in groups if known == classes), None)
        if same is not None:
            same.append(figures.target_name(target))
        elif classes:
            groups.append(([figures.target_name(target)], classes))
    if not groups:
        return (tag("p", f"{BLANK} No recall by class: it needs labelled test rows.", class_="muted"),)
    weighted = bool(figures.mapping(figures.mapping(document.get("data")).get("weights")).get("weighted"))
    return [_block(names, classes, weighted) for names, classes in groups]


def _block(names: Sequence[str], classes: Sequence[Document], weighted: bool) -> Safe:
    ordered = sorted(classes, key=_order)
    lost = [_lost(row) for row in ordered]
    worse = sum(1 for answers in lost if answers is not None and answers > 0)
    better = sum(1 for answers in lost if answers is not None and answers < 0)
    same = sum(1 for answers in lost if answers == 0)
    said = f"Of {len(ordered)} classes the student finds fewer in {worse}, more in {better}, as many in {same}."
    said += " Rows count by their weights, scaled to each class's number of rows." if weighted else ""
    rest = ordered[SHOWN:]
    return tag(
        "div",
        tag("h3", " · ".join(names)),
        tag("p", said, " ", badge("measured")),
        _table("Classes with the largest loss of right answers", ordered[:SHOWN]),
        folded(f"The other {len(rest)} classes", _table("All other classes", rest)) if rest else "",
        class_="block",
    )


def _lost(row: Document) -> int | None:
    """Right answers of the teacher minus the student's, counted in test rows; None where a recall is blank."""
    n, teacher, student = (finite(row.get(key)) for key in ("n", "teacher", "student"))
    return None if n is None or teacher is None or student is None else round(n * teacher) - round(n * student)


def _order(row: Document) -> tuple[bool, int, float, str]:
    """Answers lost, then the share of the class that they are; blanks last."""
    lost = _lost(row)
    return lost is None, -(lost or 0), finite(row.get("n")) or 0.0, words(row.get("class"))


def _table(caption: str, classes: Sequence[Document]) -> Safe:
    return table(caption, HEADINGS, [_row(row) for row in classes], class_="classes")


def _row(row: Document) -> Sequence[str]:
    n = finite(row.get("n"))
    recalls = [figures.quality({"value": row.get(who), "n": n}, "on the test rows") for who in ("teacher", "student")]
    found = [BLANK if n is None or r.value is None else f"{round(n * r.value):,}" for r in recalls]
    shown = [BLANK if r.value is None else figures.percent(r.value) for r in recalls]
    rows_text = BLANK if n is None else f"{n:,.0f}"
    return words(row.get("class")), rows_text, *found, *shown, _change(_lost(row))


def _change(lost: int | None) -> Safe:
    if lost is None:
        return number(figures.counted(None, figures.whole))
    text = "0" if lost == 0 else f"{lost:,} lost" if lost > 0 else f"{-lost:,} gained"
    return tag("span", text, class_="num bad" if lost > 0 else "num good" if lost < 0 else "num")
