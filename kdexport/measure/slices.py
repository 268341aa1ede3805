"""Quality by slice: how teacher and student do on the rows of each class, length, time, source and user's column."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdexport.errors import BadInput
from kdexport.measure import metrics
from kdexport.measure.statistics import Floats, holm, mcnemar_p, paired_shares
from kdexport.nouns.bench import Ratio, SliceQuality
from kdexport.nouns.metric import Metric

Names = NDArray[np.str_]
Answers = tuple[Any, float | None]  # logits (N, C), threshold
CLASS, LENGTH, TIME = "class", "length", "time"
PARTS = 4  # quartiles of length, quarters of the span of time
MAX_SHOWN = 20  # of one kind: the worst classes, the heaviest values of a column
RESAMPLES = 400  # of metrics that are bootstrapped slice by slice
SIGNIFICANT = 0.05
SHARES = ("accuracy", "recall")  # of right answers themselves


def groups(
    inputs: Sequence[str | bytes], times: Floats | None, columns: Mapping[str, Sequence[str]]
) -> dict[str, Names]:
    """By kind of slice, the name of each row's slice (N,). Pictures have no length."""
    found: dict[str, Names] = {}
    if inputs and isinstance(inputs[0], str):
        found[LENGTH] = _by_length(np.array([len(raw) for raw in inputs]))
    if times is not None and len(times):
        found[TIME] = _by_time(times)
    return found | {name: _heaviest(values) for name, values in columns.items() if len(values)}


def slices(
    metric: Metric,
    teacher: Answers,
    student: Answers,
    labels: Any,
    class_names: Sequence[str],
    kinds: Mapping[str, Names],
    weights: Floats | None = None,
) -> list[SliceQuality]:
    """Of labelled rows; classes first, the largest loss first, MAX_SHOWN of them at most. All are tested together:
    whether right answers were lost or gained, whatever the metric.

    A slice on which the metric is not defined is left out."""
    names = np.array(class_names)[labels]
    right = [metrics.right_answers(metric, logits, labels, class_names, cut) for logits, cut in (student, teacher)]
    total = float(len(labels) if weights is None else weights.sum())
    found: list[tuple[SliceQuality, float, float]] = []
    for by, of_rows in {CLASS: names, **kinds}.items():
        for name in dict.fromkeys(of_rows.tolist()):
            rows = np.flatnonzero(of_rows == name)
            w = None if weights is None else weights[rows]
            values: _Values | None
            if by == CLASS or metric.name == "accuracy":
                values = _shares(right, rows, w)
            else:
                parts = [(np.asarray(logits)[rows], cut) for logits, cut in (teacher, student)]
                values = _scores(metric, parts[0], parts[1], np.asarray(labels)[rows], class_names, w)
            if values is None:
                continue
            entry = SliceQuality(
                by=by,
                name=name,
                n=len(rows),
                share=float(len(rows) if w is None else w.sum()) / total,
                metric="recall" if by == CLASS else metric.name,
                teacher=values.teacher,
                student=values.student,
                retention=values.retention,
            )
            gain = np.average(right[0][rows].astype(float) - right[1][rows], weights=w)
            found.append((entry, float(gain), mcnemar_p(right[0][rows], right[1][rows], w)))
    adjusted = holm([p for _, _, p in found])
    told = [e.model_copy(update=_verdict(e, gain, p)) for (e, gain, _), p in zip(found, adjusted, strict=True)]
    classes = sorted((s for s in told if s.by == CLASS), key=lambda s: (s.student.value - s.teacher.value, s.name))
    return [*classes[:MAX_SHOWN], *sorted((s for s in told if s.by != CLASS), key=lambda s: (s.by, s.name))]


def agreement_slices(
    teacher_logits: Any, student_logits: Any, kinds: Mapping[str, Names], weights: Floats | None = None
) -> list[SliceQuality]:
    """Of production queries: how often the student's class is the teacher's."""
    same = np.asarray(teacher_logits).argmax(1) == np.asarray(student_logits).argmax(1)
    total = float(len(same) if weights is None else weights.sum())
    found = []
    for by, of_rows in kinds.items():
        for name in sorted(set(of_rows.tolist())):
            rows = np.flatnonzero(of_rows == name)
            w = None if weights is None else weights[rows]
            shares = paired_shares(same[rows], np.ones(len(rows), dtype=bool), w)
            agreement = Ratio(value=shares.student, ci95=shares.student_ci95)
            found.append(
                SliceQuality(
                    by=by,
                    name=name,
                    on="held-out queries",
                    n=len(rows),
                    share=float(len(rows) if w is None else w.sum()) / total,
                    metric="agreement",
                    teacher=Ratio(value=1.0, ci95=(1.0, 1.0)),
                    student=agreement,
                    retention=agreement,
                )
            )
    return found


