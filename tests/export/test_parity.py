from __future__ import annotations

import numpy as np
import pytest

from kdexport.export.parity import TOLERANCE, compare_logits, edge_texts, parity_problem

REFERENCE = np.random.default_rng(0).standard_normal((1000, 5)).astype(np.float32)


def problem(found: np.ndarray, precision: str) -> str:
    return parity_problem(compare_logits(REFERENCE, found), precision, REFERENCE)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_equal_logits_are_parity(precision: str) -> None:
    parity = compare_logits(REFERENCE, REFERENCE.copy())
    assert (parity.max_abs_err, parity.agreement, parity.n) == (0.0, 1.0, 1000)
    assert problem(REFERENCE.copy(), precision) == ""


def test_the_largest_difference_and_the_share_of_equal_answers_are_what_they_say() -> None:
    reference, found = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.25], [2.0, 1.0]])
    parity = compare_logits(reference, found)
    assert (parity.max_abs_err, parity.agreement) == (2.0, 0.5)


def test_one_logit_far_off_is_no_parity_and_both_numbers_are_said() -> None:
    found = REFERENCE.copy()
    found[3, 2] += 5.0
    assert problem(found, "int8").startswith("parity failed: a logit differs by 5, allowed ")


def test_the_tolerance_follows_the_spread_of_the_logits() -> None:
    found = REFERENCE + 1e-3
    assert problem(found, "fp32") == ""
    assert parity_problem(compare_logits(REFERENCE / 100, REFERENCE / 100 + 1e-3), "fp32", REFERENCE / 100) != ""


def test_answers_that_change_sides_are_no_parity() -> None:
    """Every logit is near, but where two classes tie most answers flip."""
    reference = np.zeros((100, 2))
    reference[:, 0], reference[0] = 1e-4, (3.0, -3.0)
    found = reference.copy()
    found[50:, 0] = -1e-4
    assert parity_problem(compare_logits(reference, found), "fp32", reference) == (
        "parity failed: 0.5000 of 100 answers agree, wanted 0.999"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_engine_that_answers_with_no_number_has_no_parity(value: float) -> None:
    found = REFERENCE.copy()
    found[0, 0] = value
    assert problem(found, "int8").startswith("parity failed")


def test_a_coarser_precision_is_never_held_to_a_stricter_bound() -> None:
    shares, agreements = zip(*(TOLERANCE[p] for p in ("fp32", "fp16", "bf16", "int8")), strict=True)
    assert list(shares) == sorted(shares)
    assert list(agreements) == sorted(agreements, reverse=True)


def test_edge_cases_hold_what_breaks_exporters() -> None:
    texts = edge_texts(["a", "the longest of all"])
    assert {"", " ", "the longest of all"} <= set(texts)
    assert any(len(t) > 4 * len("the longest") for t in texts)
    assert any(not t.isascii() for t in texts)
    assert edge_texts([])
