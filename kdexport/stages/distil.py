"""distil: train one student on the cached soft labels, and export it as one graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.backbones import backbone_of, count_params
from kdexport.export.onnx import INPUT_NAMES, export_graph
from kdexport.nouns.measurement import Decision
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe, Student
from kdexport.storage.files import replacing, sha256_file, write_bytes
from kdexport.tasks import Prepared, Task
from kdexport.training.loop import Progress
from kdexport.training.precision import measure_bf16
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels
from kdexport.training.student import Curriculum, Trained, objective, train_student

if TYPE_CHECKING:
    pass

VERSION = 4
CHECKPOINT = "checkpoint.safetensors"  # removed by the pipeline, once the stage's result is written
BF16_TRIALS = 10  # steps of each precision, in turn


def distil(spec: StudentSpec, curriculum: Curriculum, folder: Path, progress: Progress | None) -> Student:
    """Trained as `train_student` says, then written to `folder`: weights, one ONNX graph, the tokenizer."""
    trained = train_student(spec, curriculum, folder / CHECKPOINT, progress)
    return _write(trained, spec, curriculum.prepared, curriculum.recipe, curriculum.bf16, folder)


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
    import numpy as np
    import torch

    torch.set_num_threads(recipe.threads)
    module = backbone_of(spec).build(spec, num_classes, dropout=recipe.dropout)
    first = rows.take(np.arange(min(recipe.batch_size, len(rows.inputs))))
    encoded = task.encode(prepared, first.inputs)
    every = np.arange(len(first.inputs))
    return measure_bf16(objective(module, encoded, first, labels, recipe), module, every, BF16_TRIALS)


def _write(
    trained: Trained, spec: StudentSpec, prepared: Prepared, recipe: Recipe, bf16: bool, folder: Path
) -> Student:
    import numpy as np
    import torch
    from safetensors.torch import save_file

    module, dev = trained.module, trained.dev
    input_kind = backbone_of(spec).input_kind
    with replacing(folder / "model.safetensors") as temporary:
        save_file({k: v.detach().contiguous() for k, v in module.state_dict().items()}, temporary)
    name = INPUT_NAMES[input_kind]
    example = torch.from_numpy(dev.batch(np.arange(min(2, len(dev.lengths)))))
    export_graph(module, [example], [name], folder / "model.onnx", tokens=input_kind == "text")
    if prepared.tokenizer_json:
        write_bytes(folder / "tokenizer.json", prepared.tokenizer_json.encode())
    embeddings = sum(m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Embedding))
    return Student(
        spec=spec.model_dump(),
        num_params=count_params(module),
        num_params_without_embeddings=count_params(module) - embeddings,
        recipe=recipe,
        losses=trained.history.losses,
        dev_quality=trained.history.dev_quality,
        terms=trained.history.terms,
        gradient_norms=trained.history.gradient_norms,
        calibration_temperature=trained.temperature,
        bf16=bf16,
        preprocessor=prepared.preprocessor,
        tokenizer="tokenizer.json" if prepared.tokenizer_json else "",
        weights_sha256=sha256_file(folder / "model.safetensors"),
    )
