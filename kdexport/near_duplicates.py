"""Rows of one set that are nearly rows of another: Jaccard's index of their shingles of four characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kdexport.storage.files import sha256_bytes

if TYPE_CHECKING:
    import numpy as np

SHINGLE = 4  # characters: a short word, or the seam of two
NEAR = 0.8  # one word of six changed is below it, its ending or the punctuation above
MAX_KNOWN, MAX_ASKED = 100_000, 10_000  # rows compared: of more, a sample
BANDS, BAND_ROWS = 16, 4  # 2 of 10,000 pairs at index 0.8 are missed: (1 - 0.8^4)^16
MAX_CANDIDATES = 50  # of one row in one band: where so many share it, the first few tell


@dataclass(frozen=True)
class NearDuplicates:
    """rows: the near ones' indices, ascending. of: rows that were looked at. sampled: not all of both sets were."""

    rows: tuple[int, ...]
    of: int
    sampled: bool


def near_duplicates(train: Sequence[str], test: Sequence[str]) -> NearDuplicates:
    """Test rows that are nearly, but not exactly, a training row: candidates by min-hashing in bands (Broder 1997),
    each of them then compared by its shingles."""
    exact = dict.fromkeys(train)
    known = _sample(list(exact), MAX_KNOWN)
    other = [i for i, text in enumerate(test) if text not in exact]
    chosen = set(_sample([test[i] for i in other], MAX_ASKED))
    asked = [i for i in other if test[i] in chosen]
    near = sorted({asked[i] for i in _near([test[i] for i in asked], known)}) if asked and known else []
    sampled = len(known) < len(exact) or len(asked) < len(other)
    return NearDuplicates(tuple(near), len(asked) if len(asked) < len(other) else len(test), sampled)


def jaccard(one: set[int], other: set[int]) -> float:
    """0..1: members that both have, over those that either has."""
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def _sample(texts: list[str], count: int) -> list[str]:
    """At most so many, by their hash: the same ones on every run."""
    if len(texts) <= count:
        return texts
    return sorted(texts, key=lambda text: sha256_bytes(text.encode(errors="surrogatepass")))[:count]


@dataclass(frozen=True)
class _Shingled:
    """hashes: uint64, the shingles of all texts in a row; starts: where each text's begin, and the end of the last."""

    hashes: np.ndarray
    starts: np.ndarray

    @cached_property
    def short(self) -> np.ndarray:
        """uint32: half the bytes to go through, and enough for a minimum."""
        import numpy as np

        return (self.hashes >> np.uint64(32)).astype(np.uint32)

    def of(self, row: int) -> set[int]:
        return set(self.hashes[self.starts[row] : self.starts[row + 1]].tolist())


def shingled(texts: Sequence[str]) -> _Shingled:
    """At least one shingle a text; case and the width of white space tell nothing."""
    import numpy as np

    plain = [f" {' '.join(text.casefold().split())} ".ljust(SHINGLE) for text in texts]
    codes = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    ends = np.cumsum([len(p) for p in plain])
    hashes = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint64)
    for i in range(SHINGLE):
        hashes = (hashes ^ codes[i : len(codes) - SHINGLE + 1 + i]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    inside = np.ones(len(hashes), dtype=bool)  # a shingle that begins in a text's last three characters ends outside it
    for i in range(1, SHINGLE):
        inside[ends[:-1] - i] = False
    counts = np.diff(ends, prepend=0) - SHINGLE + 1
    return _Shingled(hashes[inside], np.concatenate([[0], np.cumsum(counts)]))


def _near(asked: Sequence[str], known: Sequence[str]) -> set[int]:
    """Indices of the asked rows that are near a known one."""
    ours, theirs = shingled(asked), shingled(known)
    found: set[int] = set()
    for row, candidate in _candidates(ours, theirs):
        if row not in found and jaccard(ours.of(row), theirs.of(candidate)) >= NEAR:
            found.add(row)
    return found


def _candidates(ours: _Shingled, theirs: _Shingled) -> Iterator[tuple[int, int]]:
    """(row of ours, row of theirs) whose least hashes are alike in one band at least; a pair comes once a band."""
    import numpy as np

    rng = np.random.default_rng(0)
    for _ in range(BANDS):
        odd = rng.integers(0, 2**31, size=BAND_ROWS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        mine, other = _band(ours, odd), _band(theirs, odd)
        order = np.argsort(other, kind="stable")
        ordered = other[order]
        first, last = np.searchsorted(ordered, mine, "left"), np.searchsorted(ordered, mine, "right")
        for row in np.flatnonzero(last > first).tolist():
            for place in range(first[row], min(last[row], first[row] + MAX_CANDIDATES)):
                yield row, int(order[place])


def _band(texts: _Shingled, odd: np.ndarray) -> np.ndarray:
    """uint64 (N,): one number of the least hashes of each text, under as many multiplications."""
    import numpy as np

    key = np.zeros(len(texts.starts) - 1, dtype=np.uint64)
    for factor in odd:
        mixed = texts.short * factor
        mixed ^= mixed >> np.uint32(16)
        key = (key ^ np.minimum.reduceat(mixed, texts.starts[:-1])) * np.uint64(0x9E3779B97F4A7C15)
    return key
