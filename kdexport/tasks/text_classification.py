"""One text in, one class out. The student's tokenizer is the teacher's, cut to the pieces in use."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from kdexport import tokenization
from kdexport.backbones import InputShape
from kdexport.nouns.manifest import Preprocessor
from kdexport.storage.tables import Raw
from kdexport.tasks import NONE, Neighbours, Prepared, Row
from kdexport.tasks._neighbours import WORD
from kdexport.tasks._neighbours import neighbours as find_neighbours

if TYPE_CHECKING:
    import numpy as np

input_kind: Literal["text", "image"] = "text"
VARIANTS_KEEP_CLASS = False  # a splice is half another query, and a dropped word may have been the one that counts
ROUNDS = (  # of variants of every row
    "drop", "substitute", "mistype", "splice", "substitute", "swap", "substitute", "splice", "drop", "substitute",
    "mistype", "shuffle",
)  # fmt: skip
Change = Callable[[list[str], list[str], random.Random], list[str]]
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
    """All pieces in use; those used at least 2, 4, 8, 16 times. Raises Unsupported as prepare."""
    return tokenization.vocab_sizes(_texts(inputs), teacher_tokenizer)


def encode(prepared: Prepared, inputs: Sequence[Raw]) -> EncodedText:
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(prepared.tokenizer_json)
    blank = [prepared.preprocessor.pad_id]  # of an empty text that nothing frames: no network takes a row of nothing
    rows = [e.ids or blank for e in tokenizer.encode_batch_fast(cast(list[str], list(inputs)))]
    lengths = np.array([len(r) for r in rows], dtype=np.int64)
    ids = np.fromiter((i for row in rows for i in row), dtype=np.int32, count=int(lengths.sum()))
    return EncodedText(ids, np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths, prepared.preprocessor.pad_id)


def rounds(per_row: int, neighbours: Neighbours) -> list[str]:
    """What is done to every row, in turn; nothing is put in another word's place where no neighbours are known."""
    kinds = ROUNDS if neighbours else [kind for kind in ROUNDS if kind != "substitute"]
    return [kinds[i % len(kinds)] for i in range(per_row)]


def augment(
    inputs: Sequence[Raw], per_row: int, seed: int, labels: np.ndarray | None = None, neighbours: Neighbours = NONE
) -> list[Raw]:
    """Variants for the teacher to label: words dropped, put in a near word's place, or swapped with the next, two
    queries spliced, order shuffled, and slips of the finger as users make them."""
    chance = random.Random(seed)
    texts = [str(t).split() for t in inputs]
    changes: dict[str, Change] = {
        "drop": _drop,
        "substitute": _Substitute(neighbours),
        "mistype": _mistype,
        "splice": _splice,
        "swap": _swap,
        "shuffle": _shuffle,
    }
    variants: list[Raw] = []
    for kind in rounds(per_row, neighbours):
        variants += [" ".join(changes[kind](words, chance.choice(texts), chance)) for words in texts]
    return variants


def near_words(inputs: Sequence[Raw], teacher_tokenizer: str, embedding: np.ndarray | None) -> Neighbours:
    """For `augment`; embedding: the teacher's token embedding (V, D), whole, where it has one."""
    return find_neighbours(_texts(inputs), teacher_tokenizer, embedding)


def worth_pieces(variants: Sequence[Row], per_row: int, neighbours: Neighbours) -> list[Raw]:
    """Of the variants that `augment` made, those whose pieces are worth a row of the student's embedding: with a near
    word in another's place. What is mistyped is not."""
    kinds = rounds(per_row, neighbours)
    size = len(variants) // max(1, per_row)
    chosen = [i for i, kind in enumerate(kinds) if kind == "substitute"]
    return [str(v) for i in chosen for v in variants[i * size : (i + 1) * size]]


class _Substitute:
    """One or two words of a row in favour of near ones; of three drawn, the one that was used least so far: the whole
    neighbourhood is shown."""

    def __init__(self, neighbours: Neighbours) -> None:
        self.neighbours = neighbours
        self.uses: Counter[str] = Counter()

    def __call__(self, words: list[str], other: list[str], chance: random.Random) -> list[str]:
        changed = list(words)
        cores = [WORD.fullmatch(word) for word in words]
        places = [i for i, m in enumerate(cores) if m and m.group(2).lower() in self.neighbours]
        for i in chance.sample(places, min(len(places), chance.randint(1, 2))):
            before, core, after = cast(re.Match[str], cores[i]).groups()
            near = self.neighbours[core.lower()]
            word = min(chance.sample(near, min(3, len(near))), key=self.uses.__getitem__)
            self.uses[word] += 1
            changed[i] = before + word + after
        return changed


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