def told(found: Sequence[SliceQuality]) -> list[str]:
    """The significant ones in words; one sentence where there are none."""
    lines = [
        f"{s.by} '{s.name.strip()}': {s.metric} {s.teacher.value:.3f} → {s.student.value:.3f}, significantly "
        f"{'worse' if s.verdict == 'lost' else 'better'} than the teacher (n = {s.n}, "
        f"p = {s.p:.2g}{'' if s.metric in SHARES else ' of right answers,'} after Holm's correction)"
        for s in found
        if s.verdict in ("lost", "gained")
    ]
    tested = sum(s.p is not None for s in found)
    return lines or ([f"no slice shown differs significantly from the teacher ({tested} tested)"] if tested else [])


@dataclass(frozen=True)
class _Values:
    teacher: Ratio
    student: Ratio
    retention: Ratio | None


def _shares(right: Sequence[NDArray[np.bool_]], rows: NDArray[np.intp], weights: Floats | None) -> _Values:
    shares = paired_shares(right[0][rows], right[1][rows], weights)
    known = shares.ratio is not None and shares.ratio_ci95 is not None
    return _Values(
        teacher=Ratio(value=shares.teacher, ci95=shares.teacher_ci95),
        student=Ratio(value=shares.student, ci95=shares.student_ci95),
        retention=Ratio.model_validate({"value": shares.ratio, "ci95": shares.ratio_ci95}) if known else None,
    )


def _scores(
    metric: Metric, teacher: Answers, student: Answers, labels: Any, class_names: Sequence[str], weights: Floats | None
) -> _Values | None:
    """None where the metric is not defined on these rows."""

    def scored(answers: Answers) -> Ratio:
        args = (metric, answers[0], labels, class_names, answers[1], weights)
        return Ratio(value=metrics.score(*args), ci95=metrics.interval(*args, resamples=RESAMPLES))

    try:
        above, below = scored(student), scored(teacher)
    except BadInput:
        return None
    if below.value <= 0:
        return _Values(below, above, None)
    value, ci95 = metrics.retention(
        metric,
        student[0],
        teacher[0],
        labels,
        class_names,
        student_threshold=student[1],
        teacher_threshold=teacher[1],
        weights=weights,
        resamples=RESAMPLES,
    )
    return _Values(below, above, Ratio(value=value, ci95=ci95))


def _verdict(entry: SliceQuality, gain: float, p: float) -> dict[str, object]:
    """gain: of the share of right answers, whose test p is of. A metric that moves the other way was not tested."""
    moved = entry.student.value - entry.teacher.value
    agree = p < SIGNIFICANT and gain * moved > 0
    return {"p": p, "verdict": ("gained" if gain > 0 else "lost") if agree else "no significant difference"}


def _by_length(lengths: NDArray[np.int64]) -> Names:
    """Quartiles of characters; fewer where many rows are as long."""
    edges = np.unique(np.quantile(lengths, np.arange(1, PARTS) / PARTS, method="lower"))
    which = np.searchsorted(edges, lengths, side="left")
    ends = {int(part): lengths[which == part] for part in np.unique(which)}
    width = len(str(lengths.max()))
    names = {part: f"{found.min():>{width}} to {found.max()} characters" for part, found in ends.items()}
    return np.array([names[int(part)] for part in which])


def _by_time(times: Floats) -> Names:
    """Quarters of the span from the first to the last."""
    edges = np.linspace(times.min(), times.max(), PARTS + 1)
    which = np.minimum(np.searchsorted(edges, times, side="right") - 1, PARTS - 1)
    unit = "seconds" if edges[-1] - edges[0] < PARTS * 86_400 else "days"
    names = [f"{_when(edges[i], unit)} to {_when(edges[i + 1], unit)}" for i in range(PARTS)]
    return np.array([names[part] for part in which])


def _when(seconds: float, unit: str) -> str:
    found = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return found.date().isoformat() if unit == "days" else found.isoformat(sep=" ", timespec="seconds")[:19]


def _heaviest(values: Sequence[str]) -> Names:
    """A column's values; beyond MAX_SHOWN the rarest are one."""
    counts = Counter(values)
    if len(counts) <= MAX_SHOWN:
        return np.array(values)
    kept = {value for value, _ in counts.most_common(MAX_SHOWN - 1)}
    other = f"({len(counts) - len(kept)} other values)"
    return np.array([value if value in kept else other for value in values])
