"""Words that a teacher was pretrained to hold near each other: what a small student can only learn from being shown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdexport.tasks import Neighbours

if TYPE_CHECKING:
    import numpy as np

MOST = 12  # neighbours of a word
LEAST_SIMILARITY = 0.3  # cosine of centred embeddings: "card" and "cards" 0.7, "money" and "funds" 0.5 (MiniLM)
SHORTEST = 3  # letters of a neighbour
STARTS = ("Ġ", "▁")  # what a piece begins with that begins a word (byte-level BPE, Unigram); WordPiece marks the others
INSIDE = "##"
BLOCK = 256  # words compared with the whole vocabulary at a time
WORD = re.compile(r"(\W*)(\w+)(\W*)")


def neighbours(texts: Sequence[str], tokenizer_json: str, embedding: np.ndarray | None) -> Neighbours:
    """For each word of `texts` that is one piece of the tokenizer, the whole words nearest to it by the cosine of the
    token embedding (V, D), centred. Empty where there is no embedding, or none of this tokenizer's size."""
    import numpy as np

    if embedding is None or not tokenizer_json:
        return {}
    pieces = _whole_words(tokenizer_json)
    pieces = {word: i for word, i in pieces.items() if i < len(embedding)}
    if not pieces:
        return {}
    words = list(pieces)
    table = embedding[list(pieces.values())].astype(np.float32)
    table -= table.mean(0)
    table /= np.linalg.norm(table, axis=1, keepdims=True) + 1e-9
    place = {word: n for n, word in enumerate(words)}
    asked = sorted({core for text in texts for core in _cores(text)} & place.keys())
    found: dict[str, tuple[str, ...]] = {}
    for start in range(0, len(asked), BLOCK):
        block = asked[start : start + BLOCK]
        similar = table[[place[word] for word in block]] @ table.T
        for word, row in zip(block, similar, strict=True):
            row[place[word]] = -1.0
            close = np.flatnonzero(row >= LEAST_SIMILARITY)
            nearest = close[np.argsort(-row[close], kind="stable")[:MOST]]
            if len(nearest):
                found[word] = tuple(words[n] for n in nearest)
    return found


def _cores(text: str) -> list[str]:
    return [m.group(2).lower() for word in text.split() if (m := WORD.fullmatch(word))]


def _whole_words(tokenizer_json: str) -> dict[str, int]:
    """Lower-case words of letters alone that are one piece, with its id."""
    model = json.loads(tokenizer_json)["model"]
    vocabulary = model.get("vocab") or {}
    ids = vocabulary if isinstance(vocabulary, dict) else {piece: i for i, (piece, _) in enumerate(vocabulary)}
    marked = any(piece.startswith(STARTS) for piece in ids)
    found: dict[str, int] = {}
    for piece, i in ids.items():
        if marked != piece.startswith(STARTS) or piece.startswith(INSIDE):
            continue
        word = piece[1:] if marked else piece
        if len(word) >= SHORTEST and word.isalpha() and word == word.lower():
            found[word] = i
    return found
