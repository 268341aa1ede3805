"""The teacher's tokenizer cut to the pieces in use: `tokenization/NAME.py` trims the `tokenizers` model NAME.

Each module offers, on the "model" object of a tokenizers JSON,
    ids(model) -> id of every piece
    unknown(model) -> the piece that stands for what the model does not know, None where nothing is unknown to it
    essential(model, seen) -> Essential: what is kept however small the vocabulary
    in_order(model, pieces) -> the pieces, each after the shorter ones that it is merged from
    trimmed(model, new_ids) -> the model with these pieces and no others

A text whose pieces are all kept is cut as before. Any other is cut into shorter pieces, never into an unknown one:
characters that the texts hold, and those of printable ASCII, keep a piece each.
"""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

from kdexport import registry
from kdexport.errors import Unsupported
from kdexport.tokenization import _post_processor
from kdexport.tokenization._learnt import learn_wordpiece

LEAST_USES = (1, 2, 4, 8, 16)  # of the vocabularies worth trying
MAX_LENGTH = 128  # where neither teacher nor data sets a shorter limit
MANY_SPECIAL = 16  # T5 has 100 sentinels, Llama 3 256 reserved tokens: past this many, only those in use stay
PADDING = "[PAD]"  # a new piece, where the teacher has none that no text holds
PRINTABLE = frozenset(string.printable) - frozenset(string.whitespace)


@dataclass(frozen=True)
class Essential:
    """kept: pieces with a row each. alike: single characters that the texts never hold; they share one row, since
    no training would tell them apart."""

    kept: frozenset[str]
    alike: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Trimmed:
    """document: a tokenizers JSON, padding is id 0. kept_ids: (V,), the teacher's id of each new one."""

    document: str
    kept_ids: tuple[int, ...]
    max_length: int


