from __future__ import annotations

import json

import numpy as np
import pytest

from kdexport.tasks import text_classification as task
from kdexport.tasks._neighbours import neighbours

VOCABULARY = ["[PAD]", "[UNK]", "card", "cards", "money", "funds", "river", "##ing", "pay", "Paris", "a1"]
WORDPIECE = json.dumps({"model": {"type": "WordPiece", "vocab": {w: i for i, w in enumerate(VOCABULARY)}}})
EMBEDDING = np.zeros((11, 4), dtype=np.float32)
EMBEDDING[[2, 3]] = [[1, 0, 0, 0], [0.9, 0.1, 0, 0]]
EMBEDDING[[4, 5]] = [[0, 1, 0, 0], [0, 0.9, 0.1, 0]]
EMBEDDING[6], EMBEDDING[8] = [0, 0, 0, 1], [0, 0, 1, 0]


def test_words_near_each_other_in_the_teachers_embedding_are_neighbours() -> None:
    found = neighbours(["my card", "Money, please"], WORDPIECE, EMBEDDING)
    assert found["card"] == ("cards",)
    assert found["money"] == ("funds",)
    assert "river" not in found  # no text holds it
    assert "please" not in found  # no single piece


@pytest.mark.parametrize(("tokenizer", "embedding"), [("", EMBEDDING), (WORDPIECE, None)])
def test_without_a_tokenizer_or_an_embedding_no_word_has_neighbours(
    tokenizer: str, embedding: np.ndarray | None
) -> None:
    assert neighbours(["my card"], tokenizer, embedding) == {}


@pytest.mark.parametrize("start", ["Ġ", "▁"])
def test_a_piece_that_begins_a_word_is_told_by_its_mark(start: str) -> None:
    pieces = [f"{start}card", f"{start}cards", "money", "funds"]
    table = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    vocabulary = {p: i for i, p in enumerate(pieces)}
    document = json.dumps({"model": {"type": "BPE", "vocab": vocabulary}})
    assert set(neighbours(["card money"], document, table)) <= {"card"}
    listed = json.dumps({"model": {"type": "Unigram", "vocab": [[p, -1.0] for p in pieces]}})
    assert neighbours(["card money"], listed, table) == neighbours(["card money"], document, table)


def test_a_word_makes_room_for_a_near_one_and_keeps_its_marks() -> None:
    near = {"card": ("cards", "tickets")}
    made = task.augment(["my card?"] * 4, 2, 0, None, near)
    assert task.rounds(2, near) == ["drop", "substitute"]
    assert set(made[4:]) == {"my cards?", "my tickets?"}
    assert list(task.worth_pieces(made, 2, near)) == made[4:]


def test_every_neighbour_is_shown_about_as_often_as_another() -> None:
    near = {"card": tuple(f"word{i}" for i in range(10))}
    made = task.worth_pieces(task.augment(["card"] * 100, 2, 0, None, near), 2, near)
    counts = np.unique(np.array(made), return_counts=True)[1]
    assert len(counts) == 10
    assert counts.max() <= 2 * counts.min()


def test_without_neighbours_nothing_is_put_in_a_words_place() -> None:
    assert "substitute" not in task.rounds(12, {})
    assert list(task.worth_pieces(task.augment(["my card"], 5, 0), 5, {})) == []
