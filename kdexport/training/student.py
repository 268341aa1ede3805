"""One student on one schedule: what the distil stage exports, and what a rung of the ladder is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.backbones import backbone_of
from kdexport.dataset import Dataset
from kdexport.losses import load_loss
from kdexport.measure.calibration import fit_temperature
from kdexport.measure.metrics import fit_threshold, score
from kdexport.nouns.metric import Metric
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.tasks import Encoded, Prepared, Task
from kdexport.training.loop import History, Progress, Schedule, Terms, train
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels

if TYPE_CHECKING:
    import numpy as np
    import torch

CHECKPOINT_SECONDS = 5.0
EVALUATION_ROWS = 512
CALIBRATION_ROWS = 100  # of dev, at least: below, one temperature is not worth its error


@dataclass(frozen=True)
class Trained:
    """The module at the end of its schedule, in evaluation mode. dev: the rows that it was judged on. temperature:
    what its logits were divided by to be calibrated; 1: left as they were."""

    module: torch.nn.Module
    history: History
    dev: Encoded
    temperature: float


@dataclass(frozen=True)
class Curriculum:
    """All that a student is trained with. dataset: whose dev rows judge it; embedding: the teacher's (V, D), trimmed to
    the pieces of `prepared`."""

    prepared: Prepared
    rows: TransferSet
    labels: SoftLabels
    dataset: Dataset
    task: Task
    metric: Metric
    recipe: Recipe
    embedding: np.ndarray | None
    bf16: bool


def train_student(spec: StudentSpec, curriculum: Curriculum, checkpoint: Path, progress: Progress | None) -> Trained:
    """Soft loss + hard_weight x cross-entropy on the rows with a true label, calibrated on dev at the end (Guo et al.
    2017), inside the classifier's own weights.

    Resumes from `checkpoint`. Given the same precision, seed, thread count and ISA the weights are the same to the
    bit."""
    import torch

    dataset, recipe = curriculum.dataset, curriculum.recipe
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    backbone = backbone_of(spec)
    module = backbone.build(spec, len(dataset.classes), dropout=recipe.dropout)
    if curriculum.embedding is not None:
        backbone.initialise(module, curriculum.embedding)
    encoded = curriculum.task.encode(curriculum.prepared, curriculum.rows.inputs)
    schedule = Schedule(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        threads=recipe.threads,
        bf16=curriculum.bf16,
        averaging=recipe.averaging,
        checkpoint_seconds=CHECKPOINT_SECONDS,
    )
    dev = curriculum.task.encode(curriculum.prepared, dataset.dev.inputs)
    loss_of = objective(module, encoded, curriculum.rows, curriculum.labels, recipe)
    history = train(
        module,
        encoded.lengths,
        loss_of,
        schedule,
        checkpoint,
        lambda judged: quality_on_dev(torch_logits(judged, dev), dataset, curriculum.metric),
        progress,
    )
    temperature = calibrate(module, dev, dataset) if dataset.train.labels is not None else 1.0
    return Trained(module, history, dev, temperature)


def calibrate(module: torch.nn.Module, dev: Encoded, dataset: Dataset) -> float:
    """Divide the classifier's weights by the temperature that makes the true labels of dev likeliest; returns it."""
    import torch

    labels = dataset.dev.labels
    if labels is None or len(labels) < CALIBRATION_ROWS:
        return 1.0
    temperature = fit_temperature(torch_logits(module, dev), labels, dataset.dev.weights)
    with torch.no_grad():
        for weights in module.classifier.parameters():  # type: ignore[union-attr]
            weights /= temperature
    return temperature


def shortened(
    rows: TransferSet, labels: SoftLabels, recipe: Recipe, share: float
) -> tuple[TransferSet, SoftLabels, Recipe, float]:
    """A complete schedule over about `share` of the rows seen, and the exact share: fewer epochs, and below one epoch
    fewer rows, drawn by the recipe's seed."""
    import numpy as np

    total = len(rows.inputs)
    seen = max(round(share * total * recipe.epochs), min(recipe.batch_size, total))
    epochs = max(1, round(seen / total))
    if seen >= total:
        return rows, labels, recipe.model_copy(update={"epochs": epochs}), epochs / recipe.epochs
    chosen = np.sort(np.random.default_rng([recipe.seed, total]).permutation(total)[:seen])
    some, answers = rows.take(chosen), labels.take(chosen)
    return some, answers, recipe.model_copy(update={"epochs": 1}), seen / (total * recipe.epochs)


def objective(
    module: torch.nn.Module, encoded: Encoded, rows: TransferSet, labels: SoftLabels, recipe: Recipe
) -> Callable[[np.ndarray], Terms]:
    """rows -> terms of the loss in nats, as the recipe weighs them; production weights multiply each row's part."""
    import torch
    from torch.nn.functional import cross_entropy

    soft_loss = load_loss(recipe.loss)
    hard = torch.from_numpy(rows.hard)
    weights = None if rows.weights is None else torch.from_numpy(rows.weights)

    def loss_of(indices: np.ndarray) -> Terms:
        chosen = torch.from_numpy(indices)
        student_logits = module(torch.from_numpy(encoded.batch(indices))).float()
        teacher_logits = torch.from_numpy(labels.rows(indices))
        share = torch.ones(len(indices)) if weights is None else weights[chosen]
        terms = {recipe.loss: (share * soft_loss(student_logits, teacher_logits, recipe.temperature)).mean()}
        known = int((hard[chosen] >= 0).sum())
        if recipe.hard_weight and known:  # the mean over the rows with a true label, however few are in the batch
            each = cross_entropy(student_logits, hard[chosen], ignore_index=-1, reduction="none")
            terms["cross-entropy"] = recipe.hard_weight * (share * each).sum() / known
        return terms

    return loss_of


def quality_on_dev(logits: np.ndarray, dataset: Dataset, metric: Metric) -> float:
    """Under the project's metric; a threshold that the metric needs is fitted on the same rows."""
    assert dataset.dev.labels is not None
    threshold = None
    if metric.name == "recall_at_false_alarm":
        threshold = fit_threshold(metric, logits, dataset.dev.labels, dataset.classes, dataset.dev.weights)
    return score(metric, logits, dataset.dev.labels, dataset.classes, threshold, dataset.dev.weights)


def torch_logits(module: torch.nn.Module, encoded: Encoded) -> np.ndarray:
    """float32 (N, C), in length-sorted batches."""
    import numpy as np
    import torch

    order = np.argsort(encoded.lengths, kind="stable")
    blocks = [order[i : i + EVALUATION_ROWS] for i in range(0, len(order), EVALUATION_ROWS)]
    with torch.no_grad():
        parts = [module(torch.from_numpy(encoded.batch(b))).float().numpy() for b in blocks]
    result = np.empty((len(order), parts[0].shape[1]), dtype=np.float32)
    result[order] = np.concatenate(parts)
    return result
