from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdexport.errors import BadInput
from kdexport.nouns.measurement import Environment
from kdexport.stages.detect import local_profile
from kdexport.stages.label import REFERENCE, chosen_engine, decide_engine, label
from kdexport.training.recipe import TransferSet

CLASSES = ("a", "b", "c", "d")
HARD = np.tile(np.arange(4), 10)


def teacher(shift: int) -> Any:
    """Right on every row, or always one class further on."""

    def logits(inputs: Sequence[str]) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[[(int(i) + shift) % 4 for i in inputs]]

    return SimpleNamespace(classes=CLASSES, logits=logits)


def rows(hard: np.ndarray) -> TransferSet:
    return TransferSet([str(i) for i in range(40)], hard, np.arange(40))


def test_labels_of_a_sound_teacher_are_kept(tmp_path: Path) -> None:
    assert label(teacher(0), rows(HARD), tmp_path, "key", None).logits.argmax(1).tolist() == HARD.tolist()


def test_a_teacher_whose_classes_are_in_another_order_is_refused(tmp_path: Path) -> None:
    told = r"right on 0\.0% of the training rows, chance is 25\.0%; with 4 classes exchanged it is on 100\.0%"
    with pytest.raises(BadInput, match=rf"{told} \(it answers 'a' for 'd', .*\): are its labels in another order"):
        label(teacher(1), rows(HARD), tmp_path, "key", None)


def test_a_teacher_that_gives_every_row_one_answer_is_told_from_one_in_another_order(tmp_path: Path) -> None:
    constant = SimpleNamespace(classes=CLASSES, logits=lambda raws: np.tile([0.0, 1.0, 2.0, 3.0], (len(raws), 1)))
    with pytest.raises(BadInput, match="gives one and the same answer to each of 40 rows; are its weights zero"):
        label(constant, rows(HARD), tmp_path, "key", None)


def test_on_rows_of_mostly_one_class_to_know_that_class_alone_is_no_better_than_chance(tmp_path: Path) -> None:
    """37 of 40 rows are of one class: right on 90 %, and yet wrong about every other class."""
    hard = np.array([0] * 37 + [1, 2, 3])
    answers = [0] * 36 + [1, 2, 3, 1]
    knows_one = SimpleNamespace(classes=CLASSES, logits=lambda raws: np.eye(4)[[answers[int(i)] for i in raws]])
    with pytest.raises(
        BadInput, match=r"right on 90\.0% of the training rows, 24\.3% as a mean over the classes, chance"
    ):
        label(knows_one, rows(hard), tmp_path, "key", None)


def test_without_true_labels_nothing_is_compared(tmp_path: Path) -> None:
    assert len(label(teacher(1), rows(np.full(40, -1)), tmp_path, "key", None).logits) == 40


def test_this_machine_is_a_cpu_with_what_was_detected_and_blanks_elsewhere() -> None:
    environment = Environment(
        id="e", cpu="a cpu", isa=("avx2", "fma"), cores_allowed=2.0, memory_bytes=3 << 30, threads=1, platform="p",
        python="3", packages={}, taken_at="2026-05-01T10:00:00+00:00",
    )  # fmt: skip
    profile = local_profile(environment)
    facts = profile.facts
    assert (profile.id, profile.device_class) == ("local", "cpu")
    assert facts.memory_gib is not None
    assert facts.isa is not None
    assert (facts.memory_gib.value, facts.memory_gib.date) == (3.0, datetime.date(2026, 5, 1))
    assert facts.isa.value == "avx2 fma"
    assert (facts.memory_bandwidth_gb_per_s, facts.peak_int8_tops, profile.offerings) == (None, None, ())


# --- the engine that labels

ALIKE = np.tile([[0.7, 0.2, 0.05, 0.05]], (512, 1))


def moved(amount: float) -> np.ndarray:
    return ALIKE + np.array([-amount, amount, 0, 0])


def flipped(rows: int) -> np.ndarray:
    """The two likeliest of some rows, which are near each other, exchanged: 0.002 of total variation a row at most."""
    answers = ALIKE.copy()
    answers[:rows, :2] = [0.4499, 0.4501]
    return answers


def chosen(**engines: tuple[float, np.ndarray]) -> str:
    """Each engine by the times that it is as fast, and its answers."""
    times = {REFERENCE: [1.0, 2.0, 4.0]} | {name: [1 / f, 2 / f, 4 / f] for name, (f, _) in engines.items()}
    answers = {REFERENCE: ALIKE} | {name: found for name, (_, found) in engines.items()}
    return chosen_engine(times, answers, 64).choice


def test_a_faster_engine_with_the_same_answers_labels() -> None:
    assert chosen(bf16=(1.9, moved(0.004))) == "bf16"


def test_an_engine_that_moves_the_probabilities_is_refused_however_fast() -> None:
    assert chosen(int8=(9.0, moved(0.006))) == REFERENCE


@pytest.mark.parametrize(("rows", "choice"), [(1, "bf16"), (2, REFERENCE)])
def test_one_row_of_512_may_change_its_class_two_may_not(rows: int, choice: str) -> None:
    assert chosen(bf16=(1.9, flipped(rows))) == choice


def test_an_engine_that_is_hardly_faster_is_not_worth_it() -> None:
    assert chosen(fp32=(1.14, ALIKE)) == REFERENCE
    assert chosen(fp32=(1.16, ALIKE)) == "fp32"


def test_of_engines_as_fast_as_each_other_the_more_exact_labels() -> None:
    assert chosen(int8=(2.3, moved(0.003)), bf16=(2.0, moved(0.0002))) == "bf16"
    assert chosen(int8=(2.6, moved(0.003)), bf16=(2.0, moved(0.0002))) == "int8"


def test_the_decision_says_what_each_engine_did() -> None:
    times = {REFERENCE: [0.064], "int8": [0.016]}
    found = chosen_engine(times, {REFERENCE: ALIKE, "int8": moved(0.02)}, 64)
    assert "int8: 4.00 times as fast, total variation 0.0200, agreement 1.0000 (refused)" in found.reason
    assert (found.unit, found.candidates) == ("ms per row", {REFERENCE: 1.0, "int8": 0.25})


def test_a_short_labelling_is_done_without_a_check() -> None:
    opened: list[str] = []

    def open_by(engine: str) -> Any:
        opened.append(engine)
        return teacher(0)

    found = decide_engine(open_by, ["openvino/bf16"], rows(HARD), worth_s=1e9)
    assert (found.choice, opened) == (REFERENCE, [REFERENCE])
    assert "not worth a check" in found.reason


def test_every_engine_is_asked_the_same_rows_of_the_transfer_set() -> None:
    asked: dict[str, set[str]] = {}

    def open_by(engine: str) -> Any:
        asked[engine] = set()

        def logits(inputs: Sequence[str]) -> np.ndarray:
            asked[engine] |= set(inputs)
            found: np.ndarray = teacher(0).logits(inputs)
            return found

        return SimpleNamespace(classes=CLASSES, logits=logits)

    decide_engine(open_by, ["openvino/bf16", "onnxruntime/int8"], rows(HARD), worth_s=0)
    every = {str(i) for i in range(40)}
    assert asked == dict.fromkeys((REFERENCE, "openvino/bf16", "onnxruntime/int8"), every)
