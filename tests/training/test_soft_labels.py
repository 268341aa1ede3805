from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kdexport.errors import Damaged, StaleCache
from kdexport.storage.tables import Raw
from kdexport.training import soft_labels
from kdexport.training.soft_labels import make_labels, open_labels

CLASSES = 3
INPUTS = [f"query {i}" for i in range(10)]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_labels, "CHUNK_ROWS", 4)


class Teacher:
    """Answers by the number in the query, notes what it is asked, and dies before the given question."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[Raw] = []
        self.dies_at = dies_at

    def __call__(self, inputs: Sequence[Raw]) -> np.ndarray:
        if self.dies_at is not None and len(self.asked) + len(inputs) > self.dies_at:
            raise KeyboardInterrupt
        self.asked += inputs
        return answers(inputs)


def answers(inputs: Sequence[Raw]) -> np.ndarray:
    numbers = np.array([int(str(i).split()[1]) for i in inputs], dtype=np.float32)
    return np.stack([numbers, numbers / 3, -numbers], axis=1)


def test_labels_are_the_teachers_answers_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    labels = make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher())
    np.testing.assert_array_equal(labels.logits, answers(INPUTS))
    assert labels.logits.dtype == np.float32
    assert isinstance(labels.logits, np.memmap)


def test_finished_labels_are_opened_without_a_question(tmp_path: Path) -> None:
    make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher())
    teacher = Teacher()
    labels = make_labels(tmp_path, "key", INPUTS, CLASSES, teacher)
    assert teacher.asked == []
    np.testing.assert_array_equal(labels.logits, answers(INPUTS))


@pytest.mark.parametrize("dies_at", [0, 4, 8, 9])
def test_a_killed_labelling_resumes_and_asks_nothing_twice(tmp_path: Path, dies_at: int) -> None:
    first, second = Teacher(dies_at), Teacher()
    with pytest.raises(KeyboardInterrupt):
        make_labels(tmp_path, "key", INPUTS, CLASSES, first)
    labels = make_labels(tmp_path, "key", INPUTS, CLASSES, second)
    assert first.asked + second.asked == INPUTS
    np.testing.assert_array_equal(labels.logits, answers(INPUTS))


def test_a_kill_while_the_labels_are_sealed_asks_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(soft_labels, "sha256_file", killed)
        with pytest.raises(KeyboardInterrupt):
            make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher())
    teacher = Teacher()
    make_labels(tmp_path, "key", INPUTS, CLASSES, teacher)
    assert teacher.asked == []


def test_half_made_labels_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher(dies_at=4))
    assert not (tmp_path / "labels.json").exists()


def test_labels_made_from_other_inputs_are_refused(tmp_path: Path) -> None:
    make_labels(tmp_path, "aaaaaaaaaa", INPUTS, CLASSES, Teacher())
    for call in (
        lambda: open_labels(tmp_path, "bbbbbbbbbb"),
        lambda: make_labels(tmp_path, "bbbbbbbbbb", INPUTS, CLASSES, Teacher()),
    ):
        with pytest.raises(StaleCache, match=r"made from other inputs \(aaaaaaaa\) .* \(bbbbbbbb\).*Delete the folder"):
            call()


def test_labels_half_made_from_other_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_labels(tmp_path, "aaaa", INPUTS, CLASSES, Teacher(dies_at=4))
    with pytest.raises(StaleCache, match=r"half-made from other inputs\. Delete the folder"):
        make_labels(tmp_path, "bbbb", INPUTS, CLASSES, Teacher())


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[:-5]
    elif how == "a bit flipped":
        data[-3] ^= 1
    elif how == "emptied":
        data = bytearray()
    path.unlink()
    if how != "removed":
        path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["truncated", "a bit flipped", "emptied", "removed"])
def test_altered_logits_are_refused(tmp_path: Path, how: str) -> None:
    make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher())
    damage(tmp_path / "logits.npy", how)
    with pytest.raises(Damaged, match=r"logits\.npy: truncated or altered .*Delete .*; it is made again"):
        open_labels(tmp_path, "key")


@pytest.mark.parametrize("how", ["truncated", "emptied", "removed"])
def test_logits_cut_short_between_kill_and_resume_are_refused(tmp_path: Path, how: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher(dies_at=8))
    damage(tmp_path / "logits.npy", how)
    with pytest.raises(Damaged, match=r"logits\.npy: truncated\. Delete .*; it is made again"):
        make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher())


@pytest.mark.parametrize("content", ["", '{"key": "k', "[]", "{}"])
@pytest.mark.parametrize("name", ["labels.json", "progress.json"])
def test_a_damaged_table_of_contents_is_refused(tmp_path: Path, name: str, content: str) -> None:
    teacher = Teacher() if name == "labels.json" else Teacher(dies_at=8)
    with contextlib.suppress(KeyboardInterrupt):
        make_labels(tmp_path, "key", INPUTS, CLASSES, teacher)
    (tmp_path / name).write_text(content)
    with pytest.raises(Damaged, match=rf"{name}: .*[Dd]elete"):
        make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher())


def test_progress_is_told_in_rows(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher(), lambda done, total: told.append((done, total)))
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_the_table_of_contents_says_what_it_seals(tmp_path: Path) -> None:
    make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher())
    contents = json.loads((tmp_path / "labels.json").read_text())
    assert (contents["rows"], contents["classes"], len(contents["sha256"])) == (10, 3, 64)
