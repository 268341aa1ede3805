"""Pieces that every section of the page uses: a figure with its badge, a table, a folded block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from kdexport.reporting.figures import BLANK, Figure
from kdexport.reporting.markup import Safe, join, tag

STACKING = "summary"  # the class of tables whose cells stand below each other, with their headings, on a narrow screen

# the browser itself refuses every request, whatever a document may smuggle in
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, header: Safe, sections: Iterable[str], footer: str) -> str:
    """A whole document that loads nothing, on screen or on paper."""
    style = Safe(files("kdexport.reporting").joinpath("style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    body = tag(
        "body",
        tag("a", "Skip to the report", href="#main", class_="skip"),
        header,
        tag("main", *sections, id="main"),
        tag("footer", tag("p", footer)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def warned(warnings: Sequence[str]) -> Safe:
    if not warnings:
        return Safe("")
    title = tag("h2", "Warning" if len(warnings) == 1 else f"{len(warnings)} warnings", id="warnings-title")
    return tag("section", title, bullets(warnings), class_="warnings", aria_labelledby="warnings-title")


def badge(kind: str) -> Safe:
    return tag("span", kind, class_=f"badge {kind}") if kind else Safe("")


def number(figure: Figure) -> Safe:
    """The value alone, its evidence on hover. For places that say measured or estimated by other means."""
    return tag("span", figure.shown(), class_="num", title=figure.evidence())


def figure(found: Figure, *more: str) -> Safe:
    """Value, interval, badge; a blank is a dash with its reason."""
    if found.value is None:
        return join([number(found), tag("span", found.reason, class_="detail") if found.reason else ""])
    return join(
        [
            number(found),
            tag("span", found.shown_interval(), class_="detail interval") if found.interval else "",
            *(tag("span", detail, class_="detail") for detail in more if detail),
            badge(found.kind),
        ]
    )


def blank(text: object) -> str:
    """Text, or a dash where there is none."""
    return str(text) if text not in (None, "") else BLANK


def table(
    caption: str, headings: Sequence[str], lines: Iterable[Sequence[str]], *, text: Sequence[int] = (), class_: str = ""
) -> Safe:
    """The first cell of each line is its header. Columns are numbers, aligned right, except those in `text`.

    A wide table scrolls inside a region that the keyboard can reach."""
    stacks = class_ == STACKING
    body = [
        tag(
            "tr",
            tag("th", line[0], scope="row"),
            *(
                tag("td", cell, data_label=headings[i] if stacks else None, class_=_side(i, text))
                for i, cell in enumerate(line[1:], 1)
            ),
        )
        for line in lines
    ]
    head = tag("tr", *(tag("th", h, scope="col", class_=_side(i, text)) for i, h in enumerate(headings)))
    drawn = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_=class_ or None)
    return tag("div", drawn, class_="scroll", role="region", aria_label=caption, tabindex="0")


def _side(column: int, text: Sequence[int]) -> str | None:
    return None if column == 0 or column in text else "right"


def section(title: str, identity: str, *children: str) -> Safe:
    heading = tag("h2", title, id=f"{identity}-title")
    return tag("section", heading, *children, id=identity, aria_labelledby=f"{identity}-title")


def folded(summary: str, *children: str) -> Safe:
    return tag("details", tag("summary", summary), *children)


def bullets(items: Iterable[str], class_: str | None = None) -> Safe:
    return tag("ul", *(tag("li", item) for item in items), class_=class_)
