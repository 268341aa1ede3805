"""One text in, one class out. The student's tokenizer is the teacher's, cut to the pieces in use."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from kdexport import tokenization
from kdexport.backbones import InputShape
from kdexport.nouns.manifest import Preprocessor
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared

if TYPE_CHECKING:
    import numpy as np

input_kind: Literal["text", "image"] = "text"
TOKENIZER_FILE = "tokenizer.json"
BESIDE = {  # keys next to each other on a keyboard (QWERTY)
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl",
    "p": "ol", "a": "qsz", "s": "awdx", "d": "sefc", "f": "drgv", "g": "fthb", "h": "gyjn", "j": "hukm", "k": "jil",
    "l": "ko", "z": "asx", "x": "zsdc", "c": "xdfv", "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk",
}  # fmt: skip


@dataclass(frozen=True)
class EncodedText:
    """Ragged ids: row i is ids[offsets[i]:offsets[i + 1]]."""

    ids: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    pad_id: int

    def batch(self, rows: np.ndarray) -> np.ndarray:
        import numpy as np

        lengths = self.lengths[rows]
        columns = np.arange(int(lengths.max()))
        positions = self.offsets[rows][:, None] + np.minimum(columns, lengths[:, None] - 1)
        padded: np.ndarray = np.where(columns < lengths[:, None], self.ids[positions], self.pad_id)
        return padded.astype(np.int64)

    def shape(self, batch: int = 1) -> InputShape:
        import numpy as np

        return InputShape(batch=batch, tokens=int(np.median(self.lengths)))


def prepare(inputs: Sequence[Raw], teacher_tokenizer: str, vocab_size: int) -> Prepared:
    """The teacher's tokenizer, or one learnt from `inputs`, cut to vocab_size pieces; 0: every piece in use. See
    kdexport/tokenization. Raises Unsupported for a tokenizer model that cannot be trimmed."""
    found = tokenization.trim(_texts(inputs), teacher_tokenizer, vocab_size)
    preprocessor = Preprocessor(kind="text", tokenizer=TOKENIZER_FILE, max_length=found.max_length, pad_id=0)
    return Prepared(preprocessor, found.document, found.kept_ids)


def vocab_sizes(inputs: Sequence[Raw], teacher_tokenizer: str) -> list[int]:
    """All pieces in use; those used at least twice; those used at least four times. Raises Unsupported as prepare."""
    return tokenization.vocab_sizes(_texts(inputs), teacher_tokenizer)


def encode(prepared: Prepared, inputs: Sequence[Raw]) -> EncodedText:
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(prepared.tokenizer_json)
    rows = [e.ids for e in tokenizer.encode_batch_fast(cast(list[str], list(inputs)))]
    lengths = np.array([len(r) for r in rows], dtype=np.int64)
    ids = np.fromiter((i for row in rows for i in row), dtype=np.int32, count=int(lengths.sum()))
    return EncodedText(ids, np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths, prepared.preprocessor.pad_id)


def augment(inputs: Sequence[Raw], per_row: int, seed: int, labels: np.ndarray | None = None) -> list[Raw]:
    """Variants for the teacher to label: words dropped, two queries spliced, neighbours swapped, order shuffled, and
    slips of the finger as users make them."""
    chance = random.Random(seed)
    texts = [str(t).split() for t in inputs]
    kinds = (_drop, _splice, _mistype, _swap, _splice, _drop, _mistype, _shuffle)
    variants: list[Raw] = []
    for index in range(per_row):
        change = kinds[index % len(kinds)]
        variants += [" ".join(change(words, chance.choice(texts), chance)) for words in texts]
    return variants


def _drop(words: list[str], other: list[str], chance: random.Random) -> list[str]:
    rate = chance.uniform(0.1, 0.4)
    return [w for w in words if chance.random() > rate] or words


def _splice(words: list[str], other: list[str], chance: random.Random) -> list[str]:
    head = words[: chance.randint(1, max(len(words) - 1, 1))]
    return head + other[chance.randint(0, max(len(other) - 1, 0)) :]


def _swap(words: list[str], other: list[str], chance: random.Random) -> list[str]:
    changed = list(words)
    for _ in range(max(1, len(words) // 6)):
        if len(changed) > 1:
            i = chance.randrange(len(changed) - 1)
            changed[i], changed[i + 1] = changed[i + 1], changed[i]
    return changed


def _shuffle(words: list[str], other: list[str], chance: random.Random) -> list[str]:
    changed = list(words)
    chance.shuffle(changed)
    return changed


def _mistype(words: list[str], other: list[str], chance: random.Random) -> list[str]:
    """2 to 10 % of the characters hit beside, left out, doubled, or swapped with the next."""
    letters = list(" ".join(words))
    for _ in range(max(1, round(len(letters) * chance.uniform(0.02, 0.10)))):
        if len(letters) < 2:
            break
        i, slip = chance.randrange(len(letters) - 1), chance.random()
        if slip < 0.35:
            letters[i] = chance.choice(BESIDE.get(letters[i].lower(), letters[i]))
        elif slip < 0.6:
            del letters[i]
        elif slip < 0.75:
            letters.insert(i, letters[i])
        else:
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
    return "".join(letters).split() or words


def _texts(inputs: Sequence[Raw]) -> list[str]:
    return [str(text) for text in inputs]
