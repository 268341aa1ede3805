"""Text to token ids, exactly as the `tokenizers` library gives them, several times faster on plain text.

A short query costs 20 to 70 us in `tokenizers`; a dict from word to ids costs about 4 us. The dict starts empty and
fills with what is asked: no text of the training data is in the bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

MAX_CACHED_WORDS = 65_536  # with MAX_CACHED_LETTERS this bounds the cache at some 15 MB, whatever is asked
MAX_CACHED_LETTERS = 32
# BertPreTokenizer on printable ASCII: punctuation stands alone, spaces separate, the rest are words
WORDS = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")


class TextEncoder:
    """One tokenizers JSON file, without padding, truncated to `max_length` ids (special tokens included)."""

    def __init__(self, path: Path, max_length: int, pad_id: int = 0) -> None:
        """Raises ValueError if max_length leaves no room for the special tokens."""
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}; at least 2 is wanted")
        from tokenizers import Tokenizer

        text = Path(path).read_text(encoding="utf-8")
        self._tokenizer = Tokenizer.from_str(text)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self._pad_id = pad_id
        frame = bert_frame(json.loads(text))
        self.has_fast_path = frame is not None
        self._prefix, self._suffix = (_to_bytes(ids) for ids in frame or ([], []))
        self._max_word_bytes = 8 * max_length - len(self._prefix) - len(self._suffix)
        self._words = _WordCache(self._tokenizer)

    def encode(self, text: str) -> Any:
        """int64 (1, T): the ids of one text, T >= 1: what has none is one of padding. A lone surrogate, which is no
        text, becomes '?'."""
        plain = text.isascii() and text.isprintable() and "[" not in text and "<" not in text
        if self.has_fast_path and plain:
            words = b"".join(map(self._words.__getitem__, WORDS.findall(text)))
            ids = self._prefix + words[: self._max_word_bytes] + self._suffix
            return np.frombuffer(ids, np.int64).reshape(1, -1)
        return np.array([self._tokenizer.encode(_without_surrogates(text)).ids or [self._pad_id]], np.int64)

    def encode_batch(self, texts: list[str]) -> Any:
        """int64 (B, T): padded on the right to the longest of the texts."""
        rows = [self.encode(text)[0] for text in texts]
        ids = np.full((len(rows), max(map(len, rows), default=0)), self._pad_id, np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids


def bert_frame(document: dict[str, Any]) -> tuple[list[int], list[int]] | None:
    """(ids before, ids after) a text, where a tokenizers JSON is BERT's and words can be looked up one by one.

    None: something in it may look across words (another model, normaliser, or an added token without '[' or '<')."""
    parts = {name: (document.get(name) or {}).get("type") for name in ("normalizer", "pre_tokenizer", "model")}
    if parts != {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}:
        return None
    if any(not {"[", "<"} & set(token["content"]) for token in document.get("added_tokens") or []):
        return None
    post = document.get("post_processor") or {}
    if post.get("type") in ("BertProcessing", "RobertaProcessing"):  # MPNet has WordPiece in RoBERTa's frame
        return [post["cls"][1]], [post["sep"][1]]
    if post.get("type") != "TemplateProcessing":
        return None
    pieces = [next(iter(piece.items())) for piece in post["single"]]
    if [kind for kind, _ in pieces] != ["SpecialToken", "Sequence", "SpecialToken"]:
        return None
    before, after = (post["special_tokens"][piece["id"]]["ids"] for _, piece in (pieces[0], pieces[2]))
    return before, after


class _WordCache(dict):  # type: ignore[type-arg]  # dict[str, bytes] cannot be subclassed under Python 3.8
    """Word to the bytes of its int64 ids; a missing one is asked of the tokenizer.

    Emptied when full: it then refills with today's words, and no flood of odd ones keeps them out for good."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> bytes:
        ids = _to_bytes(self._tokenizer.encode(word, add_special_tokens=False).ids)
        if len(word) <= MAX_CACHED_LETTERS:
            if len(self) >= MAX_CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _to_bytes(ids: list[int]) -> bytes:
    return np.array(ids, np.int64).tobytes()


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
