"""Pieces that stand for one byte each, where a SentencePiece model falls back to them."""

from __future__ import annotations

from collections.abc import Iterable

BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def byte_pieces(pieces: Iterable[str]) -> set[str]:
    return set(pieces) & BYTES
