from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from kdexport.dataset import Dataset, Split
from kdexport.errors import BadInput, Damaged
from kdexport.losses.kl import loss as kl
from kdexport.nouns.baseline import Baseline, Difference, HardLabelStudent
from kdexport.nouns.bench import Quality
from kdexport.nouns.metric import Metric
from kdexport.sizing.spend import HARD_LABELS_SHARE
from kdexport.stages import baselines
from kdexport.training.recipe import TransferSet
from tests.stages.test_distil import LABELS, TEXTS, Case, recipe


def course(case: Case) -> TransferSet:
    """Train rows, one variant of each, in another order, and ten unlabelled rows."""
    source = np.concatenate([np.arange(30), np.arange(30)[::-1], np.full(10, -1)])
    inputs = [*TEXTS, *(f"{t} please" for t in reversed(TEXTS)), *(f"unlabelled {i}" for i in range(10))]
    return TransferSet(inputs, np.full(70, -1), source)


def taught(folder: Path, case: Case, dataset: Dataset | None = None) -> HardLabelStudent:
    settings = recipe(epochs=8, learning_rate=0.01, dropout=0.0)
    curriculum = replace(case.curriculum(settings), rows=course(case), dataset=dataset or case.dataset)
    return baselines.hard_label_student(case.spec, curriculum, folder, None)


def test_it_learns_the_labels_of_the_rows_sources_in_as_many_steps_without_unlabelled_rows(tmp_path: Path) -> None:
    case = Case("text")
    made = taught(tmp_path, case)
    steps_distilled = 8 * math.ceil(70 / 8)
    assert abs(made.steps - steps_distilled) <= math.ceil(60 / 8) / 2
    assert [t.setting for t in made.trials] == pytest.approx([0.01 / 3, 0.01, 0.03])
    assert made.learning_rate == max(made.trials, key=lambda t: t.dev_quality).setting
    logits = baselines.hard_label_logits(case.spec, case.prepared, made, tmp_path, case.task, 3, TEXTS)
    assert float((logits.argmax(1) == LABELS).mean()) == made.dev_quality == 1.0


def test_other_labels_give_another_student_and_the_teacher_is_not_asked(tmp_path: Path) -> None:
    case = Case("text")
    turned = Split(tuple(TEXTS), (LABELS + 1) % 3)
    made = taught(tmp_path, case, replace(case.dataset, train=turned, dev=turned))
    logits = baselines.hard_label_logits(case.spec, case.prepared, made, tmp_path, case.task, 3, TEXTS)
    assert (logits.argmax(1) == (LABELS + 1) % 3).mean() > 0.6


def test_a_teacher_that_is_certain_makes_the_soft_loss_the_cross_entropy() -> None:
    logits, hard = torch.randn(6, 5), np.array([0, 1, 2, 3, 4, 0])
    certain = torch.from_numpy(baselines._certain(hard, 5).rows(np.arange(6)))
    expected = cross_entropy(logits, torch.from_numpy(hard), reduction="none")
    torch.testing.assert_close(kl(logits, certain, 1.0), expected)


