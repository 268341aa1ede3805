from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexport import registry
from kdexport.backbones import InputShape, parse_spec
from kdexport.errors import BadInput, MissingPackage
from kdexport.latency import calibrated
from kdexport.latency.calibrated import estimates, estimates_at, half_widths
from kdexport.measure.environment import detect, fingerprint
from kdexport.nouns.calibration import Calibration
from kdexport.nouns.spec import StudentSpec
from tests.latency.planted import calibration, errors, points

BACKBONES = registry.names("backbones")
CLASSES = 20
SHAPES = {"text": InputShape(batch=2, tokens=20), "image": InputShape(batch=2, channels=3, height=32, width=32)}


def shape_of(name: str) -> InputShape:
    return SHAPES[registry.load("backbones", name).input_kind]


def candidates(name: str) -> list[StudentSpec]:
    return list(registry.load("backbones", name).candidates(CLASSES, shape_of(name), [900, 5_000]))


@pytest.fixture(scope="module")
def quiet() -> Calibration:
    """Every backbone on a machine without noise."""
    return calibration(points(BACKBONES))


@pytest.fixture(scope="module")
def noisy() -> Calibration:
    """Every graph is off by its own factor, as one whose tensors lie badly in a cache would be."""
    return calibration(points(BACKBONES, graphs=20, seed=3, noise=0.15))


def estimate_points(found: Calibration, timed: list[Any]) -> np.ndarray:
    """p50_ms of other points, each asked for alone."""
    asked = [estimates(found, [parse_spec(p.spec)], p.num_classes, p.shape) for p in timed]
    return np.array([(e.p50_ms[0], e.low_ms[0], e.high_ms[0]) for e in asked])


@pytest.mark.parametrize("name", BACKBONES)
def test_graphs_that_were_never_timed_are_estimated_right(quiet: Calibration, name: str) -> None:
    fresh = points([name], graphs=20, seed=9)
    assert np.quantile(errors(estimate_points(quiet, fresh)[:, 0], fresh), 0.9) < 0.03


def test_graphs_timed_in_a_slow_spell_do_not_move_estimates() -> None:
    fresh = points(["convolution"], graphs=15, seed=9)
    spells = calibration(points(["convolution"], graphs=40, slow_share=0.1))
    assert np.quantile(errors(estimate_points(spells, fresh)[:, 0], fresh), 0.9) < 0.05


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(BACKBONES), st.integers(0, 10_000), st.integers(1, 60), st.data())
def test_more_of_anything_is_never_faster(
    noisy: Calibration, name: str, number: int, by: int, data: st.DataObject
) -> None:
    fields, shape, classes = candidates(name)[number % len(candidates(name))].model_dump(), shape_of(name), CLASSES
    sizes = [f for f in registry.load("backbones", name).SIZE_FIELDS if f not in ("num_stages", "num_attention_heads")]
    axes = ["tokens"] if shape.tokens else ["height", "width"]
    grown = data.draw(st.sampled_from([*sizes, "batch", *axes, "num_classes"]))
    before = estimates(noisy, [parse_spec(fields)], classes, shape).p50_ms[0]
    if grown == "num_classes":
        classes += by
    elif grown in ("batch", *axes):
        shape = shape.model_copy(update={grown: getattr(shape, grown) + by})
    else:
        step = fields[grown] if grown == "hidden_size" and "num_attention_heads" in fields else by
        fields[grown] += step
    assert estimates(noisy, [parse_spec(fields)], classes, shape).p50_ms[0] >= before * (1 - 1e-12)


@pytest.mark.parametrize("name", ["convolution", "image_convolution"])
def test_nine_in_ten_graphs_of_a_noisy_machine_lie_in_the_interval(name: str) -> None:
    found = calibration(points([name], graphs=40, seed=3, noise=0.15))
    fresh = points([name], graphs=60, seed=4, noise=0.15)
    p50_ms, low_ms, high_ms = estimate_points(found, fresh).T
    timed_ms = np.array([p.p50_ms for p in fresh])
    assert (low_ms < p50_ms).all()
    assert (p50_ms < high_ms).all()
    assert 0.8 < ((low_ms <= timed_ms) & (timed_ms <= high_ms)).mean() < 0.98


def test_the_interval_is_as_wide_as_graphs_left_out_are_wrong(quiet: Calibration, noisy: Calibration) -> None:
    calm, rough = half_widths(quiet), half_widths(noisy)
    assert set(calm) == set(rough) == set(BACKBONES)
    assert all(calm[name] < 0.06 < rough[name] for name in BACKBONES)


def test_points_whose_visits_disagree_do_not_widen_it() -> None:
    """A graph that was twice as slow in one visit is noise, and no error of the model."""
    timed, chance = points(["convolution"], graphs=30), random.Random(0)
    rough = [
        p.model_copy(update={"p50_ms": 1.8 * p.p50_ms, "spread": 0.5}) if chance.random() < 0.2 else p for p in timed
    ]
    assert half_widths(calibration(rough))["convolution"] < 0.06


