"""bundle: what is deployed, written once. Holds no latency: the same decisions give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdexport
from kdexport.bundle.write import bundle_sha256, write_bundle
from kdexport.dataset import Dataset
from kdexport.export.onnx import INPUT_NAMES, OUTPUT_NAME
from kdexport.nouns.base import Noun
from kdexport.nouns.manifest import Manifest
from kdexport.nouns.profile import Precision
from kdexport.nouns.project import Project
from kdexport.nouns.student import EngineChoice, Student
from kdexport.nouns.target import Target
from kdexport.nouns.teacher import TeacherSet
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared, Task

VERSION = 2
GOLDEN_ROWS = 16
GRAPH = "model.onnx"  # of an engine built ahead of time, too: build.py can build it again


class Bundle(Noun):
    path: str
    sha256: str
    bytes_loaded: int
    artifact: str
    runtime: str
    precision: Precision


def bundle(
    project: Project,
    target: Target,
    dataset: Dataset,
    task: Task,
    teachers: TeacherSet,
    student: Student,
    student_folder: Path,
    choice: EngineChoice,
    engines_folder: Path,
    folder: Path,
) -> Bundle:
    """Write `folder`. Golden rows come from dev and carry the reference logits of the graph."""
    engine = engines_folder / choice.file if choice.file else student_folder / student.graph
    model_name = engine.name if choice.artifact == "engine" and choice.file else GRAPH
    files: dict[str, Path | bytes] = {model_name: engine}
    if student.tokenizer:
        files["tokenizer.json"] = student_folder / student.tokenizer
    if engine.suffix == ".xml":
        files[engine.with_suffix(".bin").name] = engine.with_suffix(".bin")
    if choice.artifact == "engine" and choice.runtime.startswith("tensorrt"):
        files[GRAPH] = engines_folder / choice.graph if choice.graph else student_folder / student.graph
    manifest = Manifest(
        name=project.name,
        task=project.task,
        target=target.id,
        artifact=choice.artifact,
        runtime=choice.runtime,
        precision=choice.precision,
        threads=project.threads,
        max_batch=target.max_batch,
        labels=dataset.classes,
        model=model_name,
        input_name=INPUT_NAMES[task.input_kind],
        output_name=OUTPUT_NAME,
        preprocessor=student.preprocessor,
        abstain_below=choice.threshold if project.metric.abstention else None,
        lineage=_lineage(project, dataset, teachers, student),
        figures={
            "dev_quality": {"metric": project.metric.name, "value": choice.dev_quality, "n": len(dataset.dev)},
            "parity": choice.parity.model_dump(),
            "verified_on": choice.verified_on,
            "notes": list(choice.notes),
        },
    )
    golden = _golden(student, student_folder, dataset, task)
    written = write_bundle(folder, manifest, files, golden=golden)
    return Bundle(
        path=str(folder),
        sha256=bundle_sha256(folder),
        bytes_loaded=bytes_loaded(written),
        artifact=choice.artifact,
        runtime=choice.runtime,
        precision=choice.precision,
    )


def bytes_loaded(written: Manifest) -> int:
    """What answering reads: model, its weights, tokenizer; not the graph that lies beside an engine."""
    weights = str(Path(written.model).with_suffix(".bin"))
    return sum(f.bytes for f in written.files if f.path in (written.model, weights, written.preprocessor.tokenizer))


def _golden(student: Student, student_folder: Path, dataset: Dataset, task: Task) -> list[tuple[Raw, list[float]]]:
    import numpy as np

    from kdexport.runtimes.onnxruntime import open_engine

    tokenizer = (student_folder / student.tokenizer).read_text() if student.tokenizer else ""
    rows = dataset.dev.inputs[:GOLDEN_ROWS]
    encoded = task.encode(Prepared(student.preprocessor, tokenizer), rows)
    engine = open_engine(student_folder / student.graph, 1)
    name = INPUT_NAMES[task.input_kind]
    logits = [engine.run({name: encoded.batch(np.array([i]))})[0] for i in range(len(rows))]
    return [(raw, [round(float(v), 5) for v in row]) for raw, row in zip(rows, logits, strict=True)]


def _lineage(project: Project, dataset: Dataset, teachers: TeacherSet, student: Student) -> dict[str, Any]:
    return {
        "kdexport": kdexport.__version__,
        "teachers": [
            {"name": m.name, "sha256": m.sha256, "weight": m.weight, "licence": m.licence.model_dump()}
            for m in teachers.members
        ],
        "data_sha256": dataset.sha256,
        "rows": {"train": len(dataset.train), "dev": len(dataset.dev), "unlabelled": len(dataset.unlabelled)},
        "recipe": student.recipe.model_dump(),
        "bf16": student.bf16,
        "spec": student.spec,
        "weights_sha256": student.weights_sha256,
    }
