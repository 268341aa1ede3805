from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexport import registry
from kdexport.backbones import InputShape
from kdexport.latency import calibrated
from kdexport.latency.calibrated import FEATURES, estimate, features, fit_curve
from kdexport.nouns.calibration import BackboneCurve, Calibration
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.measurement import Environment

PLANTED = {"constant": 0.012, "num_operators": 0.003, "flops": 2e-8, "weight_bytes": 4e-8, "activation_bytes": 9e-8}


def cost(seed: int) -> GraphCost:
    chance = random.Random(seed)
    return GraphCost(
        flops=10 ** chance.uniform(4, 8),
        weight_bytes=10 ** chance.uniform(4, 7),
        activation_bytes=10 ** chance.uniform(3, 6),
        num_operators=chance.randint(8, 80),
        num_params=1000 + seed // 3,  # three shapes of each graph
    )


def planted_ms(c: GraphCost) -> float:
    return sum(PLANTED[name] * value for name, value in zip(FEATURES, features(c), strict=True))


COSTS = [cost(seed) for seed in range(60)]
CURVE = fit_curve(COSTS, [planted_ms(c) for c in COSTS])


def with_curve(curve: BackboneCurve) -> Calibration:
    return Calibration(
        fingerprint="f",
        environment="e",
        runtime="onnxruntime",
        precision="fp32",
        threads=1,
        curves={"convolution": curve},
        preprocess_ms=0.01,
        tail_ratio=1.3,
        seconds=1.0,
    )


def test_planted_coefficients_are_recovered() -> None:
    assert CURVE.coefficients == pytest.approx(PLANTED, rel=1e-6)
    assert CURVE.num_points == 60


def test_without_noise_the_error_is_the_floor_of_the_machines_own() -> None:
    assert CURVE.relative_error == calibrated.MIN_ERROR


def test_noise_of_a_known_size_is_found_in_the_error() -> None:
    chance = random.Random(0)
    noisy = [planted_ms(c) * chance.uniform(0.7, 1.3) for c in COSTS]
    assert 0.2 < fit_curve(COSTS, noisy).relative_error < 0.5


def test_the_order_of_the_points_does_not_matter() -> None:
    shuffled = random.Random(1).sample(COSTS, len(COSTS))
    found = fit_curve(shuffled, [planted_ms(c) for c in shuffled])
    assert found.coefficients == pytest.approx(CURVE.coefficients, rel=1e-6)


def test_a_term_that_would_be_negative_is_zero() -> None:
    falling = [1.0 / c.num_operators + 1e-9 * c.flops for c in COSTS]
    assert min(fit_curve(COSTS, falling).coefficients.values()) == 0.0


def test_the_error_is_that_of_graphs_left_out_not_of_points_fitted() -> None:
    """Each graph has an offset of its own, which its other shapes would betray."""
    chance = random.Random(2)
    offsets = {c.num_params: chance.uniform(0.6, 1.6) for c in COSTS}
    assert fit_curve(COSTS, [planted_ms(c) * offsets[c.num_params] for c in COSTS]).relative_error > 0.25


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), feature=st.sampled_from(FEATURES[1:]), factor=st.floats(1.0, 50.0))
def test_more_of_anything_never_takes_less_time(seed: int, feature: str, factor: float) -> None:
    small = cost(seed)
    large = small.model_copy(update={feature: getattr(small, feature) * factor})
    calibration = with_curve(CURVE)
    assert estimate(calibration, "convolution", large).p50_ms >= estimate(calibration, "convolution", small).p50_ms


@given(seed=st.integers(0, 10_000), error=st.floats(0.0, 3.0))
def test_the_interval_contains_the_median_and_widens_with_the_error(seed: int, error: float) -> None:
    found = estimate(with_curve(CURVE.model_copy(update={"relative_error": error})), "convolution", cost(seed))
    assert found.low_ms <= found.p50_ms <= found.high_ms
    assert found.high_ms / found.p50_ms == pytest.approx(1 + error)


def test_an_estimate_says_what_it_rests_on() -> None:
    found = estimate(with_curve(CURVE), "convolution", COSTS[0])
    assert (found.model, found.basis) == (
        "calibrated on this machine",
        "60 timed points of convolution, onnxruntime fp32",
    )


def test_nine_in_ten_points_of_a_noisy_machine_lie_in_the_interval() -> None:
    chance = np.random.default_rng(3)
    noisy = [planted_ms(c) * float(np.exp(chance.normal(0, 0.12))) for c in COSTS]
    calibration = with_curve(fit_curve(COSTS, noisy))
    fresh = [cost(seed) for seed in range(1000, 1300)]
    inside = 0
    for c in fresh:
        found, truth = estimate(calibration, "convolution", c), planted_ms(c) * float(np.exp(chance.normal(0, 0.12)))
        inside += found.low_ms <= truth <= found.high_ms
    assert inside / len(fresh) > 0.85


@pytest.mark.parametrize("name", registry.names("backbones"))
def test_graphs_to_time_span_the_search_space_extremes_first(name: str) -> None:
    backbone = registry.load("backbones", name)
    shape = InputShape(tokens=9) if backbone.input_kind == "text" else InputShape(channels=1, height=16, width=16)
    specs = list(backbone.candidates(5, shape, [500, 1000]))
    chosen = calibrated._spread(specs)
    assert (chosen[0], chosen[1]) == (specs[0], specs[-1])
    assert len({str(s) for s in chosen}) == len(chosen) <= calibrated.GRAPHS_PER_BACKBONE


def test_a_calibration_times_real_graphs_of_every_backbone_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "SECONDS_PER_POINT", 0.01)
    monkeypatch.setattr(calibrated, "GRAPHS_PER_BACKBONE", 6)
    environment = Environment(
        id="e", cpu="c", isa=(), cores_allowed=1, memory_bytes=1, threads=1, platform="p", python="3", packages={},
        taken_at="2026-01-01T00:00:00",
    )  # fmt: skip
    found = calibrated.calibrate(
        [registry.load("backbones", "image_convolution")],
        InputShape(channels=1, height=8, width=8),
        5,
        [0],
        lambda i: i,
        environment,
        "fingerprint",
        3.0,
    )
    assert set(found.curves) == {"image_convolution"}
    assert (found.fingerprint, found.environment, found.threads) == ("fingerprint", "e", 1)
    assert found.curves["image_convolution"].num_points >= 10
    assert found.tail_ratio >= 1.0
    assert 0 < found.preprocess_ms < 1
