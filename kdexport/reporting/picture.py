"""The picture: quality over end-to-end latency, one panel a target, on shared axes.

Filled is measured, hollow is estimated; a dashed line is the objective; the bubble grows with the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdexport.reporting import figures
from kdexport.reporting.figures import Document, Figure, Interval, finite, interval_of, mapping, rows, words
from kdexport.reporting.markup import Safe, join, tag
from kdexport.reporting.scales import Scale, log_ticks, padded, padded_log, ticks

WIDTH, HEIGHT = 520, 380
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 26, 46
CHARACTER = 7.6  # mean width of a bold 13 px system font, on the wide side
LINE = 17
FARTHER = 5.0  # a label one pixel farther off weighs like covering 5 square pixels
SMALLEST, LARGEST = 4.0, 15.0  # radius of a bubble, pixels
LEAST_RETENTION_SHOWN = 0.9  # of a candidate, predicted


@dataclass(frozen=True)
class Point:
    label: str  # "" for a candidate: it is named in its table
    role: str  # CSS class: teacher, quantised, student, candidate
    ms: float
    quality: float
    ms_interval: Interval | None
    quality_interval: Interval | None
    params: float | None
    measured: bool
    evidence: str


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Shared area, square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True)
class Mark:
    """A point in pixels, and its error bars as lines (x1, y1, x2, y2), top left first."""

    point: Point
    cx: float
    cy: float
    radius: float
    bars: tuple[tuple[float, float, float, float], ...]

    def boxes(self) -> Iterable[Box]:
        """What labels keep clear of: the bubble, and the bars taken six pixels thick."""
        yield Box(self.cx - self.radius, self.cy - self.radius, self.cx + self.radius, self.cy + self.radius)
        for x1, y1, x2, y2 in self.bars:
            yield Box(x1 - 3, y1 - 3, x2 + 3, y2 + 3)


FRAME = Box(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)


def panels(document: Document) -> Safe:
    """One figure for each target that has a point to show; empty where none has."""
    targets = rows(document.get("targets"))
    points = [target_points(document, target) for target in targets]
    every = [p for found in points for p in found]
    if not every:
        return Safe("")
    limits = [limit for t in targets if (limit := finite(mapping(t.get("objective")).get("limit_ms")))]
    x = Scale(*padded_log([*limits, *_spread(every, "ms")]), FRAME.left, FRAME.right, logarithmic=True)
    y = Scale(*padded(list(_spread(every, "quality"))), FRAME.bottom, FRAME.top)
    largest = max((p.params for p in every if p.params), default=1.0)
    metric = words(mapping(document.get("project")).get("metric")) or "quality"
    return join(
        _panel(target, found, x, y, largest, metric) for target, found in zip(targets, points, strict=True) if found
    )


def target_points(document: Document, target: Document) -> list[Point]:
    """Faint candidates first, so that what was chosen is drawn over them."""
    return [
        *_candidates(document, target),
        *_quantised_teachers(document, target),
        *_point(document, target, "Teacher", "teacher"),
        *_point(document, target, "Student", "student"),
    ]


def _point(document: Document, target: Document, label: str, role: str) -> Iterable[Point]:
    teacher = mapping(document.get("teacher"))
    quality = figures.quality(mapping(teacher if role == "teacher" else target).get("quality"))
    params = teacher.get("params") if role == "teacher" else mapping(target.get("student")).get("params")
    latency = figures.latency(document, mapping(target.get("latency")).get(role))
    precision = words(target.get("precision")) if role == "student" else ""
    yield from _made(f"{label} {precision}".strip(), role, latency, quality, finite(params), _money(target, role))


def _quantised_teachers(document: Document, target: Document) -> Iterable[Point]:
    """The teacher's other engines, where they were measured in the same environment as this target's teacher."""
    teacher = mapping(document.get("teacher"))
    here = mapping(mapping(target.get("latency")).get("teacher")).get("environment")
    for engine in rows(teacher.get("engines"))[1:]:
        if here and mapping(engine.get("end_to_end")).get("environment") == here:
            label = f"Teacher {words(engine.get('label')).rpartition('/')[2]}"
            latency = figures.latency(document, engine.get("end_to_end"))
            quality = figures.quality({"value": engine.get("quality")})
            yield from _made(
                label, "quantised", latency, quality, finite(teacher.get("params")), _money(target, "teacher_quantised")
            )


def _candidates(document: Document, target: Document) -> Iterable[Point]:
    """Quality of a candidate: its predicted retention times the teacher's quality. Those predicted to keep little are
    left to the plan's table: they would press all that matters against the upper edge."""
    teacher_quality = finite(mapping(mapping(document.get("teacher")).get("quality")).get("value"))
    for candidate in rows(target.get("candidates")):
        kept = mapping(candidate.get("predicted_retention"))
        predicted = finite(kept.get("value"))
        if teacher_quality is None or predicted is None or predicted < LEAST_RETENTION_SHOWN:
            continue
        latency = Figure(
            finite(candidate.get("p50_ms")),
            figures.milliseconds,
            kind="estimated",
            interval=interval_of([candidate.get("low_ms"), candidate.get("high_ms")]),
        )
        quality = Figure(predicted * teacher_quality, figures.quality_text, kind="estimated")
        spec = figures.spec_text(candidate.get("spec"))
        yield from _made("", "candidate", latency, quality, finite(candidate.get("params")), "", spec)


