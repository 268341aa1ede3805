"""distil: train one student on the cached soft labels, and export it as one graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.backbones import Backbone, backbone_of, count_params
from kdexport.dataset import Dataset
from kdexport.export.onnx import INPUT_NAMES, export_graph
from kdexport.losses import load_loss
from kdexport.measure.metrics import score
from kdexport.nouns.measurement import Decision
from kdexport.nouns.metric import Metric
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe, Student
from kdexport.storage.files import replacing, sha256_file, write_bytes
from kdexport.tasks import Encoded, Prepared, Task
from kdexport.training.loop import Progress, Schedule, train
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels

if TYPE_CHECKING:
    import numpy as np
    import torch

VERSION = 2
CHECKPOINT = "checkpoint.safetensors"  # removed by the pipeline, once the stage's result is written
BF16_TRIALS = 12  # steps of each precision, in turn
BF16_GAIN = 1.1  # faster than this, or fp32 stays
CHECKPOINT_SECONDS = 5.0
EVALUATION_ROWS = 512


def distil(
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
    folder: Path,
    progress: Progress | None,
) -> Student:
    """Soft loss + hard_weight x cross-entropy on the rows with a true label. embedding: the teacher's (V, D), trimmed.

    Given the same precision, seed, thread count and ISA the weights are the same to the bit."""
    import torch

    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    backbone = backbone_of(spec)
    module = backbone.build(spec, len(dataset.classes), dropout=recipe.dropout)
    if embedding is not None:
        backbone.initialise(module, embedding)
    encoded = task.encode(prepared, rows.inputs)
    loss_of = _objective(module, encoded, rows, labels, recipe)
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
    evaluate = _dev_quality(module, dev, dataset, metric)
    history = train(module, encoded.lengths, loss_of, schedule, folder / CHECKPOINT, evaluate, progress)
    return _write(
        module, spec, prepared, recipe, history.losses, history.dev_quality, schedule.bf16, backbone, dev, folder
    )


def _objective(
    module: torch.nn.Module, encoded: Encoded, rows: TransferSet, labels: SoftLabels, recipe: Recipe
) -> Callable[[np.ndarray], torch.Tensor]:
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


def decide_precision(
    spec: StudentSpec,
    prepared: Prepared,
    rows: TransferSet,
    labels: SoftLabels,
    task: Task,
    num_classes: int,
    recipe: Recipe,
) -> Decision:
    """bf16 where it is measured faster: a module of its own, and the first batch alone."""
    import torch

    torch.set_num_threads(recipe.threads)
    module = backbone_of(spec).build(spec, num_classes, dropout=recipe.dropout)
    first = TransferSet(rows.inputs[: recipe.batch_size], rows.hard[: recipe.batch_size])
    encoded = task.encode(prepared, first.inputs)
    return measure_bf16(_objective(module, encoded, first, labels, recipe), module, encoded.lengths, recipe)


def measure_bf16(
    loss_of: Callable[[np.ndarray], torch.Tensor], module: torch.nn.Module, lengths: np.ndarray, recipe: Recipe
) -> Decision:
    """Time forward and backward of a few batches in each precision, in turn. The module and the random state are
    left as they were: whether this was measured or read from a decision file changes no weight."""
    import numpy as np
    import torch

    random_state = torch.get_rng_state()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    module.train()
    rows = np.arange(min(recipe.batch_size, len(lengths)))
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(BF16_TRIALS):
        for name, samples in seconds.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                loss = loss_of(rows)
            loss.backward()  # type: ignore[no-untyped-call]
            samples.append(time.perf_counter() - start)
    module.zero_grad(set_to_none=True)
    module.load_state_dict(before)
    torch.set_rng_state(random_state)
    medians = {name: float(np.median(samples[2:])) * 1e3 for name, samples in seconds.items()}
    gain = medians["fp32"] / medians["bf16"]
    choice = "bf16" if gain >= BF16_GAIN else "fp32"
    reason = f"bf16 is {gain:.2f} times as fast as fp32 in training here; it is used from {BF16_GAIN} times"
    return Decision(name="training precision", choice=choice, reason=reason, candidates=medians, unit="ms per step")


def _dev_quality(module: torch.nn.Module, dev: Encoded, dataset: Dataset, metric: Metric) -> Callable[[], float]:
    def evaluate() -> float:
        assert dataset.dev.labels is not None
        logits = torch_logits(module, dev)
        if metric.name == "recall_at_false_alarm":
            from kdexport.measure.metrics import fit_threshold

            threshold = fit_threshold(metric, logits, dataset.dev.labels, dataset.classes)
            return score(metric, logits, dataset.dev.labels, dataset.classes, threshold)
        return score(metric, logits, dataset.dev.labels, dataset.classes)

    return evaluate


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


def _write(
    module: torch.nn.Module,
    spec: StudentSpec,
    prepared: Prepared,
    recipe: Recipe,
    losses: tuple[float, ...],
    dev_quality: tuple[float, ...],
    bf16: bool,
    backbone: Backbone,
    dev: Encoded,
    folder: Path,
) -> Student:
    import numpy as np
    import torch
    from safetensors.torch import save_file

    module.eval()
    with replacing(folder / "model.safetensors") as temporary:
        save_file({k: v.detach().contiguous() for k, v in module.state_dict().items()}, temporary)
    name = INPUT_NAMES[backbone.input_kind]
    example = torch.from_numpy(dev.batch(np.arange(min(2, len(dev.lengths)))))
    export_graph(module, [example], [name], folder / "model.onnx", tokens=backbone.input_kind == "text")
    if prepared.tokenizer_json:
        write_bytes(folder / "tokenizer.json", prepared.tokenizer_json.encode())
    embeddings = sum(m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Embedding))
    return Student(
        spec=spec.model_dump(),
        num_params=count_params(module),
        num_params_without_embeddings=count_params(module) - embeddings,
        recipe=recipe,
        losses=losses,
        dev_quality=dev_quality,
        bf16=bf16,
        preprocessor=prepared.preprocessor,
        tokenizer="tokenizer.json" if prepared.tokenizer_json else "",
        weights_sha256=sha256_file(folder / "model.safetensors"),
    )
