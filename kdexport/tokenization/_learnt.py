"""A tokenizer learnt from the texts, for a teacher that has none: a function, a file of scores, an endpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

VOCAB_SIZE = 8000  # pieces, at most
PREFIX = "##"


def learn_wordpiece(texts: Sequence[str]) -> dict[str, Any]:
    """A lower-casing WordPiece tokenizer learnt from the texts: for teachers that are functions or scores.

    Continuing characters are handed to the trainer as special tokens, and taken off the list afterwards: else it
    numbers them in the order of a hash map, another one in every call, and breaks ties between merges by number."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    lines = [tokenizer.normalizer.normalize_str(text) for text in texts]
    printable = {chr(c) for c in range(33, 127) if not chr(c).isupper()}
    alphabet = sorted(printable.union(*lines) - set(" "))
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special + [PREFIX + c for c in alphabet],
        initial_alphabet=alphabet,
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] in special]
    return document
