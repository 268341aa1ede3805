from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from kdexport.errors import BadInput, Damaged, StaleCache
from kdexport.storage.tables import Raw
from kdexport.training import soft_labels
from kdexport.training.soft_labels import (
    SoftLabels,
    TopClasses,
    compressed,
    digest,
    distinct_rows,
    export_labels,
    import_labels,
    make_labels,
    open_labels,
)

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


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def assert_answers(labels: SoftLabels, inputs: Sequence[Raw]) -> None:
    """To float16: 1 part in 2^11."""
    every = np.arange(len(inputs))
    np.testing.assert_allclose(labels.rows(every), log_softmax(answers(inputs)), rtol=2**-11, atol=1e-7)


def test_labels_are_the_teachers_answers_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    labels = make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher())
    assert_answers(labels, INPUTS)
    assert labels.rows(np.arange(2)).dtype == np.float32
    assert isinstance(labels.log_probs, np.memmap)
    assert len(labels) == 10


def test_finished_labels_are_opened_without_a_question(tmp_path: Path) -> None:
    make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher())
    teacher = Teacher()
    labels = make_labels(tmp_path, "key", INPUTS, CLASSES, teacher)
    assert teacher.asked == []
    assert_answers(labels, INPUTS)


@pytest.mark.parametrize("dies_at", [0, 4, 8, 9])
def test_a_killed_labelling_resumes_and_asks_nothing_twice(tmp_path: Path, dies_at: int) -> None:
    first, second = Teacher(dies_at), Teacher()
    with pytest.raises(KeyboardInterrupt):
        make_labels(tmp_path, "key", INPUTS, CLASSES, first)
    labels = make_labels(tmp_path, "key", INPUTS, CLASSES, second)
    assert first.asked + second.asked == INPUTS
    assert_answers(labels, INPUTS)


def test_a_kill_while_the_labels_are_sealed_asks_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(soft_labels, "data_sha256", killed)
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
    damage(tmp_path / "labels.safetensors", how)
    with pytest.raises(Damaged, match=r"labels\.safetensors: truncated or altered .*Delete .*; it is made again"):
        open_labels(tmp_path, "key")


@pytest.mark.parametrize("how", ["truncated", "emptied", "removed"])
def test_logits_cut_short_between_kill_and_resume_are_refused(tmp_path: Path, how: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_labels(tmp_path, "key", INPUTS, CLASSES, Teacher(dies_at=8))
    damage(tmp_path / "labels.safetensors", how)
    with pytest.raises(Damaged, match=r"labels\.safetensors: truncated\. Delete .*; it is made again"):
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


# --- inputs that stand there twice, and inputs that are not in memory


def test_identical_inputs_are_asked_once_within_and_across_chunks(tmp_path: Path) -> None:
    inputs = [INPUTS[i] for i in (0, 1, 0, 2, 1, 3, 0, 0, 3, 4)]
    teacher = Teacher()
    labels = make_labels(tmp_path, "key", inputs, CLASSES, teacher)
    assert teacher.asked == INPUTS[:5]
    assert_answers(labels, inputs)
    assert distinct_rows(tmp_path) == 5


def test_a_chunk_of_copies_alone_asks_nothing(tmp_path: Path) -> None:
    inputs = INPUTS[:4] + INPUTS[:4]
    calls: list[int] = []

    def answer(asked: Sequence[Raw]) -> np.ndarray:
        calls.append(len(asked))
        return answers(asked)

    assert_answers(make_labels(tmp_path, "key", inputs, CLASSES, answer), inputs)
    assert calls == [4]


def test_a_text_and_the_bytes_of_that_text_are_two_inputs() -> None:
    found = digest(["a", b"a", "a"])
    assert (found.first.tolist(), found.distinct) == ([0, 1, 0], 2)
    assert digest(["a", b"a", "b"]).sha256 != found.sha256


class Lazy(Sequence[Raw]):
    """Never hands out more than a chunk."""

    def __init__(self, length: int) -> None:
        self.length, self.most = length, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            wanted = range(*index.indices(self.length))
            self.most = max(self.most, len(wanted))
            return [f"query {i}" for i in wanted]
        if index >= self.length:
            raise IndexError
        return f"query {index}"


def test_inputs_that_are_read_lazily_are_never_all_there(tmp_path: Path) -> None:
    lazy = Lazy(10)
    assert_answers(make_labels(tmp_path, "key", lazy, CLASSES, Teacher()), INPUTS)
    assert lazy.most == 4


# --- what is stored


@given(
    st.integers(2, 40).flatmap(
        lambda c: arrays(np.float32, (3, c), elements=st.floats(-60, 60, width=32, allow_nan=False))
    ),
    st.sampled_from([0.5, 1.0, 4.0]),
)
def test_float16_moves_no_probability_by_a_thousandth_at_any_temperature(
    logits: np.ndarray, temperature: float
) -> None:
    labels = SoftLabels("key", compressed(logits, None)["log_probs"])
    found = log_softmax(labels.rows(np.arange(3)) / temperature)
    assert np.abs(np.exp(found) - np.exp(log_softmax(logits / temperature))).max() < 1e-3


def top_labels(logits: np.ndarray, num_top: int) -> SoftLabels:
    stored = compressed(logits, num_top)
    top = TopClasses(stored["top_classes"], stored["log_tail"], logits.shape[1])
    return SoftLabels("key", stored["log_probs"], top)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda sizes: st.tuples(
            st.just(sizes[0]),
            arrays(np.float32, (4, sum(sizes)), elements=st.floats(-30, 30, width=32, allow_nan=False)),
        )
    )
)
def test_the_likeliest_classes_and_an_even_tail_hold_all_the_mass(drawn: tuple[int, np.ndarray]) -> None:
    num_top, logits = drawn
    labels, wanted = top_labels(logits, num_top), np.exp(log_softmax(logits))
    found = np.exp(labels.rows(np.arange(4)).astype(np.float64))
    assert labels.top is not None
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-3)
    for row, chosen in enumerate(labels.top.classes):
        others = np.setdiff1d(np.arange(logits.shape[1]), chosen)
        np.testing.assert_allclose(found[row, chosen], wanted[row, chosen], atol=1e-3)
        assert wanted[row, chosen].min() >= wanted[row, others].max() - 1e-12
        assert len(set(found[row, others])) == 1
        np.testing.assert_allclose(found[row, others].sum(), wanted[row, others].sum(), atol=1e-3)