def _made(
    label: str,
    role: str,
    latency: Figure,
    quality: Figure,
    params: float | None,
    money: str,
    spec: str = "",
) -> Iterable[Point]:
    if not latency.value or latency.value <= 0 or quality.value is None:
        return
    size = f", {figures.params_text(params)} parameters" if params else ""
    evidence = (
        f"{label or 'Candidate ' + spec}{size}: quality {quality.shown()} ({quality.evidence()}); "
        f"median {latency.shown()} ({latency.evidence()})"
    )
    text = f"{label} · {latency.shown()}{money}" if label else ""
    interval = latency.interval if latency.interval and latency.interval[0] > 0 else None
    # a candidate's intervals stand in its table: drawn, they would bury what was chosen
    ms_interval, quality_interval = (None, None) if role == "candidate" else (interval, quality.interval)
    measured = latency.kind == "measured"
    yield Point(text, role, latency.value, quality.value, ms_interval, quality_interval, params, measured, evidence)


def _money(target: Document, who: str) -> str:
    """' · $14,100/year'. The teacher's line is the incumbent's where the teacher runs on this target today."""
    today = figures.cost_line(target, "incumbent").get("target") == target.get("target")
    if who == "teacher" and today and not figures.cost_line(target, "teacher"):
        who = "incumbent"
    yearly = figures.usd_per_year(target, who)
    return "" if yearly.value is None else f" · {yearly.shown()}/year"


def _spread(points: Sequence[Point], axis: str) -> Iterable[float]:
    for point in points:
        value, interval = (point.ms, point.ms_interval) if axis == "ms" else (point.quality, point.quality_interval)
        yield value
        yield from interval or ()


def _panel(target: Document, points: Sequence[Point], x: Scale, y: Scale, largest: float, metric: str) -> Safe:
    name = figures.target_name(target)
    marks = [mark_of(point, x, y, _radius(point.params, largest)) for point in points]
    limit, taken, lines = limit_line(mapping(target.get("objective")), x)
    picture = tag(
        "svg",
        tag("title", f"{metric} over end-to-end latency on {name}"),
        tag("desc", "; ".join(p.evidence for p in points if p.label) or "candidates only"),
        axes(x, y, metric, "median end-to-end latency, ms (log scale)"),
        limit,
        *map(drawn, marks),
        *labels(marks, taken, lines),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )
    return tag("figure", tag("figcaption", tag("strong", name)), picture, class_="panel")


def _radius(params: float | None, largest: float) -> float:
    """Linear in the logarithm of the parameters, over four decades under the largest."""
    if not params or params <= 0:
        return SMALLEST
    share = 1 + math.log10(params / largest) / 4
    return SMALLEST + (LARGEST - SMALLEST) * max(0.0, share)


def axes(x: Scale, y: Scale, title: str, caption: str, least_decimals: int = 2) -> Safe:
    """Grid, ticks and rule; `title` over the quality axis, `caption` under the latency axis."""
    y_ticks = ticks(y.low, y.high)
    decimals = max(least_decimals, -math.floor(math.log10(y_ticks[1] - y_ticks[0]) + 1e-9)) if len(y_ticks) > 1 else 3
    parts = [tag("text", title, x=LEFT - 48, y=14, class_="axis")]
    for value in y_ticks:
        parts.append(line(FRAME.left, y(value), FRAME.right, y(value), "grid"))
        parts.append(tag("text", f"{value:.{decimals}f}", x=LEFT - 8, y=y(value) + 4, class_="tick end"))
    for value in log_ticks(x.low, x.high):
        parts.append(line(x(value), FRAME.bottom, x(value), FRAME.bottom + 5, "rule"))
        parts.append(tag("text", f"{value:g}", x=x(value), y=FRAME.bottom + 19, class_="tick middle"))
    parts.append(line(FRAME.left, FRAME.bottom, FRAME.right, FRAME.bottom, "rule"))
    parts.append(tag("text", caption, x=FRAME.right, y=HEIGHT - 8, class_="axis end"))
    return join(parts)


