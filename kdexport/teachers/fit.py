"""A teacher that kdexport trains on the project's own rows, dev held out: a fine-tuned base model (text), or a
backbone from nothing. Writes a model folder that is then read like any other teacher."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.backbones import backbone_of, parse_spec
from kdexport.errors import BadInput, Unsupported
from kdexport.nouns.measurement import Decision
from kdexport.nouns.project import Fit, TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.storage.files import read_json, replacing, write_bytes, write_json
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared, Task, load_task
from kdexport.teachers import TeacherContext, model
from kdexport.training.loop import Progress, Schedule, Terms, train
from kdexport.training.precision import measure_bf16

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)
FITTED = "fitted"
BF16_TRIALS = 3  # steps of each precision, in turn, that a choice rests on: a step takes a second or two
BASE_CHECKPOINT_SECONDS = 60.0  # a base model's moments are hundreds of megabytes
BACKBONE_CHECKPOINT_SECONDS = 30.0
WORTH_MEASURING_STEPS = 2000  # a shorter fit of a backbone stays in fp32
AUGMENT_PER_ROW = 4  # turned views of each picture that a fitted teacher sees


def ready(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    assert source.fit is not None
    fitted = fit(source.fit, context, folder, None)
    member = model.ready(source.model_copy(update={"model": fitted, "fit": None, "trained_on": ()}), context, folder)
    return member.model_copy(update={"kind": "fit", "source": _described(source), "name": _described(source)})


def check(source: TeacherSource, context: TeacherContext) -> None:
    """The base model's files, or the backbone's spec."""
    assert source.fit is not None
    if context.train_labels is None:
        raise BadInput("a teacher cannot be fitted on unlabelled data; data.labelled is false")
    if source.fit.base is not None:
        model.check_base(source.fit.base)
    else:
        parse_spec(source.fit.spec or {}, "fit.spec")


def content(source: TeacherSource) -> str:
    """Of the base model; a backbone's spec stands in the project itself."""
    base = source.fit.base if source.fit else None
    return model.weights_hash(base) if base and base.is_dir() else ""


def answer(source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw], folder: Path) -> np.ndarray:
    raise AssertionError("a fitted model is run as a graph")


def fit(settings: Fit, context: TeacherContext, folder: Path, progress: Progress | None) -> Path:
    """Train, and write `folder`/fitted whole. Resumes after a kill. Returns that folder."""
    fitted = folder / FITTED
    if not fitted.is_dir():
        scratch = folder / f".{FITTED}.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        if settings.base is not None:
            _fine_tune(settings, settings.base, context, folder, scratch, progress)
        else:
            _train_backbone(settings, context, folder, scratch, progress)
        scratch.rename(fitted)
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return fitted


def _fine_tune(
    settings: Fit, base: Path, context: TeacherContext, folder: Path, out: Path, progress: Progress | None
) -> None:
    import torch

    if load_task(context.project.task).input_kind != "text":
        raise Unsupported("a base model can be fine-tuned for text; for images give 'spec' (a backbone)")
    torch.manual_seed(settings.seed)
    network = model.load_classifier(base, num_labels=len(context.classes))
    limit = model.write_tokenizer(base, out)
    tokens = _TokenBatches(out / "tokenizer.json", context.train_inputs, network.config.pad_token_id or 0)
    assert context.train_labels is not None
    assert context.dev_labels is not None
    targets, weights = torch.from_numpy(context.train_labels), _weights(context, 1)

    def loss_of(rows: np.ndarray) -> Terms:
        logits = network(**tokens.batch(rows)).logits
        return _loss(logits, targets, weights, rows, settings.label_smoothing)

    torch.set_num_threads(context.threads)
    bf16 = _bf16(loss_of, network, tokens.lengths, settings.batch_size, folder / "precision.json")
    schedule = replace(_schedule(settings, context, BASE_CHECKPOINT_SECONDS), bf16=bf16)
    dev = _TokenBatches(out / "tokenizer.json", context.dev_inputs, network.config.pad_token_id or 0)
    evaluate = _accuracy_on(lambda judged, rows: judged(**dev.batch(rows)).logits, context.dev_labels, dev.lengths)
    train(network, tokens.lengths, loss_of, schedule, folder / "checkpoint.safetensors", evaluate, progress)
    network.config.id2label = dict(enumerate(context.classes))
    network.config.label2id = {c: i for i, c in enumerate(context.classes)}
    network.save_pretrained(str(out), safe_serialization=True)
    _copy_tokenizer_settings(base, out, limit)


