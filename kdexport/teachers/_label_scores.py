"""From a language model's answer to scores of classes: log-probabilities along the answer, or votes.

The model names a class by a code: a letter, a number, or the class's name. Where the server tells the likeliest tokens
at each position, the answer is walked: a token that leaves the answer's path gives its probability to the codes that
still begin so, in equal parts where there are several; the path itself goes on to the next token, with the product of
its probabilities. Exact where every code has a first token of its own (up to 20 letters, and three-digit numbers of
the larger tokenizers); else the equal parts are an approximation of branches that the model did not take."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LETTERS = "ABCDEFGHIJKLMNOPQRST"  # 20: as many alternatives as servers tell
LEAST_MASS = 0.05  # on all codes together; below, the model answers something else
FLOOR = 1e-4  # share of a class that no alternative names
PSEUDO_VOTES = 0.1  # spread over all classes: one vote of one leaves 9 % for the others
OPENING = " \t\r\n\"'`*([{-_#"
Alternatives = dict[str, float]  # token -> probability


@dataclass(frozen=True)
class Position:
    """One token of the answer, with what could have stood there."""

    token: str
    probability: float
    alternatives: Alternatives


@dataclass(frozen=True)
class Reply:
    """tokens: none where the server tells no log-probabilities."""

    text: str
    tokens: tuple[Position, ...]


def read_replies(document: Any) -> list[Reply]:
    """Of a chat completion. Raises ValueError, KeyError, TypeError, ... for another shape."""
    if not isinstance(document, dict) or not document["choices"]:
        raise ValueError("no choices")
    return [_reply(choice) for choice in document["choices"]]


def _reply(choice: Any) -> Reply:
    text = choice["message"].get("content") or ""
    if not isinstance(text, str):
        raise TypeError("content is no text")
    told = (choice.get("logprobs") or {}).get("content") or []
    return Reply(text, tuple(map(_position, told)))


def _position(entry: Any) -> Position:
    alternatives = {str(a["token"]): _probability(a["logprob"]) for a in entry.get("top_logprobs") or []}
    token, probability = str(entry["token"]), _probability(entry["logprob"])
    return Position(token, probability, {**alternatives, token: probability})


def _probability(logprob: Any) -> float:
    value = float(logprob)
    if math.isnan(value) or value > 1e-3:
        raise ValueError("not a log-probability")
    return math.exp(min(value, 0.0))


def spoken(code: str, names: bool) -> str:
    """A code, or the beginning of an answer, as the two are compared: names by their words, letters as they are."""
    text = code.lstrip(OPENING)
    return text.replace("_", " ").casefold() if names else text


class Codes:
    """What the model may answer: a code for each class, in order."""

    def __init__(self, codes: Sequence[str], names: bool) -> None:
        self.names = names
        self.codes = [spoken(c, names) for c in codes]

    def mass(self, tokens: Sequence[Position]) -> np.ndarray:
        """float64 (C,): probability that the answer is each code; together at most 1."""
        import numpy as np

        mass, path, before = np.zeros(len(self.codes)), 1.0, ""
        for position in tokens:
            for token, probability in position.alternatives.items():
                if token != position.token:
                    mass += path * probability * self._begun(before, before + token)
            path *= position.probability
            told = self._begun(before, before + position.token)
            before += position.token
            if (told > 0).sum() < 2 and spoken(before, self.names):
                return mass + path * told
        return mass + path * self._begun(before, before + "\n")

    def _begun(self, before: str, text: str) -> np.ndarray:
        """(C,), shares of the codes that an answer which begins with `text` may be; zeros where it is none."""
        import numpy as np

        shares, start = np.zeros(len(self.codes)), spoken(text, self.names)
        if not start.strip():
            return shares
        fits = [i for i, code in enumerate(self.codes) if code.startswith(start)]
        whole = [] if fits else [i for i, code in enumerate(self.codes) if _ends_after(code, start)]
        if not fits and not whole and text.endswith("\n"):  # cut off in mid-code
            fits = [i for i, code in enumerate(self.codes) if code.startswith(spoken(before, self.names))]
        chosen = [max(whole, key=lambda i: len(self.codes[i]))] if whole else fits
        shares[chosen] = 1.0 / max(len(chosen), 1)
        return shares

    def parse(self, text: str) -> int | None:
        """The one class that an answer names; None for none, or for several."""
        within = spoken(text, self.names)
        found = [i for i, code in enumerate(self.codes) if re.search(rf"(?<!\w){re.escape(code)}(?!\w)", within)]
        found = [i for i in found if not any(j != i and self.codes[i] in self.codes[j] for j in found)]
        return found[0] if len(found) == 1 else None


def _ends_after(code: str, start: str) -> bool:
    """Does the text begin with the whole code, and then with something that is no part of a word?"""
    return start.startswith(code) and (len(start) == len(code) or not (start[len(code)].isalnum()))


def logits_of(replies: Sequence[Reply], codes: Codes) -> np.ndarray | None:
    """float64 (C,): log of the distribution over classes; None where no reply names one.

    Of the first reply's log-probabilities where it has them, else of all replies' votes with PSEUDO_VOTES."""
    import numpy as np

    if replies[0].tokens:
        mass = codes.mass(replies[0].tokens)
        if mass.sum() >= LEAST_MASS:
            share: np.ndarray = np.maximum(mass / mass.sum(), FLOOR)
            return _log_shares(share)
    votes = [v for reply in replies if (v := codes.parse(reply.text)) is not None]
    if not votes:
        return None
    counts = np.bincount(votes, minlength=len(codes.codes)) + PSEUDO_VOTES / len(codes.codes)
    return _log_shares(counts)


def _log_shares(parts: np.ndarray) -> np.ndarray:
    import numpy as np

    logits: np.ndarray = np.log(parts / parts.sum())
    return logits
