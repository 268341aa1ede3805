"""One student on one schedule: what the distil stage exports, and what a rung of the ladder is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.backbones import backbone_of
from kdexport.dataset import Dataset
from kdexport.losses import load_loss
from kdexport.measure.metrics import fit_threshold, score
from kdexport.nouns.metric import Metric
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.tasks import Encoded, Prepared, Task
from kdexport.training.loop import History, Progress, Schedule, train
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels

if TYPE_CHECKING:
    import numpy as np
    import torch

CHECKPOINT_SECONDS = 5.0
EVALUATION_ROWS = 512


@dataclass(frozen=True)
class Trained:
    """The module at the end of its schedule, in evaluation mode. dev: the rows that it was judged on."""

    module: torch.nn.Module
    history: History
    dev: Encoded


def train_student(
    spec: StudentSpec,
    prepared: Prepared,
    rows: TransferSet,
    labels: SoftLabels,
    dataset: Dataset,
    task: Task,
    metric: Metric,
    recipe: Recipe,
    embedding: np.ndarray | None,
    bf16: bool,
    checkpoint: Path,
    progress: Progress | None,
) -> Trained:
    """Soft loss + hard_weight x cross-entropy on the rows with a true label. embedding: the teacher's (V, D), trimmed.

    Resumes from `checkpoint`. Given the same precision, seed, thread count and ISA the weights are the same to the
    bit."""
    import torch

    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    backbone = backbone_of(spec)
    module = backbone.build(spec, len(dataset.classes), dropout=recipe.dropout)
    if embedding is not None:
        backbone.initialise(module, embedding)
    encoded = task.encode(prepared, rows.inputs)
    schedule = Schedule(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        threads=recipe.threads,
        bf16=bf16,
        checkpoint_seconds=CHECKPOINT_SECONDS,
    )
    dev = task.encode(prepared, dataset.dev.inputs)
    loss_of = objective(module, encoded, rows, labels, recipe)
    evaluate = _dev_quality(module, dev, dataset, metric)
    history = train(module, encoded.lengths, loss_of, schedule, checkpoint, evaluate, progress)
    module.eval()
    return Trained(module, history, dev)


def objective(
    module: torch.nn.Module, encoded: Encoded, rows: TransferSet, labels: SoftLabels, recipe: Recipe
) -> Callable[[np.ndarray], torch.Tensor]:
    """rows -> scalar loss in nats, as the recipe weighs it."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    soft_loss = load_loss(recipe.loss)
    hard = torch.from_numpy(rows.hard)

    def loss_of(indices: np.ndarray) -> torch.Tensor:
        student_logits = module(torch.from_numpy(encoded.batch(indices))).float()
        teacher_logits = torch.from_numpy(np.array(labels.logits[indices]))
        loss = soft_loss(student_logits, teacher_logits, recipe.temperature)
        if recipe.hard_weight:
            targets = hard[torch.from_numpy(indices)]
            known = int((targets >= 0).sum())
            if known:  # the mean over the rows with a true label, however few they are in the batch
                hard_loss = cross_entropy(student_logits, targets, ignore_index=-1, reduction="sum")
                loss = loss + recipe.hard_weight * hard_loss / known
        return loss

    return loss_of


def quality_on_dev(logits: np.ndarray, dataset: Dataset, metric: Metric) -> float:
    """Under the project's metric; a threshold that the metric needs is fitted on the same rows."""
    assert dataset.dev.labels is not None
    threshold = None
    if metric.name == "recall_at_false_alarm":
        threshold = fit_threshold(metric, logits, dataset.dev.labels, dataset.classes)
    return score(metric, logits, dataset.dev.labels, dataset.classes, threshold)


def _dev_quality(module: torch.nn.Module, dev: Encoded, dataset: Dataset, metric: Metric) -> Callable[[], float]:
    return lambda: quality_on_dev(torch_logits(module, dev), dataset, metric)


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
