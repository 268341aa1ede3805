from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdexport.storage.tables import Raw
from kdexport.tasks import _baseline, load_task
from tests.tasks.conftest import picture

TEXTS: list[Raw] = [f"{word} number {i}" for i in range(20) for word in ("card", "payment", "refund")]
LABELS = np.tile(np.arange(3), 20)
TEXT, IMAGE = load_task("text_classification"), load_task("image_classification")


def accuracy(labels: np.ndarray) -> object:
    return lambda logits: float((logits.argmax(1) == labels).mean())


def fitted(folder: Path, labels: np.ndarray, num_classes: int, dev: list[Raw] = TEXTS) -> list[tuple[float, float]]:
    return _baseline.fit(TEXT, TEXTS, labels, num_classes, dev, accuracy(labels), 1, folder)  # type: ignore[arg-type]


def test_words_and_pieces_of_words_tell_the_classes_apart(tmp_path: Path) -> None:
    tried = fitted(tmp_path, LABELS, 3)
    assert [c for c, _ in tried] == list(_baseline.INVERSE_REGULARISATION["text"])
    assert max(q for _, q in tried) == 1.0
    answers = _baseline.load(TEXT, tmp_path).logits(["my cards", "paymant", "refunds please", ""])
    assert answers.dtype == np.float32
    assert answers[:3].argmax(1).tolist() == [0, 1, 2]


def test_the_model_read_from_its_files_is_the_one_that_was_judged_best(tmp_path: Path) -> None:
    seen: list[np.ndarray] = []

    def judge(logits: np.ndarray) -> float:
        seen.append(logits)
        return float(len(seen) == 2)

    _baseline.fit(TEXT, TEXTS, LABELS, 3, TEXTS, judge, 1, tmp_path)
    np.testing.assert_allclose(_baseline.load(TEXT, tmp_path).logits(TEXTS), seen[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("present", [(0, 2), (1, 3, 4)], ids=["two classes", "three classes"])
def test_a_class_without_a_row_is_never_answered(tmp_path: Path, present: tuple[int, ...]) -> None:
    labels = np.array([present[i % len(present)] for i in LABELS])
    assert max(q for _, q in fitted(tmp_path, labels, 6)) == 1.0
    answers = _baseline.load(TEXT, tmp_path).logits(["anything at all"])
    assert np.flatnonzero(np.isfinite(answers[0])).tolist() == list(present)


def test_rows_count_by_their_weights(tmp_path: Path) -> None:
    """The same text under two classes: the one that came more often is answered, whichever it is."""
    texts: list[Raw] = ["pay", "pay", "refund please", "my card"]
    labels = np.array([0, 1, 2, 3])
    for heavy in (0, 1):
        weights = np.where(np.arange(4) == heavy, 9.0, 1.0)
        _baseline.fit(TEXT, texts, labels, 4, texts, accuracy(labels), 1, tmp_path, weights)  # type: ignore[arg-type]
        assert _baseline.load(TEXT, tmp_path).logits(["pay"]).argmax() == heavy


def test_large_pictures_are_shrunk_for_the_probe(tmp_path: Path) -> None:
    rows: list[Raw] = [picture("L", 80, 40, seed) for seed in range(12)]
    labels = np.tile(np.arange(2), 6)
    _baseline.fit(IMAGE, rows, labels, 2, rows, accuracy(labels), 1, tmp_path)  # type: ignore[arg-type]
    model = _baseline.load(IMAGE, tmp_path)
    assert model.weight.shape == (32 * 16, 2)
    assert model.logits(rows[:1]).shape == (1, 2)
