"""From a language model's tokens or votes to scores of classes: numbers that a reader can check by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport.teachers._label_scores import PSEUDO_VOTES, Codes, Position, Reply, logits_of, read_replies
from tests.teachers.loopback import completion

LETTERS = Codes(("A", "B", "C"), names=False)
NAMES = Codes(("lost card", "lost", "top up"), names=True)


def walked(codes: Codes, *positions: dict[str, float]) -> list[float]:
    """The mass of each code; the first token of each position is the one that was chosen."""
    tokens = [Position(next(iter(p)), next(iter(p.values())), p) for p in positions]
    return [round(float(x), 6) for x in codes.mass(tokens)]


def test_letters_are_read_from_the_first_token_alone() -> None:
    assert walked(LETTERS, {"B": 0.6, "A": 0.3, "C": 0.05, "The": 0.05}, {".": 1.0}) == [0.3, 0.6, 0.05]


def test_the_same_letter_in_several_tokens_is_summed() -> None:
    assert walked(LETTERS, {"B": 0.5, " B": 0.2, "A": 0.2, "**A": 0.1}) == [0.3, 0.7, 0.0]


def test_a_word_that_begins_with_a_letter_is_not_that_letter() -> None:
    assert walked(LETTERS, {"A": 0.5, "Apple": 0.3, "C:": 0.1, "a": 0.1}) == [0.5, 0.0, 0.1]


def test_white_space_before_the_answer_is_walked_over() -> None:
    assert walked(LETTERS, {"\n": 0.8, "A": 0.2}, {"C": 0.5, "B": 0.5}) == [0.2, 0.4, 0.4]


def test_numbers_of_several_tokens_have_the_product_and_branches_not_taken_equal_parts() -> None:
    codes = Codes(("10", "11", "20", "21"), names=False)
    assert walked(codes, {"1": 0.6, "2": 0.4}, {"0": 0.75, "1": 0.25}) == [0.45, 0.15, 0.2, 0.2]


def test_a_name_that_begins_another_ends_where_no_word_goes_on() -> None:
    assert walked(NAMES, {"Lost": 0.9, "Top": 0.1}, {" card": 0.7, "<|im_end|>": 0.3}) == [0.63, 0.27, 0.1]


def test_a_name_that_is_cut_short_is_shared_by_those_that_begin_so() -> None:
    assert walked(NAMES, {"lo": 1.0}) == [0.5, 0.5, 0.0]


def test_an_answer_that_leaves_every_name_has_no_mass() -> None:
    assert walked(NAMES, {"I": 0.9, "lost": 0.1}, {" think": 1.0}) == [0.05, 0.05, 0.0]


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["A", "B", " C", "x", "\n", "1", "AB", ""]), st.floats(1e-6, 1), min_size=1),
        max_size=4,
    )
)
def test_the_mass_is_never_negative_and_never_over_one(positions: list[dict[str, float]]) -> None:
    shares = [{t: p / sum(alternatives.values()) for t, p in alternatives.items()} for alternatives in positions]
    mass = walked(LETTERS, *shares)
    assert min(mass, default=0) >= 0
    assert sum(mass) <= 1 + 1e-5


def test_logits_are_the_log_of_the_mass_over_the_classes() -> None:
    (reply,) = read_replies(completion("B", [{"B": 0.6, "A": 0.2, "The": 0.2}]))
    logits = logits_of([reply], LETTERS)
    assert logits is not None
    np.testing.assert_allclose(np.exp(logits), [0.25, 0.75, 1e-4], atol=1e-3)


def test_a_single_answer_without_probabilities_is_a_smoothed_hard_label() -> None:
    logits = logits_of([Reply("The answer is B.", ())], LETTERS)
    assert logits is not None
    expected = np.array([PSEUDO_VOTES / 3, 1 + PSEUDO_VOTES / 3, PSEUDO_VOTES / 3]) / (1 + PSEUDO_VOTES)
    np.testing.assert_allclose(np.exp(logits), expected)


def test_votes_are_counted_and_what_names_no_class_has_none() -> None:
    logits = logits_of([Reply(t, ()) for t in ("A", "B) pay", "(B)", "no idea")], LETTERS)
    assert logits is not None
    np.testing.assert_allclose(np.exp(logits), (np.array([1, 2, 0]) + PSEUDO_VOTES / 3) / (3 + PSEUDO_VOTES))


@pytest.mark.parametrize("text", ["", "D", "none of them", "B or C", "Apples"])
def test_an_answer_that_names_no_class_or_two_is_none(text: str) -> None:
    assert logits_of([Reply(text, ())], LETTERS) is None


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("lost_card", 0),
        ("- Lost card.", 0),
        ("Lost", 1),
        ("It is the 'top up' class", 2),
        ("about a lost card, I think", 0),
    ],
)
def test_a_name_is_found_in_an_answer_the_longest_first(text: str, index: int) -> None:
    assert NAMES.parse(text) == index


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": {"content": 7}}]},
        {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A"}]}}]},
        {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": math.nan}]}}]},
        {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": 2.0}]}}]},
    ],
)
def test_another_shape_is_an_error_that_the_caller_counts_as_malformed(document: Any) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, IndexError, AttributeError)):
        read_replies(document)
