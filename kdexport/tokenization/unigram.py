"""Unigram (SentencePiece: XLM-R, T5, ALBERT): the most probable cut, so that a cut of kept pieces stays the best one.

Its unknown piece costs ten nats more than the rarest piece (tokenizers, models/unigram), so that one is kept too."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from kdexport.tokenization import Essential
from kdexport.tokenization._bytes import byte_pieces

NAME = "Unigram"


def ids(model: dict[str, Any]) -> dict[str, int]:
    return {piece: i for i, (piece, _) in enumerate(model["vocab"])}


def unknown(model: dict[str, Any]) -> str | None:
    return None if model.get("unk_id") is None else str(model["vocab"][model["unk_id"]][0])


def essential(model: dict[str, Any], seen: frozenset[str]) -> Essential:
    """Single characters of every script that the texts are written in; XLM-R has thousands of others, which become
    unknown. Nothing does where the model falls back to bytes: there the characters seen are enough."""
    pieces = [str(piece) for piece, _ in model["vocab"]]
    rarest = min(model["vocab"], key=lambda entry: float(entry[1]))[0]
    single = {p for p in pieces if len(p) == 1}
    if model.get("byte_fallback"):
        return Essential(frozenset({p for p in single if p in seen} | byte_pieces(pieces) | {rarest}))
    scripts = {_script(c) for c in seen}
    own = {p for p in single if p in seen or _script(p) in scripts}
    irreducible = {p for p in pieces if any(_script(c) in scripts and c not in single for c in p)}
    return Essential(frozenset(own | irreducible | {rarest}))


def _script(character: str) -> str:
    """The first word of its Unicode name (LATIN, CYRILLIC, HANGUL), which for letters and marks is the script."""
    if unicodedata.category(character)[0] not in "LM":
        return character
    return unicodedata.name(character, character).partition(" ")[0]


def in_order(model: dict[str, Any], pieces: Sequence[str]) -> list[str]:
    return list(pieces)


def trimmed(model: dict[str, Any], new_ids: dict[str, int]) -> dict[str, Any]:
    scores = {str(piece): float(score) for piece, score in model["vocab"]}
    lowest = min(scores.values())
    order = sorted(new_ids, key=new_ids.__getitem__)
    unk = unknown(model)
    return model | {
        "vocab": [[piece, scores.get(piece, lowest)] for piece in order],
        "unk_id": None if unk is None else new_ids[unk],
    }
