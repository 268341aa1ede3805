from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport.latency.tail import assumed_tail, at_percentile, percentile_ms
from kdexport.nouns.target import PERCENTILES, Objective

TAIL = {"90": 1.1, "95": 1.2, "99": 1.5, "99.9": 2.0}
medians = st.lists(st.floats(0.01, 100), min_size=1, max_size=8)


def test_of_one_kind_of_request_a_percentile_is_its_median_times_the_tail() -> None:
    for percentile, ratio in [(50, 1.0), *((float(p), r) for p, r in TAIL.items())]:
        assert percentile_ms(np.array([[2.0]]), TAIL, percentile)[0] == pytest.approx(2.0 * ratio, rel=1e-6)


def test_without_a_tail_a_percentile_is_that_of_the_requests() -> None:
    """Of ten requests, one long: the 95th percentile is the long one, the 90th the longest of the others."""
    flat = {"99.9": 1.0}
    requests = np.array([[1.0] * 9 + [5.0]])
    assert percentile_ms(requests, flat, 95)[0] == pytest.approx(5.0, rel=1e-6)
    assert percentile_ms(requests, flat, 89)[0] == pytest.approx(1.0, rel=1e-6)


def test_a_percentile_agrees_with_drawing_requests_and_runs() -> None:
    chance = np.random.default_rng(0)
    kinds = np.array([0.5, 0.7, 1.0, 1.6, 4.0])
    ratios = np.interp(chance.random(400_000), [0.5, 0.9, 0.95, 0.99, 0.999, 1], [1, *TAIL.values(), 3])
    drawn = chance.choice(kinds, len(ratios)) * ratios
    for percentile in (50, 90, 95, 99):
        found = percentile_ms(kinds[None, :], TAIL, percentile)[0]
        assert np.mean(drawn <= found) == pytest.approx(percentile / 100, abs=0.003)


@given(medians, st.data())
def test_a_slower_request_never_gives_a_lower_percentile(kinds: list[float], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(kinds) - 1))
    slower = kinds.copy()
    slower[index] *= data.draw(st.floats(1, 5))
    percentile = data.draw(st.sampled_from(PERCENTILES))
    before, after = (percentile_ms(np.array([k]), TAIL, percentile)[0] for k in (kinds, slower))
    assert after >= before * (1 - 1e-6)


@given(medians)
def test_a_higher_percentile_is_never_lower(kinds: list[float]) -> None:
    values = [percentile_ms(np.array([kinds]), TAIL, p)[0] for p in PERCENTILES]
    assert all(b >= a * (1 - 1e-6) for a, b in pairwise(values))


@given(st.floats(0.01, 100), st.floats(1, 10))
def test_from_one_tail_ratio_a_higher_percentile_is_never_lower_and_the_median_is_the_median(
    p50_ms: float, tail: float
) -> None:
    values = [at_percentile(p50_ms, tail, Objective(percentile=p, limit_ms=1)) for p in PERCENTILES]
    assert values == sorted(values)
    assert values[0] == p50_ms
    assert values[PERCENTILES.index(99)] == pytest.approx(p50_ms * tail)
    assert assumed_tail(tail)["99"] == pytest.approx(tail)
