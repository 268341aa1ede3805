"""One small teacher's tokenizer of each kind, trained on made-up queries, and odd strings to try them with."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

WORDS = (
    "card",
    "cards",
    "payment",
    "paying",
    "refund",
    "refunded",
    "lost",
    "losing",
    "top-up",
    "exchange",
    "café",
    "£5",
)
MORE = [
    "zebra quiz jump xylophone fjord 0123456789 !?.,-",
    "quartz zinc wax jazz vex bog kiwi",
    string.printable.strip(),
]
FOREIGN = ["你好 世界", "привет мир", "ναί naïve 5°"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
PIECES_OF_ODD = [
    *WORDS, *FOREIGN, *SPECIAL, "[PAD]", "[MASK]", "[CLS]", "zebra", "CARD", "Payment", "a" * 101, " ", "  ", "\t",
    "\n", "\x00", "\x7f", "\xa0", "\u200b", "\ufeff", "e\u0301", "ß", "ﬁ", "İ", "🙂", "…", "\u2028", "\U000e0041",
    "中", "<0x41>", "##ing", "▁card", "Ġcard", "</w>",
]  # fmt: skip


def queries(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 7))) + "?" for _ in range(count)]


def odd_strings(count: int, seed: int = 0) -> list[str]:
    """Joined from words, special tokens, foreign scripts, control characters, and random letters."""
    chance = random.Random(seed)

    def part() -> str:
        kind = chance.randrange(4)
        if kind == 0:
            return "".join(chance.choices(string.printable, k=chance.randint(1, 5)))
        if kind == 1:
            return "".join(chr(chance.randrange(1, 0x2FFF)) for _ in range(chance.randint(1, 3)))
        return chance.choice(PIECES_OF_ODD)

    return [chance.choice(["", " "]).join(part() for _ in range(chance.randrange(9))) for _ in range(count)]


def train(tokenizer: Tokenizer, trainer: Any, special: list[str]) -> Tokenizer:
    tokenizer.train_from_iterator([*queries(300, 1), *MORE * 5, *FOREIGN * 5], trainer)
    tokenizer.add_special_tokens(special)
    return tokenizer


def wordpiece() -> Tokenizer:
    """MPNet's shape: WordPiece in RoBERTa's frame, padding is id 1."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["<s>", "<pad>", "</s>", "[UNK]", AddedToken("<mask>", lstrip=True)]
    train(tokenizer, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False), [])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram() -> Tokenizer:
    """XLM-R's shape."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    train(tokenizer, trainer, [])
    frame = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", frame)
    return tokenizer


def byte_level_bpe() -> Tokenizer:
    """RoBERTa's shape, with merges of words that nobody asks for."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    train(tokenizer, trainer, [])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def bpe_without_padding() -> Tokenizer:
    """GPT-2's shape: no unknown piece, no padding, the special token outside the model; merges as 'a b'."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    train(tokenizer, trainer, ["<|endoftext|>"])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), processors.ByteLevel(trim_offsets=False)])
    return tokenizer


def bpe_with_suffix() -> Tokenizer:
    """GPT's shape: the last piece of a word ends in </w>; characters, not bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        end_of_word_suffix="</w>",
        continuing_subword_prefix="##",
        show_progress=False,
    )
    return train(tokenizer, trainer, [])


def bpe_of_sentencepiece() -> Tokenizer:
    """Llama's shape: no words before the merges, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[*SPECIAL, *bytes_], show_progress=False)
    train(tokenizer, trainer, [])
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    made.__name__: made
    for made in (wordpiece, unigram, byte_level_bpe, bpe_without_padding, bpe_with_suffix, bpe_of_sentencepiece)
}
_MADE: dict[str, str] = {}


@pytest.fixture(params=sorted(KINDS))
def teacher(request: pytest.FixtureRequest) -> str:
    """A tokenizers JSON, made once."""
    return teacher_of(request.param)


def teacher_of(kind: str) -> str:
    if kind not in _MADE:
        _MADE[kind] = KINDS[kind]().to_str()
    return _MADE[kind]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return queries(120, 0)
