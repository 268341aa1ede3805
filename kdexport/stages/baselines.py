"""baselines: what a user gets without distillation, on the same test rows, and what distillation bought in words."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from kdexport.backbones import backbone_of
from kdexport.dataset import Dataset, Split
from kdexport.errors import BadInput, Damaged
from kdexport.measure import metrics
from kdexport.measure.timer import interleave
from kdexport.nouns.baseline import Baseline, Difference, HardLabelStudent, PlainModel, TriedSetting
from kdexport.nouns.bench import Quality
from kdexport.nouns.measurement import Latency
from kdexport.nouns.metric import Metric
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe, Student
from kdexport.storage.files import read_json, replacing, sha256_file, write_json
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared, Task, _baseline
from kdexport.training.loop import Progress
from kdexport.training.soft_labels import FLOOR, SoftLabels, TopClasses
from kdexport.training.student import Curriculum, Trained, quality_on_dev, torch_logits, train_student

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
VERSION = 2
CHECKPOINT = "checkpoint.safetensors"  # removed by the pipeline, once the stage's result is written
RATES = (1 / 3, 1.0, 3.0)  # times the distillation's peak learning rate
TUNING_SHARE = 0.15  # of the whole schedule, for each rate: complete schedules, so that they rank the rates
WORK = 1 + len(RATES) * TUNING_SHARE  # of the hard-label student, in steps of the distillation
HARD_LABELS = "the same student on hard labels only"
SWITCHED_OFF = "switched off: training.baselines is false"
NO_LABELS = "the project has no true labels (data.labelled is false): there are no hard labels to learn from"
ONE_CLASS = "train holds rows of one class alone"
TIMED_REQUESTS = 512
MIN_SAMPLES = 1000  # p99 needs 662
MAX_SECONDS = 4.0


def hard_label_student(
    spec: StudentSpec, curriculum: Curriculum, folder: Path, progress: Progress | None
) -> HardLabelStudent:
    """Trained as the distilled one, and started alike, but without the teacher's answers: train rows and their
    variants, each under its source's label, for as many steps, at the learning rate that is best on dev after a short
    schedule. Writes its weights to `folder`; resumes in mid-run, and a finished trial is a file there.

    curriculum: of the distilled student; its labels are not looked at."""
    import numpy as np
    from safetensors.torch import save_file

    rows, dataset, metric, recipe = curriculum.rows, curriculum.dataset, curriculum.metric, curriculum.recipe
    assert dataset.train.labels is not None
    own = rows.take(np.flatnonzero(rows.source >= 0))
    hard = np.asarray(dataset.train.labels)[own.source]
    labels = _certain(hard, len(dataset.classes))
    epochs = _epochs_of_as_many_steps(recipe, len(rows.inputs), len(own.inputs))

    def trained(rate: float, num_epochs: int, checkpoint: Path) -> Trained:
        # KL to a teacher that is certain is the cross-entropy
        changes = {"loss": "kl", "temperature": 1.0, "hard_weight": 0.0, "learning_rate": rate, "epochs": num_epochs}
        changed = recipe.model_copy(update=changes)
        return train_student(spec, replace(curriculum, rows=own, labels=labels, recipe=changed), checkpoint, progress)

    def trial(index: int, rate: float) -> TriedSetting:
        record, checkpoint = folder / f"trial-{index}.json", folder / f"trial-{index}.safetensors"
        if not record.is_file():
            try:
                quality = _dev_quality(trained(rate, max(1, round(TUNING_SHARE * epochs)), checkpoint), dataset, metric)
            except BadInput as e:  # of the metric, on logits that are not finite: this rate is too high
                log.warning("hard labels at learning rate %g left out: %s", rate, e)
                quality = 0.0
            write_json(record, TriedSetting(setting=rate, dev_quality=quality))
        checkpoint.unlink(missing_ok=True)
        return _read_trial(record)

    trials = tuple(trial(i, share * recipe.learning_rate) for i, share in enumerate(RATES))
    best = max(trials, key=lambda t: t.dev_quality)
    found = trained(best.setting, epochs, folder / CHECKPOINT)
    with replacing(folder / "model.safetensors") as temporary:
        save_file({k: v.detach().contiguous() for k, v in found.module.state_dict().items()}, temporary)
    return HardLabelStudent(
        trials=trials,
        learning_rate=best.setting,
        epochs=epochs,
        steps=epochs * math.ceil(len(own.inputs) / recipe.batch_size),
        dev_quality=_dev_quality(found, dataset, metric),
        weights_sha256=sha256_file(folder / "model.safetensors"),
    )


def _certain(hard: np.ndarray, num_classes: int) -> SoftLabels:
    """hard: int64 (N,). All mass on the label."""
    import numpy as np

    top = TopClasses(hard[:, None], np.full(len(hard), FLOOR, np.float16), num_classes)
    return SoftLabels("hard labels", np.zeros((len(hard), 1), np.float16), top)


def _epochs_of_as_many_steps(recipe: Recipe, num_rows: int, num_own: int) -> int:
    """Whole epochs on num_own rows that come nearest to the recipe's steps on num_rows."""
    steps = recipe.epochs * math.ceil(num_rows / recipe.batch_size)
    return max(1, round(steps / math.ceil(num_own / recipe.batch_size)))


