from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdexport.backbones import parse_spec
from kdexport.dataset import Dataset, Split
from kdexport.errors import Damaged
from kdexport.nouns.graph import InputShape
from kdexport.nouns.ladder import Ladder
from kdexport.nouns.metric import Metric
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.stages import ladder as stage
from kdexport.storage.tables import Raw
from kdexport.tasks import load_task
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels

CLASSES = ("card", "pay", "refund")
TEXTS: list[Raw] = [f"{word} number {i}" for i in range(20) for word in CLASSES]
LABELS = np.tile(np.arange(3), 20)
TASK = load_task("text_classification")
PREPARED = TASK.prepare(TEXTS, "", 0)
SHAPE = InputShape(batch=1, tokens=6)
GENEROUS_S = 1000.0


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "epochs": 16, "batch_size": 8, "learning_rate": 0.01, "temperature": 1.0, "hard_weight": 0.1, "loss": "kl",
        "augment_per_row": 0, "dropout": 0.0, "seed": 1, "threads": 1,
    }  # fmt: skip
    return Recipe(**settings | changes)


def schooling() -> stage.Schooling:
    split = Split(tuple(TEXTS), LABELS)
    return stage.Schooling(
        prepared_of=lambda spec: PREPARED,
        embedding_of=lambda prepared: None,
        bf16_of=lambda spec: False,
        rows=TransferSet(TEXTS, LABELS, np.arange(len(TEXTS))),
        labels=SoftLabels("key", (8.0 * np.eye(3)[LABELS]).astype(np.float32)),
        dataset=Dataset(CLASSES, split, split, split, (), (), (), "hash"),
        task=TASK,
        metric=Metric(),
        recipe=recipe(),
    )


def spec(embedding_size: int, hidden_size: int) -> StudentSpec:
    fields = {"backbone": "convolution", "vocab_size": PREPARED.vocab_size}
    return parse_spec({**fields, "embedding_size": embedding_size, "hidden_size": hidden_size})


SPECS = [spec(2, 4), spec(4, 8), spec(8, 8), spec(8, 16)]


def climbed(folder: Path, budget_seconds: float = GENEROUS_S, specs: list[StudentSpec] = SPECS) -> Ladder:
    return stage.ladder(specs, SHAPE, schooling(), 0.9, budget_seconds, folder, None)


def without_seconds(ladder: Ladder) -> list[dict[str, Any]]:
    return [r.model_dump(exclude={"seconds"}) for r in ladder.rungs]


def test_the_better_half_climbs_on_a_longer_schedule(tmp_path: Path) -> None:
    found = climbed(tmp_path)
    shares = [r.schedule_share for r in found.rungs]
    assert shares == [0.25] * 4 + [0.5] * 2
    climbers = [r.spec for r in found.rungs[4:]]
    assert all(spec in [r.spec for r in found.rungs[:4]] for spec in climbers)
    assert climbers[0] != climbers[1]
    assert found.dev_rows == 60
    assert found.seconds == pytest.approx(sum(r.seconds for r in found.rungs))


def test_every_rung_learns_on_a_schedule_of_its_own_and_a_longer_one_learns_more(tmp_path: Path) -> None:
    found = climbed(tmp_path)
    by_spec: dict[str, list[float]] = {}
    for rung in found.rungs:
        by_spec.setdefault(str(rung.spec), []).append(rung.dev_quality)
    twice = [q for q in by_spec.values() if len(q) == 2]
    assert len(twice) == 2
    assert all(longer >= shorter for shorter, longer in twice)


def test_the_order_of_the_students_and_the_folder_change_nothing(tmp_path: Path) -> None:
    assert without_seconds(climbed(tmp_path / "a")) == without_seconds(climbed(tmp_path / "b", specs=SPECS[::-1]))


def test_a_killed_ladder_goes_on_with_the_next_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = climbed(tmp_path / "whole")
    train, trained = stage.train_student, []

    def killed_at_the_third(*arguments: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(arguments[0])
        return train(*arguments)

    monkeypatch.setattr(stage, "train_student", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        climbed(tmp_path / "killed")
    monkeypatch.setattr(stage, "train_student", lambda *a: trained.append(a[0]) or train(*a))
    resumed = climbed(tmp_path / "killed")
    assert without_seconds(resumed) == without_seconds(whole)
    assert len(trained) == len(whole.rungs)
    assert not list((tmp_path / "killed").glob("*.safetensors"))


def test_a_finished_ladder_trains_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = climbed(tmp_path)
    monkeypatch.setattr(stage, "train_student", None)
    assert climbed(tmp_path) == first


def test_it_stops_when_the_budget_is_spent_but_not_before_one_rung(tmp_path: Path) -> None:
    found = climbed(tmp_path, budget_seconds=1e-6)
    assert len(found.rungs) == 1


def test_a_damaged_rung_is_named_with_what_to_do(tmp_path: Path) -> None:
    climbed(tmp_path, budget_seconds=1e-6)
    (path,) = tmp_path.glob("rung-*.json")
    path.write_text(json.dumps({"spec": {}}))
    with pytest.raises(Damaged, match=rf"{path.name}: not a rung .* delete it, it is made again"):
        climbed(tmp_path, budget_seconds=1e-6)


def test_what_it_will_cost_is_said_before_the_first_rung(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "kdexport.stages.ladder"):
        climbed(tmp_path, budget_seconds=3600)
    first = caplog.messages[0]
    assert first.startswith("ladder students=4 shares=1/4,1/2 hours=")
    assert first.endswith("budget_hours=1.000")


@pytest.mark.parametrize(
    ("share", "epochs", "rows", "exact"),
    [(1.0, 16, 60, 1.0), (0.25, 4, 60, 0.25), (1 / 16, 1, 60, 1 / 16), (1 / 32, 1, 30, 1 / 32), (0.001, 1, 8, 8 / 960)],
)
def test_a_short_schedule_has_fewer_epochs_and_below_one_epoch_fewer_rows(
    share: float, epochs: int, rows: int, exact: float
) -> None:
    case = schooling()
    some, labels, shorter, found = stage.shortened(case.rows, case.labels, case.recipe, share)
    assert (shorter.epochs, len(some.inputs), found) == (epochs, rows, pytest.approx(exact))
    assert (len(some.hard), len(labels.logits)) == (rows, rows)


def test_the_rows_of_a_short_schedule_keep_their_labels_and_are_drawn_by_the_seed() -> None:
    case = schooling()
    some, labels, _, _ = stage.shortened(case.rows, case.labels, case.recipe, 1 / 32)
    assert [CLASSES[i] for i in some.hard] == [str(t).split()[0] for t in some.inputs]
    assert labels.logits.argmax(1).tolist() == some.hard.tolist()
    same = stage.shortened(case.rows, case.labels, case.recipe, 1 / 32)[0]
    other = stage.shortened(case.rows, case.labels, recipe(seed=2), 1 / 32)[0]
    assert same.inputs == some.inputs
    assert other.inputs != some.inputs