def test_the_tail_of_a_hand_counted_row_is_shared_evenly() -> None:
    """0.5, 0.3 and, of the other three, 0.2 together."""
    labels = top_labels(np.log([[0.1, 0.5, 0.06, 0.3, 0.04]]).astype(np.float32), 2)
    found = np.exp(labels.rows(np.array([0])))
    np.testing.assert_allclose(found, [[0.2 / 3, 0.5, 0.2 / 3, 0.3, 0.2 / 3]], rtol=1e-3)


def many_classes(inputs: Sequence[Raw]) -> np.ndarray:
    numbers = np.array([int(str(i).split()[1]) for i in inputs])
    return np.stack([8 * np.cos(np.arange(300) * (1 + n)) for n in numbers]).astype(np.float32)


def test_of_many_classes_the_likeliest_are_stored_and_found_again(tmp_path: Path) -> None:
    labels = make_labels(tmp_path, "key", INPUTS, 300, many_classes)
    assert labels.log_probs.shape == (10, 64)
    assert (tmp_path / "labels.safetensors").stat().st_size < 10 * (64 * 4 + 2) + 400
    dense, wanted = labels.rows(np.array([7, 2])), log_softmax(many_classes([INPUTS[7], INPUTS[2]]))
    assert dense.shape == (2, 300)
    assert (dense.argmax(1) == wanted.argmax(1)).all()
    assert np.abs(np.exp(dense) - np.exp(wanted)).max() < 1e-2
    np.testing.assert_array_equal(labels.take(np.array([7, 2])).rows(slice(None)), dense)


@pytest.mark.parametrize("dies_at", [4, 8])
def test_many_classes_resume_to_the_same_bytes(tmp_path: Path, dies_at: int) -> None:
    asked: list[Raw] = []

    def dying(inputs: Sequence[Raw]) -> np.ndarray:
        if len(asked) >= dies_at:
            raise KeyboardInterrupt
        asked.extend(inputs)
        return many_classes(inputs)

    with pytest.raises(KeyboardInterrupt):
        make_labels(tmp_path / "killed", "key", INPUTS, 300, dying)
    make_labels(tmp_path / "killed", "key", INPUTS, 300, many_classes)
    make_labels(tmp_path / "undisturbed", "key", INPUTS, 300, many_classes)
    killed, undisturbed = (tmp_path / f / "labels.safetensors" for f in ("killed", "undisturbed"))
    assert killed.read_bytes() == undisturbed.read_bytes()


