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
from kdexport.stages.label import label
from kdexport.training.recipe import TransferSet

CLASSES = ("a", "b", "c", "d")
HARD = np.tile(np.arange(4), 10)


def teacher(shift: int) -> Any:
    """Right on every row, or always one class further on."""

    def logits(inputs: Sequence[str]) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[[(int(i) + shift) % 4 for i in inputs]]

    return SimpleNamespace(classes=CLASSES, logits=logits)


def rows(hard: np.ndarray) -> TransferSet:
    return TransferSet([str(i) for i in range(40)], hard)


def test_labels_of_a_sound_teacher_are_kept(tmp_path: Path) -> None:
    assert label(teacher(0), rows(HARD), tmp_path, "key", None).logits.argmax(1).tolist() == HARD.tolist()


def test_a_teacher_whose_classes_are_in_another_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"right on 0\.0% of the training rows, chance is 25\.0%: .*another order"):
        label(teacher(1), rows(HARD), tmp_path, "key", None)


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
