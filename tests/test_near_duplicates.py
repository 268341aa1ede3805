from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kdexport import near_duplicates as module
from kdexport.near_duplicates import NEAR, jaccard, near_duplicates, shingled

WORDS = ["card", "lost", "refund", "please", "my", "transfer", "abroad", "why", "pending", "cash", "limit", "new"]


def index(one: str, other: str) -> float:
    found = shingled([one, other])
    return jaccard(found.of(0), found.of(1))


def test_the_index_of_two_texts_is_shared_shingles_over_all() -> None:
    # " abcd " has " abc", "abcd", "bcd "; " abce " shares the first of them: 1 of 5
    assert index("abcd", "abce") == 1 / 5


def test_case_and_white_space_tell_nothing() -> None:
    assert index("Lost  my\tCARD", "lost my card") == 1


def test_an_exact_copy_is_not_counted_as_near() -> None:
    assert near_duplicates(["lost my card"], ["lost my card", "Lost my card"]).rows == (1,)


def test_texts_shorter_than_a_shingle_and_empty_ones_are_taken() -> None:
    assert near_duplicates(["", "a", "ok"], ["A", "", "b"]).rows == (0,)
    assert near_duplicates([], ["a"]).rows == ()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_the_same_pairs_are_found_as_by_comparing_all(seed: int) -> None:
    chance = random.Random(seed)
    train = [" ".join(chance.choices(WORDS, k=chance.randint(3, 9))) for _ in range(40)]
    test = [chance.choice(train) + chance.choice(["", "s", " now", " please", " today"]) for _ in range(20)]
    wanted = [i for i, t in enumerate(test) if t not in train and max(index(t, other) for other in train) >= NEAR]
    assert list(near_duplicates(train, test).rows) == wanted


def test_large_sets_are_sampled_and_the_sample_is_said(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    found = near_duplicates([f"text number {i}" for i in range(50)], ["other"])
    assert found.sampled
    assert not near_duplicates(["text"], ["other"]).sampled
