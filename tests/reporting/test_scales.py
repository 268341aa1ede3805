"""Axes: ticks are round and inside, ends map to ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport.reporting.scales import Scale, log_ticks, padded, padded_log, ticks


def test_the_ends_of_a_scale_are_the_ends_of_the_axis() -> None:
    for logarithmic in (False, True):
        scale = Scale(0.1, 10.0, 50.0, 450.0, logarithmic)
        assert scale(0.1) == pytest.approx(50)
        assert scale(10.0) == pytest.approx(450)
    assert Scale(0.1, 10.0, 50.0, 450.0, logarithmic=True)(1.0) == pytest.approx(250)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_ticks_are_inside_a_padded_range_and_few(values: list[float]) -> None:
    low, high = padded(values)
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=9))
def test_a_logarithmic_axis_has_ticks_whatever_the_range(values: list[float]) -> None:
    low, high = padded_log(values)
    found = log_ticks(low, high)
    assert 1 <= len(found) <= 12
    assert all(low <= tick <= high for tick in found)
