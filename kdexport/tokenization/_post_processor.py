"""The special tokens that a tokenizers post-processor frames a text with: which ones, and their new ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdexport.errors import Unsupported


def ids(post_processor: dict[str, Any] | None) -> set[int]:
    """Ids of the tokens that it adds. Raises Unsupported for a kind that is not known."""
    found: set[int] = set()

    def noted(token: int) -> int:
        found.add(token)
        return token

    _each(post_processor, noted)
    return found


def renumbered(post_processor: dict[str, Any] | None, new_ids: dict[int, int]) -> dict[str, Any] | None:
    return _each(post_processor, new_ids.__getitem__)


def _each(post: dict[str, Any] | None, change: Callable[[int], int]) -> dict[str, Any] | None:
    """A copy with every id changed."""
    kind = post and post["type"]
    if not post or kind == "ByteLevel":
        return post
    if kind == "Sequence":
        return post | {"processors": [_each(p, change) for p in post["processors"]]}
    if kind in ("BertProcessing", "RobertaProcessing"):
        return post | {end: [post[end][0], change(post[end][1])] for end in ("sep", "cls")}
    if kind == "TemplateProcessing":
        tokens = post["special_tokens"]
        return post | {"special_tokens": {n: t | {"ids": [change(i) for i in t["ids"]]} for n, t in tokens.items()}}
    raise Unsupported(f"tokenizer post-processor '{kind}' is not known: the ids that it adds cannot be renumbered")
