from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from kdexport.measure.timer import Timings, interleave


def test_blocks_alternate_and_all_functions_see_the_same_requests():
    calls: list[tuple[str, int]] = []
    functions = {name: (lambda i, name=name: calls.append((name, i))) for name in "ab"}
    timings = interleave(functions, 3, min_samples=8, max_seconds=5, block=4, warmup=1)
    measured = calls[-2 * timings.samples_ms["a"].size :]
    assert [name for name, _ in measured] == (["a"] * 4 + ["b"] * 4) * 2
    assert [i for name, i in measured if name == "a"] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert [i for name, i in measured if name == "a"] == [i for name, i in measured if name == "b"]


def test_measuring_ends_with_the_samples_asked_for():
    timings = interleave({"a": lambda i: i}, 5, min_samples=700, max_seconds=30)
    assert timings.samples_ms["a"].shape == (35, 20)


def test_a_slow_function_stops_at_the_time_limit_with_equal_numbers_of_blocks():
    functions = {"slow": lambda i: time.sleep(0.02), "fast": lambda i: None}
    timings = interleave(functions, 5, min_samples=100_000, max_seconds=0.5)
    assert timings.samples_ms["slow"].size < 100  # of the 100,000 wanted: 0.5 s hold about 25
    assert timings.samples_ms["slow"].shape == timings.samples_ms["fast"].shape
    assert len(timings.samples_ms["slow"]) >= 5


def test_samples_are_milliseconds():
    timings = interleave({"a": lambda i: time.sleep(0.005)}, 5, min_samples=10, max_seconds=2, warmup=1)
    assert 5 <= np.median(timings.samples_ms["a"]) < 20


def test_garbage_is_not_collected_inside_a_block_and_collection_resumes():
    enabled: list[bool] = []
    interleave({"a": lambda i: enabled.append(gc.isenabled())}, 5, min_samples=40, max_seconds=2)
    assert not any(enabled)
    assert gc.isenabled()


def test_collection_resumes_after_a_function_fails():
    with pytest.raises(ZeroDivisionError):
        interleave({"a": lambda i: 1 // 0}, 5, min_samples=40, max_seconds=2)
    assert gc.isenabled()


def test_the_first_slow_calls_are_warm_up_and_not_counted():
    seen: list[int] = []

    def cold_at_first(i: int) -> None:
        seen.append(i)
        time.sleep(0.05 if len(seen) < 3 else 0.0005)

    timings = interleave({"a": cold_at_first}, 5, min_samples=40, max_seconds=5)
    assert timings.samples_ms["a"].max() < 40


def test_a_latency_has_no_percentile_that_its_n_does_not_bear():
    timings = Timings({"a": np.linspace(1, 2, 100).reshape(5, 20)})
    latency = timings.latency("a", environment="0123456789ab")
    assert (latency.kind, latency.n) == ("measured", 100)
    assert latency.p50_ms == pytest.approx(1.5)
    assert latency.p90_ms is not None
    assert latency.p90_ms >= np.percentile(timings.samples_ms["a"], 90)
    assert (latency.p95_ms, latency.p99_ms) == (None, None)
    assert latency.ci95 is not None
    assert latency.ci95[0] < 1.5 < latency.ci95[1]


def test_speedup_is_slow_over_fast():
    fast = np.random.default_rng(0).uniform(1, 2, size=(10, 20))
    value, (low, high) = Timings({"teacher": 3 * fast, "student": fast}).speedup("teacher", "student")
    assert (value, low, high) == pytest.approx((3, 3, 3))


def test_nothing_to_time_is_refused():
    with pytest.raises(ValueError, match="needs a function"):
        interleave({}, 5, min_samples=1, max_seconds=1)
