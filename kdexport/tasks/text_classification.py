"""One text in, one class out. The student's tokenizer is the teacher's WordPiece, cut to the pieces in use."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from kdexport.backbones import InputShape
from kdexport.errors import Unsupported
from kdexport.nouns.manifest import Preprocessor
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared

if TYPE_CHECKING:
    import numpy as np

input_kind: Literal["text", "image"] = "text"
PREFIX = "##"
TOKENIZER_FILE = "tokenizer.json"
MAX_LENGTH = 128  # where neither teacher nor data sets a shorter limit
OWN_VOCAB_SIZE = 8000  # pieces learnt from the data where the teacher has no tokenizer


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
    """A tokenizer of about vocab_size pieces: special tokens, every single character, then the most frequent pieces
    of `inputs`. 0: every piece in use. Trimming never changes how a text of kept pieces is cut, since WordPiece
    takes the longest match. Raises Unsupported for a teacher whose tokenizer is not WordPiece."""
    document = _wordpiece(inputs, teacher_tokenizer)
    vocabulary: dict[str, int] = document["model"]["vocab"]
    essential = _essential(document)
    frequent = [piece for piece, _ in _piece_counts(inputs, document) if piece not in essential]
    room = max(vocab_size - len(essential), 0) if vocab_size else len(frequent)
    kept = sorted(essential | set(frequent[:room]), key=vocabulary.__getitem__)
    kept = [document["_pad"], *(p for p in kept if p != document["_pad"])]  # the padding is id 0
    length = _max_length(document)
    return Prepared(
        Preprocessor(kind="text", tokenizer=TOKENIZER_FILE, max_length=length, pad_id=0),
        _with_vocabulary(document, kept, length),
        tuple(vocabulary[p] for p in kept),
    )


def vocab_sizes(inputs: Sequence[Raw], teacher_tokenizer: str) -> list[int]:
    """All pieces in use; those used at least twice; those used at least four times. Raises Unsupported as prepare."""
    document = _wordpiece(inputs, teacher_tokenizer)
    essential = _essential(document)
    counts = [n for piece, n in _piece_counts(inputs, document) if piece not in essential]
    return sorted({len(essential) + sum(n >= least for n in counts) for least in (1, 2, 4)}, reverse=True)


def encode(prepared: Prepared, inputs: Sequence[Raw]) -> EncodedText:
    import numpy as np

    tokenizer = _tokenizer(prepared.tokenizer_json)
    rows = [e.ids for e in tokenizer.encode_batch_fast(cast(list[str], list(inputs)))]
    lengths = np.array([len(r) for r in rows], dtype=np.int64)
    ids = np.fromiter((i for row in rows for i in row), dtype=np.int32, count=int(lengths.sum()))
    return EncodedText(ids, np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths, prepared.preprocessor.pad_id)


def augment(inputs: Sequence[Raw], per_row: int, seed: int) -> list[Raw]:
    """Variants for the teacher to label: words dropped, two queries spliced, neighbours swapped, order shuffled."""
    chance = random.Random(seed)
    texts = [str(t).split() for t in inputs]
    kinds = (_drop, _splice, _swap, _splice, _drop, _shuffle)
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


def _wordpiece(inputs: Sequence[Raw], teacher_tokenizer: str) -> dict[str, Any]:
    """The teacher's tokenizer, or one learnt from the inputs."""
    document = json.loads(teacher_tokenizer) if teacher_tokenizer else _learn_wordpiece(inputs)
    kind = document["model"].get("type")
    if kind != "WordPiece":
        raise Unsupported(f"tokenizer model '{kind}' cannot be trimmed yet; WordPiece teachers (BERT, MiniLM) can")
    return document


def _tokenizer(document: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(document)


def _special(document: dict[str, Any]) -> set[str]:
    vocabulary = document["model"]["vocab"]
    named = {t["content"] for t in document.get("added_tokens", ()) if t.get("special")}
    return {t for t in named | {document["model"]["unk_token"]} if t in vocabulary}


def _essential(document: dict[str, Any]) -> set[str]:
    """Special tokens and single characters, with and without the continuing prefix: no character becomes unknown.
    Also finds the padding token, which the document does not name."""
    special = _special(document)
    padding = next((t for t in sorted(special) if "pad" in t.lower()), document["model"]["unk_token"])
    document["_pad"] = padding
    vocabulary = document["model"]["vocab"]
    return special | {p for p in vocabulary if len(p.removeprefix(PREFIX)) == 1}


def _piece_counts(inputs: Sequence[Raw], document: dict[str, Any]) -> list[tuple[str, int]]:
    """(piece, uses), most used first, ties by id: the same on every machine."""
    whole = {k: v for k, v in document.items() if not k.startswith("_")} | {"truncation": None, "padding": None}
    tokenizer = _tokenizer(json.dumps(whole))
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch_fast(cast(list[str], list(inputs))):
        counts.update(encoding.ids)
    names = {i: p for p, i in document["model"]["vocab"].items()}
    return [(names[i], n) for i, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _max_length(document: dict[str, Any]) -> int:
    truncation = document.get("truncation")
    return min(int(truncation["max_length"]), MAX_LENGTH) if truncation else MAX_LENGTH


def _with_vocabulary(document: dict[str, Any], kept: list[str], max_length: int) -> str:
    new_ids = {piece: i for i, piece in enumerate(kept)}
    changed = {k: v for k, v in document.items() if not k.startswith("_")}
    changed["model"] = document["model"] | {"vocab": new_ids}
    changed["added_tokens"] = [
        t | {"id": new_ids[t["content"]]} for t in document.get("added_tokens", ()) if t["content"] in new_ids
    ]
    post = json.loads(json.dumps(document.get("post_processor")))
    for name, token in ((post or {}).get("special_tokens") or {}).items():
        token["ids"] = [new_ids[name]]
    changed["post_processor"] = post
    changed["padding"] = None
    changed["truncation"] = {"direction": "Right", "max_length": max_length, "strategy": "LongestFirst", "stride": 0}
    return json.dumps(changed, ensure_ascii=False)


def _learn_wordpiece(inputs: Sequence[Raw]) -> dict[str, Any]:
    """A lower-casing WordPiece tokenizer learnt from the queries: for teachers that are functions or scores.

    Continuing characters are handed to the trainer as special tokens, and taken off the list afterwards: else it
    numbers them in the order of a hash map, another one in every call, and breaks ties between merges by number."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = [tokenizer.normalizer.normalize_str(str(t)) for t in inputs]
    printable = {chr(c) for c in range(33, 127) if not chr(c).isupper()}
    alphabet = sorted(printable.union(*texts) - set(" "))
    trainer = trainers.WordPieceTrainer(
        vocab_size=OWN_VOCAB_SIZE,
        special_tokens=special + [PREFIX + c for c in alphabet],
        initial_alphabet=alphabet,
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] in special]
    return document