def test_a_killed_tuning_goes_on_with_the_next_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("text")
    whole = taught(tmp_path / "whole", case)
    train, calls = baselines.train_student, []

    def killed_at_the_third(*args: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(baselines, "train_student", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "cut", case)
    assert taught(tmp_path / "cut", case) == whole
    assert len(calls) == 3 + 2  # the third rate, and the whole schedule


def test_a_rate_at_which_training_diverges_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, train = Case("text"), baselines.train_student

    def diverging(*args: object) -> object:
        if args[1].recipe.learning_rate > 0.02:  # type: ignore[attr-defined]
            raise BadInput("logits hold NaN")
        return train(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(baselines, "train_student", diverging)
    made = taught(tmp_path, case)
    assert made.trials[2].dev_quality == 0.0
    assert made.learning_rate <= 0.01


def test_an_altered_trial_is_told(tmp_path: Path) -> None:
    (tmp_path / "trial-0.json").write_text("{}")
    with pytest.raises(Damaged, match=r"trial-0\.json: not a trial .*delete it"):
        taught(tmp_path, Case("text"))


def test_the_plain_model_counts_every_file_that_it_is_read_from(tmp_path: Path) -> None:
    case = Case("text")
    made = baselines.plain_model(case.dataset, LABELS, case.task, Metric(), 1, tmp_path)
    assert made.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    assert made.name == "TF-IDF + logistic regression"
    assert (baselines.plain_logits(case.task, tmp_path, TEXTS).argmax(1) == LABELS).mean() == made.dev_quality == 1.0


def test_the_difference_is_paired() -> None:
    """Two models that err on the same 10 of 100 rows but one: the interval is far narrower than either's own."""
    labels = np.zeros(100, dtype=np.int64)
    student, other = np.tile([1.0, 0.0], (100, 1)), np.tile([1.0, 0.0], (100, 1))
    student[:9], other[:10] = [0.0, 1.0], [0.0, 1.0]
    told = Baseline(kind="plain", name="p")
    test = Split(tuple("abcdefghij" * 10), labels)
    found = baselines.compared(
        told, baselines.Judged(student, None), baselines.Judged(other, None), Metric(), test, ("x", "y")
    )
    assert found.quality is not None
    assert found.difference is not None
    assert (found.quality.value, found.quality.n) == (0.9, 100)
    assert found.difference.value == pytest.approx(0.01)
    low, high = found.difference.ci95
    assert low == 0.0
    assert high <= 0.04
    assert found.quality.ci95[1] - found.quality.ci95[0] > 0.1


def judged(kind: str, name: str, gain: float, low: float, high: float) -> Baseline:
    quality = Quality(metric="accuracy", value=0.9, ci95=(0.88, 0.92), n=1000)
    difference = Difference(value=gain, ci95=(low, high))
    return Baseline.model_validate({"kind": kind, "name": name, "quality": quality, "difference": difference})


@pytest.mark.parametrize(
    ("hard", "plain", "words"),
    [
        (
            (0.021, 0.012, 0.030),
            (0.05, 0.03, 0.07),
            "distillation bought +2.1 points (95 % interval 1.2 to 3.0) over the same student on hard labels only; "
            "the student is +5.0 points (95 % interval 3.0 to 7.0) above TF-IDF",
        ),
        (
            (0.002, -0.004, 0.008),
            (0.001, -0.01, 0.012),
            "distillation bought nothing measurable here: +0.2 points (95 % interval -0.4 to 0.8) over the same "
            "student on hard labels only; consider the plain baseline; no significant difference from TF-IDF",
        ),
        (
            (-0.02, -0.03, -0.01),
            (-0.013, -0.02, -0.006),
            "distillation cost 2.0 points (95 % interval 1.0 to 3.0) against the same student on hard labels only: "
            "train on the labels, or look for a better teacher; TF-IDF is better than the student by 1.3 points "
            "(95 % interval 0.6 to 2.0): ship that instead",
        ),
    ],
    ids=["bought", "bought nothing", "cost"],
)  # fmt: skip
def test_the_verdict_says_in_words_what_distillation_bought(
    hard: tuple[float, float, float], plain: tuple[float, float, float], words: str
) -> None:
    found = baselines.verdict(judged("hard_labels", baselines.HARD_LABELS, *hard), judged("plain", "TF-IDF", *plain))
    assert found.startswith(words)


def test_without_true_labels_the_verdict_says_what_is_not_known() -> None:
    absent = Baseline(kind="hard_labels", name=baselines.HARD_LABELS, reason=baselines.NO_LABELS)
    found = baselines.verdict(absent, judged("plain", "TF-IDF", 0.05, 0.03, 0.07))
    assert found.startswith("what distillation bought over hard labels is not known: the project has no true labels")
    assert "above TF-IDF" in found


def test_the_cost_is_told_in_multiples_of_the_distillation() -> None:
    assert baselines.told_cost(100.0).startswith("baselines: about 145 s, 1.45 times the distillation, for the same")
    assert pytest.approx(baselines.WORK) == HARD_LABELS_SHARE