def _bf16(
    loss_of: Callable[[np.ndarray], Terms],
    network: torch.nn.Module,
    lengths: np.ndarray,
    batch_size: int,
    path: Path,
) -> bool:
    """Is bf16 measured faster on a batch of typical length? Measured once: a fit that goes on reads it from `path`."""
    import numpy as np

    if not path.is_file():
        order = np.argsort(lengths, kind="stable")
        start = max(0, (len(order) - batch_size) // 2)
        decision = measure_bf16(loss_of, network, order[start : start + batch_size], BF16_TRIALS)
        write_json(path, decision)
        log.info("fit precision=%s (%s)", decision.choice, decision.reason)
    return Decision.model_validate(read_json(path)).choice == "bf16"


def _copy_tokenizer_settings(base: Path, out: Path, limit: int) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    config = read_json(out / "config.json")
    config["max_position_embeddings"] = config.get("max_position_embeddings", limit)
    write_json(out / "config.json", config)


class _TokenBatches:
    def __init__(self, tokenizer: Path, inputs: Sequence[Raw], pad_id: int) -> None:
        from kdexport.nouns.manifest import Preprocessor
        from kdexport.tasks import Prepared, text_classification

        declared = Preprocessor(kind="text", tokenizer=tokenizer.name, max_length=model.MAX_LENGTH, pad_id=pad_id)
        prepared = Prepared(declared, tokenizer.read_text())
        self.encoded = text_classification.encode(prepared, inputs)
        self.lengths = self.encoded.lengths
        self.pad_id = pad_id

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        import torch

        ids = torch.from_numpy(self.encoded.batch(rows))
        return {"input_ids": ids, "attention_mask": (ids != self.pad_id).long()}


def _train_backbone(settings: Fit, context: TeacherContext, folder: Path, out: Path, progress: Progress | None) -> None:
    """A backbone from nothing, on the rows and (pictures) views of them."""
    import torch
    from safetensors.torch import save_file

    task = load_task(context.project.task)
    spec = parse_spec(settings.spec or {}, "teachers: fit: spec")
    assert context.dev_labels is not None
    lessons = _lessons(task, context, settings.seed)
    targets = torch.from_numpy(lessons.labels)
    weights = _weights(context, len(targets) // len(context.train_inputs))
    torch.set_num_threads(context.threads)
    torch.manual_seed(settings.seed)
    network = backbone_of(spec).build(spec, len(context.classes), dropout=0.1)

    def loss_of(rows: np.ndarray) -> Terms:
        logits = network(torch.from_numpy(lessons.batch(rows)))
        return _loss(logits, targets, weights, rows, settings.label_smoothing)

    dev = task.encode(lessons.prepared, context.dev_inputs)
    evaluate = _accuracy_on(
        lambda judged, rows: judged(torch.from_numpy(dev.batch(rows))), context.dev_labels, dev.lengths
    )
    schedule = _schedule(settings, context, BACKBONE_CHECKPOINT_SECONDS)
    if schedule.epochs * schedule.steps_per_epoch(len(targets)) >= WORTH_MEASURING_STEPS:
        schedule = replace(
            schedule, bf16=_bf16(loss_of, network, lessons.lengths, settings.batch_size, folder / "precision.json")
        )
    train(network, lessons.lengths, loss_of, schedule, folder / "checkpoint.safetensors", evaluate, progress)
    with replacing(out / "model.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, temporary)
    write_json(out / "spec.json", spec)
    write_json(out / "labels.json", list(context.classes))
    write_json(out / "preprocessor.json", lessons.prepared.preprocessor)
    if lessons.prepared.tokenizer_json:
        write_bytes(out / "tokenizer.json", lessons.prepared.tokenizer_json.encode())


def _weights(context: TeacherContext, times: int) -> torch.Tensor | None:
    """Of the rows in their order, so many times over; mean 1."""
    import numpy as np
    import torch

    if context.train_weights is None:
        return None
    return torch.from_numpy(np.tile(context.train_weights / context.train_weights.mean(), times)).float()


def _loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, rows: np.ndarray, smoothing: float
) -> Terms:
    """Cross-entropy of those rows, each weighed as production does. targets, weights: of all rows."""
    import torch
    from torch.nn.functional import cross_entropy

    chosen = torch.from_numpy(rows)
    if weights is None:
        return {"cross-entropy": cross_entropy(logits.float(), targets[chosen], label_smoothing=smoothing)}
    each = cross_entropy(logits.float(), targets[chosen], label_smoothing=smoothing, reduction="none")
    return {"cross-entropy": (weights[chosen] * each).mean()}


@dataclass(frozen=True)
class _Lessons:
    """What a backbone is fitted on: batch(rows) -> its input; labels: int64 (N,); lengths: (N,) tokens a row."""

    prepared: Prepared
    batch: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray
    lengths: np.ndarray


def _lessons(task: Task, context: TeacherContext, seed: int) -> _Lessons:
    """Texts as they are. Pictures in a new view each time that they are met, where a mirror image keeps its class;
    else with a few turned views each."""
    import numpy as np

    from kdexport.tasks import image_classification

    assert context.train_labels is not None
    inputs, labels = context.train_inputs, context.train_labels
    prepared = task.prepare(inputs, "", 0)
    if task.input_kind == "image" and image_classification.mirrors(inputs, labels):
        pictures = image_classification.encode(prepared, inputs)
        return _Lessons(prepared, pictures.drawn, labels, pictures.lengths)
    per_row = AUGMENT_PER_ROW if task.input_kind == "image" else 0
    encoded = task.encode(prepared, [*inputs, *task.augment(inputs, per_row, seed)])
    return _Lessons(prepared, encoded.batch, np.tile(labels, 1 + per_row), encoded.lengths)


def _schedule(settings: Fit, context: TeacherContext, checkpoint_seconds: float) -> Schedule:
    return Schedule(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        threads=context.threads,
        checkpoint_seconds=checkpoint_seconds,
    )


def _accuracy_on(
    logits_of: Callable[[Any, np.ndarray], torch.Tensor], labels: np.ndarray, lengths: np.ndarray
) -> Callable[[torch.nn.Module], float]:
    """lengths: (N,) tokens of each row; rows of a length are asked together."""

    def evaluate(judged: torch.nn.Module) -> float:
        import numpy as np
        import torch

        with torch.no_grad():
            blocks = np.array_split(np.argsort(lengths, kind="stable"), max(1, len(labels) // 64))
            right = sum(int((logits_of(judged, b).argmax(-1).numpy() == labels[b]).sum()) for b in blocks if len(b))
        return right / max(1, len(labels))

    return evaluate


def _described(source: TeacherSource) -> str:
    fit = source.fit or Fit()
    base = fit.base.name if fit.base else str((fit.spec or {}).get("backbone"))
    return f"{base} fitted here, seed {fit.seed}"