def limit_line(objective: Document, x: Scale) -> tuple[Safe, list[Box], list[Box]]:
    """The dashed line at the limit with its label; the boxes of the label and of the line, to keep clear of."""
    limit = finite(objective.get("limit_ms"))
    if not limit or limit <= 0:
        return Safe(""), [], []
    at, text = x(limit), f"objective {figures.percentile_text(objective)} ≤ {limit:g} ms"
    width = len(text) * CHARACTER * 0.86
    to_left = at + width + 8 > FRAME.right
    box = Box(at - width - 8, TOP, at, TOP + LINE) if to_left else Box(at, TOP, at + width + 8, TOP + LINE)
    label = tag("text", text, x=at - 6 if to_left else at + 6, y=TOP + 12, class_="limit end" if to_left else "limit")
    dashed = join([line(at, FRAME.top, at, FRAME.bottom, "objective"), label])
    return dashed, [box], [Box(at - 3, FRAME.top, at + 3, FRAME.bottom)]


def mark_of(point: Point, x: Scale, y: Scale, radius: float) -> Mark:
    cx, cy = x(point.ms), y(point.quality)
    bars = []
    if point.ms_interval:
        bars.append((x(point.ms_interval[0]), cy, x(point.ms_interval[1]), cy))
    if point.quality_interval:
        bars.append((cx, y(point.quality_interval[1]), cx, y(point.quality_interval[0])))
    return Mark(point, cx, cy, radius, tuple(bars))


def drawn(mark: Mark) -> Safe:
    filling = "measured" if mark.point.measured else "estimated"
    circle = tag("circle", cx=mark.cx, cy=mark.cy, r=mark.radius, class_=f"mark {filling}")
    bars = (line(*bar, "bar") for bar in mark.bars)
    return tag("g", tag("title", mark.point.evidence), *bars, circle, class_=f"point {mark.point.role}")


def labels(marks: Sequence[Mark], taken: Sequence[Box], lines: Sequence[Box]) -> Iterable[Safe]:
    """Each label at the place, of a few around its bubble, that covers least of what is already there."""
    placed = list(taken)
    crossed = [*lines, *(box for mark in marks for box in mark.boxes())]
    for mark in reversed(marks):
        if mark.point.label:
            best = min(_places(mark), key=lambda box: _clutter(box, placed, crossed) + FARTHER * _distance(box, mark))
            placed.append(best)
            if abs((best.top + best.bottom) / 2 - mark.cy) > 2 * LINE:
                edge = best.top if best.top > mark.cy else best.bottom
                start = mark.cy + math.copysign(mark.radius, edge - mark.cy)
                yield line(mark.cx, start, (best.left + best.right) / 2, edge, "leader")
            yield tag("text", mark.point.label, x=best.left, y=best.bottom - 4, class_=f"label {mark.point.role}")


def _distance(box: Box, mark: Mark) -> float:
    """From the bubble's centre to the nearest edge of the label, pixels."""
    return math.hypot(
        max(box.left - mark.cx, mark.cx - box.right, 0.0), max(box.top - mark.cy, mark.cy - box.bottom, 0.0)
    )


def _places(mark: Mark) -> Iterable[Box]:
    """Beside, above and below the bubble, then a line farther each time; `min` keeps the first of equals."""
    cx, cy, radius = mark.cx, mark.cy, mark.radius
    width = len(mark.point.label) * CHARACTER
    left = min(max(cx - width / 2, FRAME.left + 4), FRAME.right - width - 2)
    for away in range(8):
        shift = away * LINE
        for x in (cx + radius + 6, cx - radius - 6 - width):
            yield Box(x, cy - LINE - 1 - shift, x + width, cy - 1 - shift)
            yield Box(x, cy + 1 + shift, x + width, cy + LINE + 1 + shift)
        yield Box(left, cy - radius - 4 - LINE - shift, left + width, cy - radius - 4 - shift)
        yield Box(left, cy + radius + 4 + shift, left + width, cy + radius + 4 + LINE + shift)


def _clutter(box: Box, labels: Sequence[Box], crossed: Sequence[Box]) -> float:
    """Covering a label is worst, leaving the frame next, then distance and covering a bubble or a bar."""
    area = (box.right - box.left) * (box.bottom - box.top)
    outside = area - box.overlap(FRAME)
    return 20 * sum(map(box.overlap, labels)) + 10 * outside + sum(map(box.overlap, crossed))


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Safe:
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=kind)