class Kind(Protocol):
    def ids(self, model: dict[str, Any]) -> dict[str, int]: ...
    def unknown(self, model: dict[str, Any]) -> str | None: ...
    def essential(self, model: dict[str, Any], seen: frozenset[str]) -> Essential: ...
    def in_order(self, model: dict[str, Any], pieces: Sequence[str]) -> list[str]: ...
    def trimmed(self, model: dict[str, Any], new_ids: dict[str, int]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Counted:
    """A tokenizer and what a list of texts uses of it. frequent: (piece, uses) besides the essential ones, in the
    order in which they are kept."""

    document: dict[str, Any]
    kind: Kind
    ids: dict[str, int]
    padding: str
    essential: Essential
    frequent: tuple[tuple[str, int], ...]

    @property
    def first(self) -> frozenset[str]:
        """Kept whatever the size: the essential pieces, and one for all that are alike."""
        alike = sorted(self.essential.alike, key=self.ids.__getitem__)
        return self.essential.kept | {self.padding} | set(alike[:1])


def trim(texts: Sequence[str], tokenizer: str, vocab_size: int) -> Trimmed:
    """A tokenizer of vocab_size pieces (0: every piece in use): the essential ones, then those that `texts` use
    most, ties by id. tokenizer: the teacher's JSON; empty: one is learnt from the texts. Raises Unsupported for a
    model that cannot be trimmed."""
    counted = _counted(tokenizer, tuple(texts))
    room = max(vocab_size - len(counted.first), 0) if vocab_size else len(counted.frequent)
    kept = counted.first | {piece for piece, _ in counted.frequent[:room]}
    return _renumbered(counted, kept)


def vocab_sizes(texts: Sequence[str], tokenizer: str) -> list[int]:
    """All pieces in use; those used at least 2, 4, 8, 16 times. Raises Unsupported as trim."""
    counted = _counted(tokenizer, tuple(texts))
    uses = [n for _, n in counted.frequent]
    return sorted({len(counted.first) + sum(n >= least for n in uses) for least in LEAST_USES}, reverse=True)


@lru_cache(maxsize=2)  # a ladder prepares the same texts for each of its students
def _counted(tokenizer: str, texts: tuple[str, ...]) -> _Counted:
    document = json.loads(tokenizer) if tokenizer else learn_wordpiece(texts)
    kind, document = _kind_of(document, tokenizer)
    model, added = document["model"], document.get("added_tokens") or []
    ids = kind.ids(model) | {t["content"]: int(t["id"]) for t in added}
    uses = _uses(document, texts, ids)
    framing = _post_processor.ids(document.get("post_processor"))
    unknown = kind.unknown(model)
    taken = {piece for piece, i in ids.items() if i in framing} | ({unknown} if unknown else set())
    padding = _padding(document, taken)
    found = kind.essential(model, PRINTABLE | frozenset("".join(uses)))
    kept = found.kept | taken | {padding} | _special(document, set(uses))
    essential = Essential(kept, found.alike - kept)
    settled = kept | essential.alike
    frequent = tuple((p, uses.get(p, 0)) for p in kind.in_order(model, list(uses)) if p not in settled)
    return _Counted(document, kind, {PADDING: 0} | ids, padding, essential, _as_often_as_needed(frequent))


def _as_often_as_needed(frequent: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """A piece that others are merged from counts as used as often as the first of those: uses never rise."""
    counts = [n for _, n in frequent]
    for i in range(len(counts) - 2, -1, -1):
        counts[i] = max(counts[i], counts[i + 1])
    return tuple((piece, n) for (piece, _), n in zip(frequent, counts, strict=True))


def _kind_of(document: dict[str, Any], text: str) -> tuple[Kind, dict[str, Any]]:
    if "type" not in document["model"] and text:  # files of old versions: the library knows what they are
        from tokenizers import Tokenizer

        document = json.loads(Tokenizer.from_str(text).to_str())
    name = str(document["model"].get("type"))
    known = {module: registry.load("tokenization", module) for module in registry.names("tokenization")}
    if name.lower() not in known:
        raise Unsupported(
            f"tokenizer model '{name}' cannot be trimmed: dropped words would become unknown pieces; "
            f"{', '.join(m.NAME for m in known.values())} teachers can"
        )
    return cast(Kind, known[name.lower()]), document


def _uses(document: dict[str, Any], texts: Sequence[str], ids: dict[str, int]) -> dict[str, int]:
    """Uses of every piece, most used first, ties by id: the same on every machine."""
    from tokenizers import Tokenizer

    model = {key: value for key, value in document["model"].items() if key != "dropout"}
    whole = document | {"model": model, "truncation": None, "padding": None}
    counts: Counter[int] = Counter()
    for encoding in Tokenizer.from_str(json.dumps(whole)).encode_batch_fast(list(texts)):
        counts.update(encoding.ids)
    names = {i: piece for piece, i in ids.items()}
    return {names[i]: n for i, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}


def _special(document: dict[str, Any], used: set[str]) -> set[str]:
    """Added tokens that stay: those in use, and the special ones where they are few."""
    added = document.get("added_tokens") or []
    special = [t["content"] for t in added if t.get("special")]
    return {t["content"] for t in added if t["content"] in used} | set(special if len(special) <= MANY_SPECIAL else ())


def _padding(document: dict[str, Any], taken: set[str]) -> str:
    """The piece that becomes id 0: the file's own, one named so, a special token that no text is framed by, or a
    new one. Never one of `taken`: a student does not see its padding."""
    special = [t["content"] for t in document.get("added_tokens") or [] if t.get("special")]
    own = (document.get("padding") or {}).get("pad_token")
    named = sorted(t for t in special if "pad" in t.lower())
    return next((t for t in [*([own] if own in special else []), *named, *special] if t not in taken), PADDING)


def _renumbered(counted: _Counted, kept: frozenset[str]) -> Trimmed:
    """Padding first, then pieces of the model, then added tokens outside it, each in the teacher's order."""
    document, old_ids = counted.document, counted.ids
    inside = set(counted.kind.ids(document["model"])) | {counted.padding}
    order = sorted(kept, key=lambda p: (p != counted.padding, p not in inside, old_ids[p]))
    new_ids = {piece: i for i, piece in enumerate(order)}
    if counted.essential.alike:  # the library numbers tokens outside the model from the number of its pieces, which
        inside |= set(order)  # is no longer the number of its ids: all go inside
        row = min(new_ids[p] for p in counted.essential.alike if p in new_ids)
        new_ids |= dict.fromkeys(counted.essential.alike, row)
    length = _max_length(document)
    added = [t | {"id": new_ids[t["content"]]} for t in document.get("added_tokens") or [] if t["content"] in new_ids]
    renumbered = {
        old_ids[piece]: new_ids[piece] for piece in order
    }  # a new padding has no id of its own: the last wins
    changed = document | {
        "model": counted.kind.trimmed(document["model"], {p: i for p, i in new_ids.items() if p in inside}),
        "added_tokens": sorted(added, key=lambda t: int(t["id"])),
        "post_processor": _post_processor.renumbered(document.get("post_processor"), renumbered),
        "padding": None,
        "truncation": {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 0},
    }
    return Trimmed(json.dumps(changed, ensure_ascii=False), tuple(old_ids[p] for p in order), length)


def _max_length(document: dict[str, Any]) -> int:
    truncation = document.get("truncation")
    return min(int(truncation["max_length"]), MAX_LENGTH) if truncation else MAX_LENGTH