def _dev_quality(trained: Trained, dataset: Dataset, metric: Metric) -> float:
    return quality_on_dev(torch_logits(trained.module, trained.dev), dataset, metric)


def _read_trial(path: Path) -> TriedSetting:
    try:
        return TriedSetting.model_validate(read_json(path))
    except ValidationError as e:
        raise Damaged(f"{path}: not a trial ({e.errors()[0]['msg']}); delete it, it is trained again") from e


def hard_label_logits(
    spec: StudentSpec, prepared: Prepared, made: HardLabelStudent, folder: Path, task: Task, num_classes: int,
    inputs: Sequence[Raw],
) -> np.ndarray:  # fmt: skip
    """float32 (N, C), by torch."""
    from safetensors.torch import load_file

    module = backbone_of(spec).build(spec, num_classes)
    module.load_state_dict(load_file(folder / made.weights))
    return torch_logits(module.eval(), task.encode(prepared, inputs))


def plain_model(
    dataset: Dataset, labels: np.ndarray, task: Task, metric: Metric, threads: int, folder: Path
) -> PlainModel:
    """labels: int64 (N,), of the train rows. Written to `folder`; its regularisation is chosen on dev."""
    tried = _baseline.fit(
        task,
        dataset.train.inputs,
        labels,
        len(dataset.classes),
        dataset.dev.inputs,
        lambda logits: quality_on_dev(logits, dataset, metric),
        threads,
        folder,
        dataset.train.weights,
    )
    files = [folder / _baseline.MODEL, folder / _baseline.FEATURES]
    model = _baseline.load(task, folder)
    best, quality = max(tried, key=lambda t: t[1])
    return PlainModel(
        name=_baseline.NAMES[task.input_kind],
        trials=tuple(TriedSetting(setting=c, dev_quality=q) for c, q in tried),
        inverse_regularisation=best,
        dev_quality=quality,
        num_params=model.weight.size + model.bias.size,
        bytes=sum(p.stat().st_size for p in files),
        sha256=sha256_file(files[0]) + sha256_file(files[1]),
    )


def plain_name(task: Task) -> str:
    return _baseline.NAMES[task.input_kind]


def plain_logits(task: Task, folder: Path, inputs: Sequence[Raw]) -> np.ndarray:
    """float32 (N, C)."""
    return _baseline.load(task, folder).logits(inputs)


def plain_latency(task: Task, folder: Path, requests: Sequence[Raw], environment: str) -> Latency:
    """Raw request to answer, one at a time."""
    model, requests = _baseline.load(task, folder), requests[:TIMED_REQUESTS]
    timings = interleave(
        {"plain": lambda i: int(model.logits([requests[i]]).argmax())},
        len(requests),
        min_samples=MIN_SAMPLES,
        max_seconds=MAX_SECONDS,
    )
    return timings.latency("plain", environment)


@dataclass(frozen=True)
class Judged:
    """One model's predictions: logits float32 (N, C) on test, and the threshold fitted on dev where the metric has
    one."""

    logits: np.ndarray
    threshold: float | None


