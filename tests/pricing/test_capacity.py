import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kdexport.errors import BadInput
from kdexport.nouns.cost import Capacity
from kdexport.nouns.graph import LatencyEstimate
from kdexport.nouns.target import Objective
from kdexport.pricing.capacity import capacity

ESTIMATE = LatencyEstimate(p50_ms=4, low_ms=2, high_ms=8, model="residual", basis="test", extrapolated=False)


def server(limit_ms: float, percentile: float = 99) -> Objective:
    return Objective(percentile=percentile, limit_ms=limit_ms, scenario="server")


def single_stream(limit_ms: float) -> Objective:
    return Objective(percentile=99, limit_ms=limit_ms)


def exponential_ms(mean_ms: float, n: int = 2000) -> list[float]:
    return [-mean_ms * math.log(1 - (i + 0.5) / n) for i in range(n)]


@pytest.mark.parametrize("limit_ms", [8.0, 10.0, 15.0])
def test_exponential_service_gives_the_rate_of_the_m_m_1_formula(limit_ms):
    # M/M/1: sojourn is exponential with rate mu - lambda, so p99 = ln(100) / (mu - lambda); mu = 1 per ms.
    expected = 1e3 * (1 - math.log(100) / limit_ms)
    found = capacity(exponential_ms(1.0), server(limit_ms), max_utilisation=0.9)
    assert found.requests_per_s == pytest.approx(expected, rel=0.04)
    assert found.error_interval[0] <= expected <= found.error_interval[1]
    assert found.kind == "estimated"


def test_constant_service_at_a_limit_of_two_services_allows_one_percent_to_wait_longer():
    # M/D/1: P(wait <= d) = (1 - rho) exp(rho); 0.99 at rho = 0.1352 (Erlang 1909).
    found = capacity([10.0] * 50, server(20.0), max_utilisation=0.9)
    assert found.requests_per_s == pytest.approx(13.52, rel=0.03)


def test_single_stream_capacity_is_the_reciprocal_of_the_mean_at_the_planned_utilisation():
    found = capacity([4.0, 6.0] * 500, single_stream(10.0), max_utilisation=0.5, workers=3)
    assert found.requests_per_s == pytest.approx(3 * 0.5 * 1000 / 5)
    assert found.kind == "measured"
    assert found.ci95[0] < found.requests_per_s < found.ci95[1]


@pytest.mark.parametrize("objective", [server(10.0), single_stream(10.0)])
def test_a_limit_below_the_unloaded_percentile_leaves_no_capacity_and_says_why(objective):
    found = capacity([9.0] * 90 + [12.0] * 10, objective, max_utilisation=0.7)
    assert found.requests_per_s == 0
    assert "no capacity: p99" in found.how
    assert "is 12 ms without load" in found.how
    assert "10 ms" in found.how


def test_a_measured_miss_may_be_the_sample_s_so_its_interval_reaches_what_the_mean_would_serve():
    times = [9.0] * 90 + [12.0] * 10
    missed = capacity(times, single_stream(10.0), max_utilisation=0.7)
    met = capacity(times, single_stream(20.0), max_utilisation=0.7)
    assert missed.ci95 == (0, met.ci95[1])


def test_an_estimate_that_may_miss_the_limit_has_an_interval_from_zero():
    found = capacity(ESTIMATE, server(10.0), max_utilisation=0.7)
    assert found.error_interval[0] == 0 < found.requests_per_s < found.error_interval[1]
    assert "p99/p50 1.5 assumed" in found.how


def test_a_heavier_calibrated_tail_lowers_the_capacity():
    light = capacity(ESTIMATE, server(25.0), max_utilisation=0.9, tail_ratio=1.1)
    heavy = capacity(ESTIMATE, server(25.0), max_utilisation=0.9, tail_ratio=3.0)
    assert heavy.requests_per_s < light.requests_per_s
    assert "calibrated" in light.how


def test_an_estimate_in_single_stream_spans_both_ends_of_its_median():
    found = capacity(ESTIMATE, single_stream(100.0), max_utilisation=1.0, tail_ratio=1.0)
    assert found.requests_per_s == pytest.approx(250)
    assert found.error_interval == pytest.approx((125, 500))


@settings(max_examples=15, deadline=None)
@given(
    times=st.lists(st.floats(0.1, 50), min_size=2, max_size=60),
    limit_ms=st.floats(0.1, 1000),
    utilisation=st.floats(0.05, 1),
    workers=st.integers(1, 8),
    scenario=st.sampled_from(["server", "single_stream"]),
)
def test_the_utilisation_always_caps(times, limit_ms, utilisation, workers, scenario):
    objective = Objective(limit_ms=limit_ms, scenario=scenario)
    found = capacity(times, objective, utilisation, workers=workers)
    assert found.requests_per_s <= utilisation * workers * 1000 / np.mean(times) * (1 + 1e-9)


@settings(max_examples=10, deadline=None)
@given(
    times=st.lists(st.floats(1, 20), min_size=5, max_size=40), limits=st.tuples(st.floats(1, 200), st.floats(1, 200))
)
def test_a_looser_limit_never_lowers_the_capacity(times, limits):
    tight, loose = (capacity(times, server(limit), 0.8).requests_per_s for limit in sorted(limits))
    assert tight <= loose


def test_a_server_never_serves_more_than_a_single_stream_at_the_same_utilisation():
    times = exponential_ms(2.0)
    at_server = capacity(times, server(40.0), max_utilisation=0.6)
    assert at_server.requests_per_s <= capacity(times, single_stream(40.0), max_utilisation=0.6).requests_per_s


def test_the_same_seed_gives_the_same_capacity():
    times = exponential_ms(1.0, n=300)
    assert capacity(times, server(9.0), 0.9, seed=3) == capacity(times, server(9.0), 0.9, seed=3)


def test_another_seed_moves_the_capacity_by_less_than_a_few_percent():
    found = [capacity(exponential_ms(1.0), server(9.0), 0.9, seed=s).requests_per_s for s in range(4)]
    assert max(found) / min(found) < 1.06


def test_few_measured_times_are_said_to_be_too_few_for_the_percentile():
    assert "too few to bound p99, which needs 662" in capacity([1.0] * 100, server(50.0), 0.7).how
    assert "too few" not in capacity([1.0] * 700, server(50.0), 0.7).how


def test_one_capacity_is_found_within_a_planner_s_patience():
    times = exponential_ms(1.0)
    begin = time.process_time()
    capacity(times, server(9.0), 0.9)
    assert time.process_time() - begin < 1.0  # 0.2 s on a quiet core; the bar leaves room for a busy one


@pytest.mark.parametrize(
    ("times", "utilisation", "workers"),
    [([], 0.7, 1), ([1.0], 0.7, 1), ([1.0, 0.0], 0.7, 1), ([1.0, math.nan], 0.7, 1), ([1, 2], 0, 1), ([1, 2], 0.7, 0)],
)
def test_impossible_inputs_are_refused(times, utilisation, workers):
    with pytest.raises(BadInput, match="capacity"):
        capacity(times, server(10.0), utilisation, workers=workers)


def test_a_tail_ratio_below_one_is_refused():
    with pytest.raises(BadInput, match="give p99 over p50"):
        capacity(ESTIMATE, server(10.0), 0.7, tail_ratio=0.9)


def test_a_capacity_without_an_interval_is_refused():
    with pytest.raises(ValidationError, match="error_interval"):
        Capacity(requests_per_s=5, kind="estimated", how="a guess")
