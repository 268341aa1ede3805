"""How numbers are written, and what counts as blank."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport.reporting import figures


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        (figures.milliseconds, 0.0713, "0.0713 ms"),
        (figures.milliseconds, 143.2, "143 ms"),
        (figures.params_text, 22_713_677, "22.7 M"),
        (figures.params_text, 182_413, "182 k"),
        (figures.params_text, 512, "512"),
        (figures.bytes_text, 91_625_000, "87.4 MiB"),
        (figures.bytes_text, 100, "100 B"),
        (figures.usd, 14_100.1, "$14,100"),
        (figures.usd, -500.0, "−$500"),
        (figures.usd, 2.2355, "$2.24"),
        (figures.usd, 0.00123, "$0.00123"),
        (figures.percent, 0.9983, "99.8 %"),
        (figures.times, 44.04, "44.0×"),
        (figures.quality_text, 0.92824, "0.9282"),
    ],
)
def test_a_number_is_written_with_its_unit(text: Callable[[float], str], value: float, shown: str) -> None:
    assert text(value) == shown


@pytest.mark.parametrize(
    ("interval", "text", "shown"),
    [
        ((0.138, 0.149), figures.milliseconds, "0.138 to 0.149 ms"),
        ((0.99, 1.007), figures.percent, "99.0 to 100.7 %"),
        ((2.9, 16.8), figures.times, "2.90 to 16.8×"),
        ((-500.0, 400.0), figures.usd, "−$500 to $400"),
        ((980_000, 1_200_000), figures.params_text, "980 k to 1.20 M"),
    ],
)
def test_an_interval_says_its_unit_once_where_both_ends_share_it(
    interval: tuple[float, float], text: Callable[[float], str], shown: str
) -> None:
    assert figures.between(interval, text) == shown


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "3", True])
def test_what_is_no_finite_number_is_blank(value: object) -> None:
    assert figures.finite(value) is None


@pytest.mark.parametrize("value", [None, [], [1.0], [1.0, None], "ab"])
def test_what_is_no_pair_of_numbers_is_no_interval(value: object) -> None:
    assert figures.interval_of(value) is None


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_three_digits_are_within_half_a_percent(value: float) -> None:
    assert float(figures.significant(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


def test_a_speed_up_is_measured_only_where_both_latencies_are() -> None:
    target: dict[str, Any] = {
        "latency": {"teacher": {"kind": "measured"}, "student": {"kind": "estimated"}, "speedup": {"value": 2.0}}
    }
    assert figures.speedup(target).kind == "estimated"
    target["latency"]["student"] = {"kind": "measured"}
    assert figures.speedup(target).kind == "measured"


def test_a_latency_tells_machine_time_n_and_interval() -> None:
    document = {"environments": {"e": {"cpu": "Some CPU", "threads": 1, "taken_at": "2026-11-24T19:58:12Z"}}}
    entry = {"kind": "measured", "p50_ms": 0.2, "n": 900, "ci95": [0.19, 0.21], "environment": "e"}
    told = figures.latency(document, entry).evidence()
    assert told == (
        "measured on Some CPU, 1 thread, 2026-11-24 19:58; n = 900; 95 % interval 0.190 to 0.210 ms"
    )  # fmt: skip


def test_a_percentile_that_the_requests_cannot_bound_says_so() -> None:
    entry = {"kind": "measured", "p50_ms": 0.2, "p99_ms": None, "n": 100, "ci95": [0.19, 0.21], "environment": "e"}
    assert figures.latency({}, entry, "p99_ms").evidence() == "too few requests to bound p99"