def test_estimates_do_not_depend_on_the_order_of_points_or_candidates(quiet: Calibration) -> None:
    specs = candidates("transformer")[::40] + candidates("bag")[::40]
    order = random.Random(1).sample(range(len(specs)), len(specs))
    shape = SHAPES["text"]
    straight = estimates(quiet, specs, CLASSES, shape).p50_ms
    shuffled = estimates(quiet, [specs[i] for i in order], CLASSES, shape).p50_ms
    assert shuffled == pytest.approx(straight[order], rel=1e-12)
    mixed = calibration(random.Random(2).sample(quiet.points, len(quiet.points)))
    assert estimates(mixed, specs, CLASSES, shape).p50_ms == pytest.approx(straight, rel=1e-3)


def test_each_student_may_have_a_shape_of_its_own(quiet: Calibration) -> None:
    specs = candidates("convolution")[:3]
    shapes = [InputShape(tokens=t) for t in (5, 50, 100)]
    together = estimates_at(quiet, specs, CLASSES, shapes).p50_ms
    alone = [estimates(quiet, [spec], CLASSES, shape).p50_ms[0] for spec, shape in zip(specs, shapes, strict=True)]
    assert together == pytest.approx(alone)


def test_inside_what_was_timed_nothing_is_extrapolated_and_outside_it_says_so_and_widens(quiet: Calibration) -> None:
    spec = next(s for s in candidates("convolution") if s.model_dump()["hidden_size"] == 128)
    inside = estimates(quiet, [spec], CLASSES, InputShape(tokens=20))
    assert not inside.extrapolated[0]
    wider = spec.model_copy(update={"hidden_size": 1_024})
    for outside in (
        estimates(quiet, [spec], CLASSES, InputShape(tokens=500)),
        estimates(quiet, [spec], CLASSES, InputShape(batch=200, tokens=20)),
        estimates(quiet, [wider], CLASSES, InputShape(tokens=20)),
    ):
        assert outside.extrapolated[0]
        assert outside.high_ms[0] / outside.p50_ms[0] > inside.high_ms[0] / inside.p50_ms[0]


def test_a_backbone_that_was_never_timed_is_estimated_from_the_others_with_a_wide_interval() -> None:
    others = calibration(points([n for n in BACKBONES if n != "convolution"]))
    found = estimates(others, candidates("convolution")[:5], CLASSES, SHAPES["text"])
    assert found.extrapolated.all()
    assert (found.high_ms / found.p50_ms >= 2).all()


def test_an_estimate_says_what_it_rests_on(quiet: Calibration) -> None:
    found = estimates(quiet, candidates("bag")[:1], CLASSES, SHAPES["text"]).one(0)
    assert found.model == "calibrated on this machine"
    assert found.basis.startswith(f"{len(quiet.points)} timed points, onnxruntime fp32, 1 thread;")


def test_a_calibration_without_points_is_refused() -> None:
    with pytest.raises(BadInput, match="has no points; run `kdexport profiles calibrate`"):
        estimates(calibration([]), candidates("bag")[:1], CLASSES, SHAPES["text"])


# --- the timing


def test_a_short_calibration_times_real_graphs_of_the_asked_kind() -> None:
    told: list[tuple[int, int, str]] = []
    here = detect(1)
    found = calibrated.calibrate(
        "onnxruntime", "fp32", here, 2.0, ["image"], progress=lambda *state: told.append(state)
    )
    images = {n for n in BACKBONES if registry.load("backbones", n).input_kind == "image"}
    assert {p.spec["backbone"] for p in found.points} <= images
    assert (found.fingerprint, found.environment, found.threads) == (fingerprint(here), here.id, 1)
    assert (found.runtime, found.precision, found.version) == (
        "onnxruntime",
        "fp32",
        calibrated.version_of("onnxruntime"),
    )
    assert list(found.tail) == ["90", "95", "99", "99.9"]
    assert 1 <= found.tail["90"] <= found.tail["99"] <= found.tail["99.9"]
    assert max(done for done, _, _ in told) <= 2
    assert estimates(found, candidates("image_convolution")[:3], CLASSES, SHAPES["image"]).p50_ms.min() > 0


def test_a_runtime_that_is_not_installed_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "distribution", lambda name: None)
    monkeypatch.setattr(
        calibrated, "load_runtime", lambda name: type("R", (), {"missing": lambda self: "pip install x"})()
    )
    with pytest.raises(MissingPackage, match="pip install x"):
        calibrated.calibrate("onnxruntime", "fp32", detect(1), 1.0)


def test_the_tail_is_percentiles_over_the_median() -> None:
    samples = [1.0] * 950 + [2.0] * 45 + [10.0] * 5
    assert calibrated.tail_of(samples) == {"90": 1.0, "95": pytest.approx(1.0, abs=0.1), "99": 2.0, "99.9": 10.0}
