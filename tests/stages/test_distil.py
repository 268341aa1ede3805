from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from kdexport.backbones import backbone_of, count_params, parse_spec
from kdexport.dataset import Dataset, Split
from kdexport.losses.kl import loss as kl
from kdexport.nouns.metric import Metric
from kdexport.nouns.student import Recipe, Student
from kdexport.runtimes.onnxruntime import open_engine
from kdexport.stages import distil
from kdexport.storage.files import sha256_file
from kdexport.storage.tables import Raw
from kdexport.tasks import Encoded, Prepared, Task, load_task
from kdexport.training.loop import Terms
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels
from kdexport.training.student import Curriculum, calibrate, objective, torch_logits
from tests.tasks.conftest import picture

CLASSES = ("card", "pay", "refund")
TEXTS: list[Raw] = [f"{word} number {i}" for i in range(10) for word in CLASSES]
PICTURES: list[Raw] = [picture("L", 8, 8, seed) for seed in range(30)]
TEXT = {"backbone": "convolution", "vocab_size": 0, "embedding_size": 4, "hidden_size": 8}
IMAGE = {"backbone": "image_convolution", "channels": 1, "width": 2}
LABELS = np.tile(np.arange(3), 10)
LOG_PROBS = log_softmax(8.0 * torch.eye(3)[LABELS], -1).half().numpy()


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "epochs": 2, "batch_size": 8, "learning_rate": 0.01, "temperature": 1.0, "hard_weight": 0.1, "loss": "kl",
        "augment_per_row": 0, "dropout": 0.3, "seed": 1, "threads": 1,
    }  # fmt: skip
    return Recipe(**settings | changes)