def compared(
    baseline: Baseline, student: Judged, other: Judged, metric: Metric, test: Split, classes: Sequence[str]
) -> Baseline:
    """With its quality on the test rows, and by how much the student is better."""
    assert test.labels is not None
    args = (metric, other.logits, test.labels, classes, other.threshold, test.weights)
    value, ci95 = metrics.difference(
        metric,
        student.logits,
        other.logits,
        test.labels,
        classes,
        threshold=student.threshold,
        other_threshold=other.threshold,
        weights=test.weights,
    )
    quality = Quality(metric=metric.name, value=metrics.score(*args), ci95=metrics.interval(*args), n=len(test))
    return baseline.model_copy(update={"quality": quality, "difference": Difference(value=value, ci95=ci95)})


def told_cost(distil_s: float) -> str:
    """Before any of it is spent; distil_s: what the distillation took."""
    return (
        f"baselines: about {WORK * distil_s:.0f} s, {WORK:g} times the distillation, for {HARD_LABELS}; "
        "training.baselines: false goes without"
    )


def described_hard_labels(made: HardLabelStudent, student: Student, training_s: float) -> Baseline:
    rates = ", ".join(f"{t.setting:.2g}" for t in made.trials)
    how = (
        f"same start, rows and variants, each under its source's label; {made.steps:,} steps; learning rate "
        f"{made.learning_rate:.2g}, the best on dev of {rates}"
    )
    return Baseline(
        kind="hard_labels",
        name=HARD_LABELS,
        how=how,
        trials=made.trials,
        num_params=student.num_params,
        training_s=round(training_s, 3),  # as a resumed run reads it
    )


def described_plain(made: PlainModel, from_teacher: bool, latency: Latency | None, training_s: float) -> Baseline:
    strengths = ", ".join(f"{t.setting:g}" for t in made.trials)
    answers = "the teacher's answers to the train rows" if from_teacher else "the train rows"
    how = f"fitted on {answers}; C = {made.inverse_regularisation:g}, the best on dev of {strengths}"
    return Baseline(
        kind="plain",
        name=made.name,
        how=how,
        trials=made.trials,
        num_params=made.num_params,
        bytes=made.bytes,
        latency=latency,
        training_s=round(training_s, 3),  # as a resumed run reads it
    )


def verdict(hard_labels: Baseline, plain: Baseline) -> str:
    """What distillation bought, and when it bought nothing."""
    if hard_labels.reason and hard_labels.reason == plain.reason:
        return f"what distillation bought is not known: {hard_labels.reason}"
    return f"{_bought(hard_labels)}; {_against_plain(plain)}"


def _bought(found: Baseline) -> str:
    if found.difference is None:
        return f"what distillation bought over hard labels is not known: {found.reason}"
    gain, (low, high) = found.difference.value, found.difference.ci95
    if low > 0:
        return f"distillation bought {_points(gain)} points ({_interval(low, high)}) over {found.name}"
    if high < 0:
        return (
            f"distillation cost {_points(-gain, sign='')} points ({_interval(-high, -low)}) against {found.name}: "
            "train on the labels, or look for a better teacher"
        )
    return (
        f"distillation bought nothing measurable here: {_points(gain)} points ({_interval(low, high)}) over "
        f"{found.name}; consider the plain baseline"
    )


def _against_plain(found: Baseline) -> str:
    if found.difference is None:
        return f"no plain baseline: {found.reason}"
    gain, (low, high) = found.difference.value, found.difference.ci95
    if low > 0:
        return f"the student is {_points(gain)} points ({_interval(low, high)}) above {found.name}"
    if high < 0:
        return (
            f"{found.name} is better than the student by {_points(-gain, sign='')} points ({_interval(-high, -low)}): "
            "ship that instead, unless it is too slow or too large"
        )
    return (
        f"no significant difference from {found.name}: {_points(gain)} points ({_interval(low, high)}); consider that, "
        "unless it is too slow or too large"
    )


def _points(share: float, sign: str = "+") -> str:
    return f"{100 * share:{sign}.1f}"


def _interval(low: float, high: float) -> str:
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f}"
