from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from kdexport.backbones import backbone_of, parse_spec
from kdexport.dataset import Dataset, Split
from kdexport.export.onnx import export_graph
from kdexport.nouns.metric import Metric
from kdexport.nouns.student import EngineChoice, Student
from kdexport.stages import distil, engines, quantise
from kdexport.storage.files import sha256_file
from kdexport.storage.tables import Raw
from kdexport.tasks import Task, load_task
from kdexport.training.quantisation_aware import Scheme
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels
from kdexport.training.student import Curriculum
from tests.stages.test_distil import recipe
from tests.stages.test_engines_and_bench import device, target

CLASSES = tuple(f"intent{i}" for i in range(12))
WORDS = [f"{chr(97 + i)}{chr(97 + j)}" for i in range(12) for j in range(6)]  # six of them belong to each class
OUTLIER = 200.0


def texts(count: int, seed: int) -> tuple[list[Raw], np.ndarray]:
    """Three words of the class and two of any; one row in twenty is labelled at random, so that no model is sure."""
    chance = random.Random(seed)
    labels = [chance.randrange(12) for _ in range(count)]
    rows: list[Raw] = []
    for label in labels:
        words = chance.sample(WORDS[6 * label : 6 * label + 6], 3) + chance.sample(WORDS, 2)
        rows.append(" ".join(chance.sample(words, 5)))
    return rows, np.array([chance.randrange(12) if chance.random() < 0.05 else label for label in labels])


def teacher(inputs: list[Raw]) -> np.ndarray:
    """Log-probabilities (N, C): the surer, the more words of a class stand in the text."""
    class_of = {word: i // 6 for i, word in enumerate(WORDS)}
    counts = np.array([np.bincount([class_of[w] for w in str(text).split()], minlength=12) for text in inputs])
    logits = 2.0 * counts
    return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)), dtype=np.float16)


@dataclass(frozen=True)
class Course:
    """A student of made-up intents, and everything that it learns from."""

    student: Student
    folder: Path
    rows: TransferSet
    labels: SoftLabels
    dataset: Dataset
    task: Task

    def choice(self, folder: Path, student: Student, source: Path, always: bool = False) -> EngineChoice:
        def finished(scheme: Scheme) -> tuple[Student, Path, engines.Inputs]:
            own = folder / f"quantise-{scheme}"
            own.mkdir(exist_ok=True)
            made = quantise.quantise(
                student, source, scheme, self.rows, self.labels, self.dataset, self.task, own, None
            )
            return made, own, engines.prepare_inputs(made, own, self.dataset, self.task)

        inputs = engines.prepare_inputs(student, source, self.dataset, self.task)
        where = target(["onnxruntime"], ["fp32", "int8"])
        return engines.engines(
            student, source, inputs, self.dataset, Metric(), where, device(), 1, "e", lambda measure: measure(), folder,
            engines.Finishing(finished, always),
        )  # fmt: skip

    def with_outlier(self, folder: Path) -> Student:
        """The same answers, one channel times OUTLIER before the classifier and as much less inside it."""
        spec = parse_spec(self.student.spec)
        weights = load_file(self.folder / self.student.weights)
        size = weights["attention.weight"].shape[1]
        for name in ("layers.0.weight", "layers.0.bias"):
            weights[name][0] *= OUTLIER
        weights["attention.weight"][:, 0] /= OUTLIER
        weights["classifier.weight"][:, [0, size]] /= OUTLIER
        module = backbone_of(spec).build(spec, len(CLASSES))
        module.load_state_dict(weights)
        save_file(weights, folder / self.student.weights)
        (folder / "tokenizer.json").write_bytes((self.folder / "tokenizer.json").read_bytes())
        example = engines.prepare_inputs(self.student, self.folder, self.dataset, self.task).dev.batch(np.array([0, 1]))
        import torch

        export_graph(module, [torch.from_numpy(example)], ["input_ids"], folder / self.student.graph, tokens=True)
        return self.student.model_copy(update={"weights_sha256": sha256_file(folder / self.student.weights)})


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    folder, task = tmp_path_factory.mktemp("student"), load_task("text_classification")
    (train, truth), (dev, dev_truth) = texts(2500, 1), texts(1000, 2)
    rows = TransferSet(train, truth, np.arange(len(train)))
    labels, held = SoftLabels("key", teacher(train)), Split(tuple(dev), dev_truth)
    dataset = Dataset(CLASSES, Split(tuple(train), truth), held, held, (), (), (), "hash")
    prepared = task.prepare(train, "", 0)
    fields = {"backbone": "convolution", "embedding_size": 16, "hidden_size": 24, "vocab_size": prepared.vocab_size}
    settings = recipe(epochs=10, batch_size=32, learning_rate=0.01, dropout=0.0)
    curriculum = Curriculum(prepared, rows, labels, dataset, task, Metric(), settings, None, False)
    student = distil.distil(parse_spec(fields), curriculum, folder, None)
    return Course(student, folder, rows, labels, dataset, task)


def quality_of(choice: EngineChoice, precision: str, finished: bool = False) -> Any:
    return next(r.quality for r in choice.tried if (r.precision, r.finished) == (precision, finished))


def test_where_an_outlier_ruins_int8_the_finish_repairs_some_of_the_loss_and_is_kept(
    course: Course, tmp_path: Path
) -> None:
    student = course.with_outlier(tmp_path)
    choice = course.choice(tmp_path, student, tmp_path)
    (found,) = choice.finishes
    assert found.before is not None
    assert found.after is not None
    assert found.fp32 - found.before > engines.MAX_INT8_LOSS
    assert found.after > found.before
    assert found.kept
    assert quality_of(choice, "int8", finished=True) == found.after


def test_where_int8_loses_nothing_no_training_is_spent(course: Course, tmp_path: Path) -> None:
    choice = course.choice(tmp_path, course.student, course.folder)
    assert choice.finishes == ()
    assert quality_of(choice, "fp32") - quality_of(choice, "int8") <= engines.MAX_INT8_LOSS