def test_a_process_ended_by_sigkill_goes_on_where_its_last_chunk_ended(tmp_path: Path) -> None:
    """The teacher's own log outlives the process: the chunk in its hands alone stands there twice."""
    log = tmp_path / "asked"
    code = f"""
import os, signal
import numpy as np
from pathlib import Path
from kdexport.training import soft_labels
soft_labels.CHUNK_ROWS = 4
def answer(inputs):
    with open({str(log)!r}, "a") as f:
        f.write("".join(i + "\\n" for i in inputs))
    if len(Path({str(log)!r}).read_text().split("\\n")) > 9 and not Path({str(log)!r} + ".killed").exists():
        Path({str(log)!r} + ".killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return np.arange(3 * len(inputs), dtype=np.float32).reshape(-1, 3)
soft_labels.make_labels(Path({str(tmp_path / "labels")!r}), "key", [f"query {{i}}" for i in range(16)], 3, answer)
"""
    ends = [subprocess.run([sys.executable, "-c", code], check=False).returncode for _ in range(2)]
    assert ends == [-signal.SIGKILL, 0]
    asked = [line.split()[1] for line in log.read_text().splitlines()]
    assert asked == [str(i) for i in [*range(12), *range(8, 16)]]
    assert len(open_labels(tmp_path / "labels", "key")) == 16


# --- labels that travel

ORIGIN = {"teacher": "aaaaaaaa", "classes": "cccccccc"}


def exported(tmp_path: Path, inputs: Sequence[Raw] = INPUTS) -> Path:
    make_labels(tmp_path / "there", "key of that machine", inputs, CLASSES, Teacher())
    export_labels(tmp_path / "there", "key of that machine", ORIGIN, tmp_path / "exported.safetensors")
    return tmp_path / "exported.safetensors"


def test_exported_labels_are_the_same_elsewhere(tmp_path: Path) -> None:
    import_labels(exported(tmp_path), ORIGIN, INPUTS, tmp_path / "here", "key of this machine")
    assert_answers(open_labels(tmp_path / "here", "key of this machine"), INPUTS)
    there, here = (tmp_path / f / "labels.safetensors" for f in ("there", "here"))
    assert there.read_bytes() == here.read_bytes()


def test_an_exported_file_is_read_by_safetensors_itself(tmp_path: Path) -> None:
    found = load_file(exported(tmp_path))
    np.testing.assert_allclose(found["log_probs"], log_softmax(answers(INPUTS)), rtol=2**-11, atol=1e-7)


@pytest.mark.parametrize(
    ("origin", "inputs", "told"),
    [
        (ORIGIN | {"teacher": "bbbbbbbb"}, INPUTS, r"other teacher \(aaaaaaaa, wanted bbbbbbbb\); export them again"),
        (ORIGIN, INPUTS[:-1], r"other rows \("),
        (ORIGIN, INPUTS[::-1], r"other rows \("),
        (ORIGIN | {"classes": "d", "format": "9"}, INPUTS, r"other classes \(.*\), format \(None, wanted 9\)"),
    ],
)
def test_labels_of_another_project_are_refused_with_what_differs(
    tmp_path: Path, origin: dict[str, str], inputs: list[str], told: str
) -> None:
    with pytest.raises(StaleCache, match=told):
        import_labels(exported(tmp_path), origin, inputs, tmp_path / "here", "key")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("how", ["truncated", "a bit flipped", "emptied"])
def test_a_damaged_exported_file_is_refused(tmp_path: Path, how: str) -> None:
    path = exported(tmp_path)
    damage(path, how)
    with pytest.raises(Damaged, match=r"exported\.safetensors: "):
        import_labels(path, ORIGIN, INPUTS, tmp_path / "here", "key")
    assert not (tmp_path / "here").exists()


def test_a_safetensors_file_of_something_else_is_no_labels(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="no labels exported by kdexport; make them: kdexport label PROJECT"):
        import_labels(tmp_path / "model.safetensors", ORIGIN, INPUTS, tmp_path / "here", "key")
