"""quantise: a student distilled on with int8 in the loop, where int8 would lose too much; the same files again."""

from __future__ import annotations

from pathlib import Path

from kdexport.backbones import backbone_of, parse_spec
from kdexport.dataset import Dataset
from kdexport.export.onnx import INPUT_NAMES, export_graph
from kdexport.nouns.student import Student
from kdexport.storage.files import replacing, sha256_file, write_bytes
from kdexport.tasks import Prepared, Task
from kdexport.training.loop import Progress
from kdexport.training.quantisation_aware import Scheme, finish
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels
from kdexport.training.student import calibrate

VERSION = 1
CHECKPOINT = "checkpoint.safetensors"  # removed by the pipeline, once the stage's result is written


def quantise(
    student: Student,
    student_folder: Path,
    scheme: Scheme,
    rows: TransferSet,
    labels: SoftLabels,
    dataset: Dataset,
    task: Task,
    folder: Path,
    progress: Progress | None,
) -> Student:
    """Goes on from the student's weights on the labels that it learnt from, calibrated again on dev, and is written to
    `folder` as the student was: fp32 weights and graph, from which the engine's own quantiser makes int8."""
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file

    spec, recipe = parse_spec(student.spec), student.recipe
    torch.manual_seed(recipe.seed)
    tokenizer = (student_folder / student.tokenizer).read_text() if student.tokenizer else ""
    prepared = Prepared(student.preprocessor, tokenizer)
    module = backbone_of(spec).build(spec, len(dataset.classes))
    module.load_state_dict(load_file(student_folder / student.weights))
    with torch.no_grad():  # what it learnt from: sharpened or flattened for dev, it would first unlearn that
        for weights in module.classifier.parameters():  # type: ignore[union-attr]
            weights *= student.calibration_temperature
    finish(module, task.encode(prepared, rows.inputs), rows, labels, recipe, scheme, folder / CHECKPOINT, progress)
    dev = task.encode(prepared, dataset.dev.inputs)
    temperature = calibrate(module, dev, dataset) if dataset.train.labels is not None else 1.0
    with replacing(folder / student.weights) as temporary:
        save_file({k: v.detach().contiguous() for k, v in module.state_dict().items()}, temporary)
    example = torch.from_numpy(dev.batch(np.arange(min(2, len(dev.lengths)))))
    name = INPUT_NAMES[task.input_kind]
    export_graph(module, [example], [name], folder / student.graph, tokens=task.input_kind == "text")
    if student.tokenizer:
        write_bytes(folder / student.tokenizer, tokenizer.encode())
    return student.model_copy(
        update={
            "calibration_temperature": temperature,
            "weights_sha256": sha256_file(folder / student.weights),
        }
    )
