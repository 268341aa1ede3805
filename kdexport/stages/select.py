"""select: which teacher, or which ensemble, a small student learns most from, and what each costs to ask."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.dataset import Dataset
from kdexport.measure import metrics
from kdexport.nouns.bench import Quality
from kdexport.nouns.metric import Metric
from kdexport.nouns.project import Ensemble
from kdexport.nouns.selection import Candidate, Labelling, Lesson
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.nouns.teacher import Combination, TeacherMember
from kdexport.teachers._ensemble import combine, log_softmax, settle
from kdexport.training.loop import Progress
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels
from kdexport.training.student import Curriculum, torch_logits, train_student

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
LESSON_ROWS = {"text": 12_000, "image": 6_000}  # distinct, drawn from the transfer set
LESSON_EPOCHS = 6  # a complete schedule: its learning rate ends at zero
LESSON_SECONDS = 60.0  # of training, estimated: what the small student is chosen to fit
CHEAPER = 0.8  # of the seconds: what counts as cheaper to label
DEVIATIONS_IN_CI95 = 3.92


@dataclass(frozen=True)
class Contender:
    """members: indices. dev, queries: logits (N, C) of it as a whole; queries may have no rows."""

    name: str
    members: tuple[int, ...]
    combination: Combination | None
    dev: np.ndarray
    queries: np.ndarray


def contenders(
    members: Sequence[TeacherMember],
    dev: Sequence[np.ndarray],
    queries: Sequence[np.ndarray],
    dataset: Dataset,
    wishes: Ensemble,
) -> list[Contender]:
    """Every teacher, the best two, three, ... by likelihood of the dev labels, and all. dev, queries: of each member.

    Where a member may have learnt from the dev rows, they do not say which are the best: each, and all."""
    names = [m.name if _once(m.name, members) else f"{m.name} ({i})" for i, m in enumerate(members, 1)]
    found = [Contender(n, (i,), None, dev[i], queries[i]) for i, n in enumerate(names)]
    if len(members) == 1:
        return found
    sizes = [len(members)]
    order = list(range(len(members)))
    labels = dataset.dev.labels
    if labels is not None and not any(m.seen_dev for m in members):
        order.sort(key=lambda i: nll(dev[i], labels, dataset.dev.weights))
        sizes = list(range(2, len(members) + 1))
    for size in sizes:
        chosen = tuple(sorted(order[:size]))
        mix = settle(_weighed([members[i] for i in chosen]), [dev[i] for i in chosen], dataset.dev, wishes)
        name = f"all {size} together" if size == len(members) else f"the best {size} together"
        as_one = [combine([answers[i] for i in chosen], mix) for answers in (dev, queries)]
        found.append(Contender(name, chosen, mix, as_one[0], as_one[1]))
    return found


def _weighed(members: Sequence[TeacherMember]) -> list[TeacherMember]:
    """All alike where none has a weight yet: whether one is worth it is what is asked here."""
    return [m if any(other.weight for other in members) else m.model_copy(update={"weight": 1.0}) for m in members]


def _once(name: str, members: Sequence[TeacherMember]) -> bool:
    return sum(m.name == name for m in members) == 1


def nll(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Nats a row; weights: float64 (N,), none: all alike."""
    import numpy as np

    return float(np.average(-log_softmax(logits)[np.arange(len(labels)), labels], weights=weights))


def quality(logits: np.ndarray, dataset: Dataset, metric: Metric) -> Quality:
    """On dev, under the project's metric; a threshold is fitted on the same rows."""
    dev, classes = dataset.dev, dataset.classes
    assert dev.labels is not None
    threshold = metrics.fit_threshold(metric, logits, dev.labels, classes, dev.weights)
    value = metrics.score(metric, logits, dev.labels, classes, threshold, dev.weights)
    low, high = metrics.interval(metric, logits, dev.labels, classes, threshold, dev.weights)
    return Quality(metric=metric.name, value=value, ci95=(float(low), float(high)), n=len(dev))


def judge(
    contender: Contender,
    everyone: Sequence[Contender],
    members: Sequence[TeacherMember],
    dataset: Dataset,
    metric: Metric,
    labelling: Labelling,
) -> Candidate:
    """everyone: all contenders, of which the last is the ensemble of all."""
    labels, last = dataset.dev.labels, everyone[-1]
    own = [everyone[i] for i in contender.members]
    return Candidate(
        name=contender.name,
        members=tuple(i + 1 for i in contender.members),
        seen_dev=any(members[i].seen_dev for i in contender.members),
        combination=contender.combination.reason if contender.combination else "",
        quality=None if labels is None else quality(contender.dev, dataset, metric),
        nll=None if labels is None else nll(contender.dev, labels, dataset.dev.weights),
        ece=None
        if labels is None
        else metrics.expected_calibration_error(contender.dev, labels, weights=dataset.dev.weights),
        agreement=None if contender is last else 1 - _differ([contender, last], dataset),
        inner_disagreement=_differ(own, dataset) if len(own) > 1 else None,
        labelling=labelling,
    )


def _differ(several: Sequence[Contender], dataset: Dataset) -> float:
    """Share of production queries, or of dev rows where there are none, to which not all give the same answer."""
    import numpy as np

    on_queries = len(several[0].queries) > 0
    answers = np.stack([(c.queries if on_queries else c.dev).argmax(1) for c in several])
    weights = dataset.query_rows.weights if on_queries else dataset.dev.weights
    return float(np.average((answers != answers[0]).any(0), weights=weights))


def short_lesson(rows: TransferSet, recipe: Recipe, input_kind: str) -> tuple[np.ndarray, Recipe]:
    """The rows, int64 (n,), of a short complete schedule, and its recipe."""
    import numpy as np

    total = len(rows.inputs)
    count = min(LESSON_ROWS[input_kind], total)
    chosen = np.sort(np.random.default_rng([recipe.seed, total]).permutation(total)[:count])
    return chosen, recipe.model_copy(update={"epochs": min(LESSON_EPOCHS, recipe.epochs)})


def as_one(contender: Contender, labels: Sequence[SoftLabels]) -> SoftLabels:
    """labels: every member's for the same rows."""
    if contender.combination is None:
        return labels[contender.members[0]]
    answers = [labels[i].rows(slice(None)) for i in contender.members]
    return SoftLabels(labels[0].key, combine(answers, contender.combination))


def teach_student(
    spec: StudentSpec, curriculum: Curriculum, checkpoint: Path, progress: Progress | None
) -> tuple[np.ndarray, float]:
    """The student's logits on dev, float32 (N, C), and the seconds that its training took."""
    import torch  # noqa: F401 (loaded before the clock starts)

    started = time.perf_counter()
    trained = train_student(spec, curriculum, checkpoint, progress)
    return torch_logits(trained.module, trained.dev), time.perf_counter() - started


def with_lessons(
    candidates: Sequence[Candidate], logits: Sequence[np.ndarray], seconds: Sequence[float], dataset: Dataset,
    metric: Metric,
) -> list[Candidate]:  # fmt: skip
    """logits: of each candidate's student on dev. Each is compared with the best of them, row by row."""
    labels = dataset.dev.labels
    assert labels is not None
    found = [quality(x, dataset, metric) for x in logits]
    best = max(range(len(found)), key=lambda i: found[i].value)
    result = []
    for index, candidate in enumerate(candidates):
        ratio, interval = _against(metric, logits[index], logits[best], labels, dataset)
        lesson = Lesson(
            quality=found[index],
            nll=nll(logits[index], labels, dataset.dev.weights),
            against_best=ratio,
            against_best_ci95=interval,
            seconds=round(seconds[index], 3),
        )
        result.append(candidate.model_copy(update={"student": lesson}))
    return result


def _against(
    metric: Metric, one: np.ndarray, best: np.ndarray, labels: np.ndarray, dataset: Dataset
) -> tuple[float, tuple[float, float]]:
    classes, weights = dataset.classes, dataset.dev.weights
    thresholds = [metrics.fit_threshold(metric, x, labels, classes, weights) for x in (one, best)]
    ratio, (low, high) = metrics.retention(
        metric,
        one,
        best,
        labels,
        classes,
        student_threshold=thresholds[0],
        teacher_threshold=thresholds[1],
        weights=weights,
    )
    return ratio, (float(low), float(high))


def recommend(candidates: Sequence[Candidate], metric: Metric) -> tuple[str, str]:
    """(name, one sentence). By what the students learnt where they were taught, else by the teachers' own dev rows;
    of what lies within one standard error of the best, the cheapest to label."""
    if len(candidates) == 1:
        return candidates[0].name, f"Take {candidates[0].name}: the project names no other teacher."
    if all(c.student for c in candidates):
        return _by_students(candidates, metric)
    told = [c for c in candidates if c.quality and not c.seen_dev]
    if len(told) < len(candidates):
        cheapest = min(candidates, key=lambda c: c.labelling.seconds)
        return "", (
            "Nothing is recommended: dev rows that a teacher may have learnt from do not tell which is better, and no "
            f"student was taught. Cheapest to ask is {cheapest.name}."
        )
    best = max(told, key=lambda c: _value(c.quality))
    deviation = _half_width(best.quality) / DEVIATIONS_IN_CI95
    chosen = _cheapest([c for c in told if _value(best.quality) - _value(c.quality) <= deviation], best)
    return chosen.name, (
        f"Take {chosen.name}: {_told(chosen.quality)} on dev{_instead(chosen, best, chosen.quality, best.quality)}; "
        "what a student learns from it was not tried."
    )


def _by_students(candidates: Sequence[Candidate], metric: Metric) -> tuple[str, str]:
    lessons = {c.name: c.student for c in candidates if c.student}
    best = max(candidates, key=lambda c: lessons[c.name].quality.value)
    close = [c for c in candidates if _within_one_error(lessons[c.name])]
    chosen = _cheapest(close, best)
    own, leader = lessons[chosen.name].quality, lessons[best.name].quality
    said = f"Take {chosen.name}: the same small student reached {_told(own)} on dev with its labels"
    said += _instead(chosen, best, own, leader)
    rated = [c for c in candidates if c.quality and not c.seen_dev]
    top = max(rated, key=lambda c: _value(c.quality), default=None)
    if top is not None and top.name != chosen.name and _value(top.quality) > _value(chosen.quality):
        taught = lessons[top.name].quality.value
        said += (
            f"; the best {metric.name} has {top.name} ({_value(top.quality):.4f} against {_value(chosen.quality):.4f}"
            f" on dev), and its student {taught:.4f}"
        )
    others = [c for c in candidates if c is not chosen]
    if all(_no_difference(lessons[c.name]) for c in [chosen, *others]):
        said += "; between the students of all candidates there is no significant difference"
    return chosen.name, said + "."


def _within_one_error(lesson: Lesson) -> bool:
    low, high = lesson.against_best_ci95
    return 1 - lesson.against_best <= (high - low) / DEVIATIONS_IN_CI95


def _no_difference(lesson: Lesson) -> bool:
    low, high = lesson.against_best_ci95
    return low <= 1 <= high


def _cheapest(close: Sequence[Candidate], best: Candidate) -> Candidate:
    """Of those as good as the best, the one that is plainly cheaper, else the best."""
    least = min(close, key=lambda c: c.labelling.seconds, default=best)
    return least if least.labelling.seconds < CHEAPER * best.labelling.seconds else best


def _instead(chosen: Candidate, best: Candidate, own: Quality | None, leader: Quality | None) -> str:
    if chosen is best:
        return ""
    share = chosen.labelling.seconds / best.labelling.seconds
    return (
        f", within one standard error of {best.name} ({_value(leader):.4f}), for {share:.0%} of its time to label"
        if own
        else ""
    )


def _value(found: Quality | None) -> float:
    return found.value if found else 0.0


def _half_width(found: Quality | None) -> float:
    return found.ci95[1] - found.ci95[0] if found else 0.0


def _told(found: Quality | None) -> str:
    return f"{found.metric} {found.value:.4f} [{found.ci95[0]:.4f} to {found.ci95[1]:.4f}]" if found else "no figure"


def told_cost(
    lesson_rows: int, rows_per_s: Sequence[float], training_s: float, num_candidates: int, usd_per_hour: float | None
) -> str:
    """Before any of it is spent."""
    label_s = sum(lesson_rows / r for r in rows_per_s)
    total_s = label_s + training_s * num_candidates
    money = f", ${total_s / 3600 * usd_per_hour:.2f}" if usd_per_hour is not None else ""
    return (
        f"select: {lesson_rows:,} rows labelled by each of {len(rows_per_s)} teachers ({label_s / 60:.1f} minutes), "
        f"then {num_candidates} short trainings ({training_s / 60:.1f} minutes each, within a factor of three): "
        f"{total_s / 60:.1f} minutes{money} (estimated); --no-students goes without"
    )
