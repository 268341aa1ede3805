"""A small WordPiece teacher, trained on made-up queries, and small pictures."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

WORDS = ("card", "cards", "payment", "paying", "refund", "refunded", "lost", "losing", "top-up", "exchange", "café")


def queries(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 7))) + "?" for _ in range(count)]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return queries(120, 0)


@pytest.fixture(scope="session")
def teacher_tokenizer() -> str:
    """BERT's shape: padding is id 0, and characters that the queries lack are known too."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    more = ["zebra quiz jump xylophone fjord 0123456789 !?.,-", "quartz zinc wax jazz vex bog kiwi"]
    tokenizer.train_from_iterator([*queries(300, 1), *more * 5], trainer)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    tokenizer.enable_truncation(32)
    tokenizer.enable_padding(length=32)
    document: str = tokenizer.to_str()
    assert json.loads(document)["padding"] is not None
    return document


def picture(mode: str, width: int, height: int, seed: int, form: str = "PNG") -> bytes:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.frombytes(mode, (width, height), pixels.tobytes()).save(buffer, form)
    return buffer.getvalue()
