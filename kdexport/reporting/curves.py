"""Training curves: one small drawing for the loss and one for the quality on dev."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdexport.reporting.figures import Document, finite, quality_text, significant
from kdexport.reporting.markup import Safe, tag
from kdexport.reporting.scales import Scale, padded

WIDTH, HEIGHT = 320, 130
LEFT, RIGHT, TOP, BOTTOM = 8, 66, 14, 24


def curves(training: Document) -> Safe:
    return tag(
        "div",
        _curve("Loss (training)", training.get("losses"), significant),
        _curve("Quality (dev)", training.get("dev_quality"), quality_text),
        class_="curves",
    )


def _curve(name: str, values: object, text: Callable[[float], str]) -> Safe:
    """values: one number an epoch; blanks are left out of the line, and two numbers are needed to draw one."""
    series = values if isinstance(values, list | tuple) else ()
    points = [(epoch, value) for epoch, v in enumerate(series, 1) if (value := finite(v)) is not None]
    if len(points) < 2:
        shown = text(points[0][1]) if points else "—"
        return tag("p", f"{name}: {shown}", class_="muted")
    return tag("figure", tag("figcaption", name, tag("span", " measured", class_="muted")), _drawn(name, points, text))


def _drawn(name: str, points: Sequence[tuple[int, float]], text: Callable[[float], str]) -> Safe:
    x = Scale(points[0][0], points[-1][0], LEFT, WIDTH - RIGHT)
    y = Scale(*padded([v for _, v in points], 0.05), HEIGHT - BOTTOM, TOP)
    (first, start), (last, end) = points[0], points[-1]
    return tag(
        "svg",
        tag("title", f"{name} by epoch: {text(start)} at epoch {first}, {text(end)} at epoch {last}"),
        tag("line", x1=LEFT, y1=HEIGHT - BOTTOM, x2=WIDTH - RIGHT, y2=HEIGHT - BOTTOM, class_="rule"),
        tag("polyline", points=" ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in points), class_="curve"),
        tag("circle", cx=x(last), cy=y(end), r=3.5, class_="curve-end"),
        tag("text", text(end), x=x(last) + 9, y=y(end) + 4, class_="tick"),
        tag("text", f"epoch {first}", x=LEFT, y=HEIGHT - 7, class_="tick"),
        tag("text", str(last), x=x(last), y=HEIGHT - 7, class_="tick end"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )
