"""A bundle on new labelled data: raw request in, answer out, one at a time, as it is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from kdexport.bundle.verify import load_predictor, read_manifest
from kdexport.errors import BadInput, Unsupported, unknown_name
from kdexport.nouns.base import Noun
from kdexport.nouns.bench import Quality
from kdexport.nouns.manifest import Manifest
from kdexport.nouns.measurement import Interval
from kdexport.nouns.metric import Abstention, Metric
from kdexport.nouns.project import Table
from kdexport.storage.tables import read_rows, require_pictures

if TYPE_CHECKING:
    import numpy as np

FREE_METRICS = ("accuracy", "macro_f1")  # need nothing but the labels


class ClassRecall(Noun):
    name: str
    n: int
    recall: float = Field(description="share of the class's rows, by weight, that its own label wins; abstention aside")
    ci95: Interval


class Evaluation(Noun):
    """All measured, on the rows of `data`."""

    bundle: str
    data: str
    columns: tuple[str, str | None] = Field(description="read as input and label")
    quality: Quality
    answered: float = Field(description="share of rows, by weight, whose top score reaches the bundle's threshold")
    weighted: bool = Field(default=False, description="did rows count by a column of weights?")
    per_class: tuple[ClassRecall, ...] = Field(description="lowest recall first")
    teacher: Quality | None = Field(default=None, description="on the test set of its run, NOT on these rows")
    teacher_source: str = ""


def evaluate(bundle: Path, table: Table, metric: Metric | None = None) -> Evaluation:
    """metric: none means the bundle's own where that needs no settings of a project.

    Raises BadInput for a label that the bundle does not know, Damaged for an altered bundle."""
    import numpy as np

    from kdexport.measure import metrics

    manifest = read_manifest(bundle)
    metric = _metric(metric, manifest)
    rows = read_rows(table, manifest.preprocessor.kind, labelled=True)
    assert rows.labels is not None
    if manifest.preprocessor.kind == "image":
        require_pictures(rows)
    labels = _indices(rows.labels, manifest.labels, rows.places)
    predictor = load_predictor(bundle)
    logits = np.concatenate([predictor.logits([raw]) for raw in rows.inputs])
    threshold = manifest.abstain_below
    value = metrics.score(metric, logits, labels, manifest.labels, threshold, rows.weights)
    ci95 = metrics.interval(metric, logits, labels, manifest.labels, threshold, rows.weights)
    top = metrics.softmax(logits).max(axis=1)
    return Evaluation(
        bundle=str(bundle),
        data=table.path,
        columns=rows.columns,
        quality=Quality(metric=metric.name, value=value, ci95=ci95, n=len(labels)),
        answered=1.0 if threshold is None else float(np.average(top >= threshold, weights=rows.weights)),
        weighted=rows.weights is not None,
        per_class=_per_class(logits, labels, manifest.labels, rows.weights),
    )


def _metric(metric: Metric | None, manifest: Manifest) -> Metric:
    """With abstention where the bundle abstains: its threshold decides, not a precision."""
    name: Any = manifest.figures.get("dev_quality", {}).get("metric", "accuracy") if metric is None else metric.name
    if name == "recall_at_false_alarm" or (metric is None and name not in FREE_METRICS):
        raise Unsupported(
            f"the bundle's metric is {name}, which needs settings that a bundle does not hold; "
            f"choose one of --metric {' | '.join(FREE_METRICS)}"
            + ("" if name == "recall_at_false_alarm" else ", or name the project file with --project")
        )
    found = metric or Metric(name=name)
    if manifest.abstain_below is not None and found.abstention is None:
        found = found.model_copy(update={"abstention": Abstention(min_precision=1.0)})
    return found


def _indices(labels: Sequence[str], classes: Sequence[str], places: Sequence[str]) -> np.ndarray:
    import numpy as np

    index = {name: i for i, name in enumerate(classes)}
    for label, place in zip(labels, places, strict=True):
        if label not in index:
            raise unknown_name("label", label, classes, place)
    return np.array([index[label] for label in labels], dtype=np.int64)


def _per_class(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], weights: np.ndarray | None
) -> tuple[ClassRecall, ...]:
    import numpy as np

    from kdexport.measure.statistics import paired_shares

    right, entries = logits.argmax(1) == labels, []
    for i, name in enumerate(classes):
        rows = np.flatnonzero(labels == i)
        if len(rows):
            found = paired_shares(right[rows], right[rows] | True, None if weights is None else weights[rows])
            entries.append(ClassRecall(name=name, n=len(rows), recall=found.student, ci95=found.student_ci95))
    return tuple(sorted(entries, key=lambda e: (e.recall, e.name)))


def with_teacher(evaluation: Evaluation, document: dict[str, Any], source: str) -> Evaluation:
    """Beside it the teacher's quality from a run's report: on the run's own test set, so no retention follows."""
    found = (document.get("teacher") or {}).get("quality")
    if not isinstance(found, dict):
        raise BadInput(f"{source}: names no quality of the teacher")
    return evaluation.model_copy(update={"teacher": Quality.model_validate(found), "teacher_source": source})


def below_gate(evaluation: Evaluation, minimum: float) -> list[str]:
    """Why the answer is no, by the point estimate; empty: it is yes."""
    quality = evaluation.quality
    if quality.value >= minimum:
        return []
    excluded = "excludes" if quality.ci95[1] < minimum else "does not exclude"
    return [f"{quality.metric} {quality.value:.4f} is below {minimum:g} (its 95 % interval {excluded} that)"]
