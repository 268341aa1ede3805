"""Byte-pair encoding (RoBERTa, GPT-2: bytes as characters; Llama: SentencePiece's): merges in the order learnt.

A piece is kept with every piece on the way to it. Then each merge that cut a text before is still there, none is new,
and the lowest-ranked of those that apply is the same at each step: a text of kept pieces is cut as before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from kdexport.tokenization import Essential
from kdexport.tokenization._bytes import byte_pieces

NAME = "BPE"


def ids(model: dict[str, Any]) -> dict[str, int]:
    return dict(model["vocab"])


def unknown(model: dict[str, Any]) -> str | None:
    token = model.get("unk_token")
    return token if token in model["vocab"] else None


def essential(model: dict[str, Any], seen: frozenset[str]) -> Essential:
    """Every single character: of a byte-level model these are the 256 bytes. Where a model falls back to bytes, the
    bytes and the characters seen. Without them: pieces with a character that has no piece of its own."""
    single = {p for p in model["vocab"] if len(_symbols(model, p)) == 1}
    if model.get("byte_fallback"):
        own = {p for p in single if _letters(model, p) in seen}
        return Essential(frozenset(own | byte_pieces(model["vocab"])))
    return Essential(frozenset(single))


def in_order(model: dict[str, Any], pieces: Sequence[str]) -> list[str]:
    ranks = {pair: rank for rank, pair in enumerate(_merges(model))}
    prefix = model.get("continuing_subword_prefix") or ""
    ordered: dict[str, None] = {}
    for piece in pieces:
        if piece not in ordered:
            steps = list(_steps(_symbols(model, piece), ranks, prefix))
            reached = bool(steps) and steps[-1] == piece
            ordered |= dict.fromkeys([*(steps if reached else ()), piece])
    return list(ordered)


def trimmed(model: dict[str, Any], new_ids: dict[str, int]) -> dict[str, Any]:
    """dropout is a help in training; a student's tokenizer is deterministic. Merges are written as 'a b', which
    versions of `tokenizers` before 0.20 read too, where no piece has a space."""
    prefix = model.get("continuing_subword_prefix") or ""
    pairs = [(a, b) for a, b in _merges(model) if {a, b, a + b.removeprefix(prefix)} <= new_ids.keys()]
    spaced = any(" " in piece for pair in pairs for piece in pair)
    merges = [list(pair) if spaced else " ".join(pair) for pair in pairs]
    return model | {"vocab": new_ids, "merges": merges, "dropout": None}


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs; files of old versions have 'a b' in their place."""
    pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
    return [(str(a), str(b)) for a, b in pairs]


def _letters(model: dict[str, Any], piece: str) -> str:
    bare = piece.removeprefix(model.get("continuing_subword_prefix") or "") or piece
    return bare.removesuffix(model.get("end_of_word_suffix") or "") or bare


def _symbols(model: dict[str, Any], piece: str) -> list[str]:
    """What a piece is merged from at first: single characters, with the model's prefix inside a word, and its suffix
    at the end."""
    prefix, letters = model.get("continuing_subword_prefix") or "", _letters(model, piece)
    head, _, tail = piece.partition(letters)
    symbols = [(prefix if i else head) + letter for i, letter in enumerate(letters)]
    return [*symbols[:-1], symbols[-1] + tail] if symbols else []


def _steps(symbols: list[str], ranks: dict[tuple[str, str], int], prefix: str) -> Iterator[str]:
    """Every piece made on the way, as the model merges: the lowest rank first, the leftmost of equals."""
    symbols = list(symbols)
    while known := [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]:
        _, at = min(known)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1].removeprefix(prefix)]
        yield symbols[at]
