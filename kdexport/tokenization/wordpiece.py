"""WordPiece (BERT, MiniLM, MPNet): the longest match from the left, so that a word of kept pieces is cut as before.

Several pieces may have one id here. BERT's vocabulary has 997 single characters, each at the head of a word and inside
it: two thirds of a small student's rows, where the texts hold fifty of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdexport.tokenization import Essential

NAME = "WordPiece"


def ids(model: dict[str, Any]) -> dict[str, int]:
    return dict(model["vocab"])


def unknown(model: dict[str, Any]) -> str | None:
    token: str = model["unk_token"]
    return token if token in model["vocab"] else None


def essential(model: dict[str, Any], seen: frozenset[str]) -> Essential:
    """Single characters in both forms, and pieces with a character that has no piece of its own in that place."""
    prefix = model["continuing_subword_prefix"]
    single = {p for p in model["vocab"] if len(p.removeprefix(prefix)) == 1}
    own = {p for p in single if p.removeprefix(prefix) in seen}
    irreducible = {p for p in model["vocab"] if not single.issuperset(_symbols(p, prefix))}
    return Essential(frozenset(own | irreducible), frozenset(single - own))


def _symbols(piece: str, prefix: str) -> list[str]:
    """Single characters, as they would be pieces: 'ab' -> a, ##b; '##ab' -> ##a, ##b."""
    letters = piece.removeprefix(prefix)
    head = prefix if piece.startswith(prefix) else ""
    return [(prefix if i else head) + letter for i, letter in enumerate(letters)]


def in_order(model: dict[str, Any], pieces: Sequence[str]) -> list[str]:
    return list(pieces)


def trimmed(model: dict[str, Any], new_ids: dict[str, int]) -> dict[str, Any]:
    return model | {"vocab": new_ids}