class Case:
    """A student of one kind with all that its training needs."""

    def __init__(self, kind: str) -> None:
        self.inputs = TEXTS if kind == "text" else PICTURES
        self.task: Task = load_task(f"{kind}_classification")
        self.prepared: Prepared = self.task.prepare(self.inputs, "", 0)
        fields = TEXT | {"vocab_size": self.prepared.vocab_size} if kind == "text" else IMAGE
        self.spec = parse_spec(fields)
        self.encoded: Encoded = self.task.encode(self.prepared, self.inputs)
        self.rows = TransferSet(self.inputs, LABELS, np.arange(30))
        self.labels = SoftLabels("key", LOG_PROBS)
        split = Split(tuple(self.inputs), LABELS)
        self.dataset = Dataset(CLASSES, split, split, split, (), (), (), "hash")

    def module(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return backbone_of(self.spec).build(self.spec, 3, dropout=0.3)

    def loss_of(self, module: torch.nn.Module, settings: Recipe) -> Callable[[np.ndarray], Terms]:
        return objective(module, self.encoded, self.rows, self.labels, settings)

    def distil(self, folder: Path, bf16: bool = False, **changes: Any) -> Student:
        return distil.distil(self.spec, self.curriculum(recipe(**changes), bf16), folder, None)

    def curriculum(self, settings: Recipe, bf16: bool = False) -> Curriculum:
        given = (self.prepared, self.rows, self.labels, self.dataset, self.task)
        return Curriculum(*given, Metric(), settings, None, bf16)


@pytest.fixture(params=["text", "image"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_measured_or_read_from_a_file_the_decision_gives_the_same_weights(tmp_path: Path, case: Case) -> None:
    read = case.distil(tmp_path / "a")
    distil.decide_precision(case.spec, case.prepared, case.rows, case.labels, case.task, 3, recipe())
    measured = case.distil(tmp_path / "b")
    assert read.weights_sha256 == measured.weights_sha256 == sha256_file(tmp_path / "a" / read.weights)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    case = Case("text")
    assert case.distil(tmp_path / "a").weights_sha256 != case.distil(tmp_path / "b", seed=2).weights_sha256


def test_the_loss_is_the_soft_loss_plus_the_weighted_hard_one() -> None:
    case = Case("text")
    module, rows = case.module().eval(), np.array([0, 4, 11])
    logits = module(torch.from_numpy(case.encoded.batch(rows)))
    soft = kl(logits, torch.from_numpy(case.labels.rows(rows)), 2.0).mean()
    hard = cross_entropy(logits, torch.from_numpy(LABELS[rows]))
    found = case.loss_of(module, recipe(temperature=2.0, hard_weight=0.25))(rows)
    torch.testing.assert_close(dict(found), {"kl": soft, "cross-entropy": 0.25 * hard})


def test_a_row_without_a_true_label_has_the_soft_loss_alone() -> None:
    case = Case("text")
    module, rows = case.module().eval(), np.array([0, 1])
    case.rows = TransferSet(case.inputs, np.full(30, -1, dtype=np.int64), np.arange(30))
    with_hard = case.loss_of(module, recipe(hard_weight=0.5))(rows)
    without = case.loss_of(module, recipe(hard_weight=0.0))(rows)
    torch.testing.assert_close(dict(with_hard), dict(without))


def test_a_row_that_came_more_often_in_production_weighs_more() -> None:
    case = Case("text")
    module, rows = case.module().eval(), np.array([0, 4])
    weights = np.ones(30, dtype=np.float32)
    weights[4] = 3.0
    alone = [float(case.loss_of(module, recipe(hard_weight=0.0))(rows[i : i + 1])["kl"].detach()) for i in (0, 1)]
    case.rows = TransferSet(case.inputs, LABELS, np.arange(30), weights)
    weighed = case.loss_of(module, recipe(hard_weight=0.0))(rows)["kl"].detach()
    assert float(weighed) == pytest.approx((alone[0] + 3.0 * alone[1]) / 2, rel=1e-5)


def test_a_student_is_as_sure_as_it_is_right_on_dev() -> None:
    """Ten answers in eleven right, each with odds of e^8: the honest odds are ten to one."""
    case = Case("text")
    labels = np.arange(110) % 2
    said = np.where(np.arange(110) % 11 == 0, 1 - labels, labels)
    split = Split(tuple(f"t{i}" for i in range(110)), labels)

    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = torch.nn.Linear(2, 2)
            torch.nn.init.eye_(self.classifier.weight)
            torch.nn.init.zeros_(self.classifier.bias)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(8.0 * torch.eye(2)[torch.from_numpy(said)[ids]])
            return logits

    class Rows:
        lengths = np.ones(110, dtype=np.int64)

        def batch(self, rows: np.ndarray) -> np.ndarray:
            return rows

    module, dataset = Fixed(), replace(case.dataset, dev=split)
    temperature = calibrate(module, cast(Encoded, Rows()), dataset)
    assert temperature == pytest.approx(8.0 / np.log(10.0), rel=1e-3)
    probabilities = module(torch.arange(110)).softmax(-1)
    assert float(probabilities.detach().amax(-1).mean()) == pytest.approx(10 / 11, abs=1e-3)


def test_a_student_learns_what_the_teacher_says(tmp_path: Path) -> None:
    student = Case("text").distil(tmp_path, epochs=12, learning_rate=0.02, dropout=0.0)
    assert student.dev_quality[-1] == 1.0
    assert student.losses[-1] < 0.5 * student.losses[0]
    assert (len(student.losses), len(student.dev_quality)) == (12, 12)


def test_what_is_written_is_what_was_trained(tmp_path: Path, case: Case) -> None:
    from safetensors.torch import load_file

    student = case.distil(tmp_path)
    module = backbone_of(case.spec).build(case.spec, 3).eval()
    module.load_state_dict(load_file(tmp_path / student.weights))
    batch = case.encoded.batch(np.arange(5))
    with torch.no_grad():
        wanted = module(torch.from_numpy(batch)).numpy()
    (name,) = [i.name for i in open_engine(tmp_path / student.graph, 1).session.get_inputs()]
    np.testing.assert_allclose(open_engine(tmp_path / student.graph, 1).run({name: batch}), wanted, atol=1e-4)
    assert student.num_params == count_params(module)
    assert (tmp_path / distil.CHECKPOINT).exists()  # until the result of the stage is on disk: a kill now costs nothing


def test_parameters_without_embeddings_leave_the_look_up_table_out(tmp_path: Path) -> None:
    case = Case("text")
    student = case.distil(tmp_path, epochs=1)
    assert student.num_params - student.num_params_without_embeddings == case.prepared.vocab_size * 4
    assert (tmp_path / student.tokenizer).read_text() == case.prepared.tokenizer_json


def test_logits_come_back_in_the_order_of_the_rows() -> None:
    case = Case("text")
    module = case.module().eval()
    found = torch_logits(module, case.encoded)
    with torch.no_grad():
        wanted = torch.cat([module(torch.from_numpy(case.encoded.batch(np.array([i])))) for i in range(30)])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
