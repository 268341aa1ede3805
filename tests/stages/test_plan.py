from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport import catalogue
from kdexport.backbones import InputShape, backbone_of, parse_spec
from kdexport.errors import BadInput
from kdexport.latency import absent
from kdexport.latency.calibrated import FEATURES
from kdexport.nouns.calibration import BackboneCurve, Calibration
from kdexport.nouns.graph import GraphCost, LatencyEstimate
from kdexport.nouns.plan import Plan
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.nouns.project import Project
from kdexport.nouns.student import Recipe
from kdexport.nouns.target import PERCENTILES, Objective, Target
from kdexport.stages.plan import (
    Sizes,
    absent_end_to_end,
    absent_host,
    at_percentile,
    cores_of_run,
    plan,
    planned_precision,
    workers,
)
from kdexport.tasks import image_classification

SIZES = Sizes(
    input_kind="text",
    num_classes=5,
    shape=InputShape(tokens=10),
    vocab_sizes=(1000,),
    teacher_params=22_000_000,
    teacher_flops=2e8,
    transfer_rows=10_000,
    train_rows=1000,
)
RECIPE = Recipe(
    epochs=8, batch_size=128, learning_rate=3e-3, temperature=1, hard_weight=0.1, loss="kl", augment_per_row=6,
    dropout=0.1, seed=0, threads=1,
)  # fmt: skip
CURVE = BackboneCurve(
    coefficients=dict(zip(FEATURES, (0.01, 0.001, 1e-8, 1e-8, 1e-8), strict=True)), relative_error=0.1, num_points=20
)
CALIBRATION = Calibration(
    fingerprint="f", environment="e", runtime="onnxruntime", precision="fp32", threads=1,
    curves={"convolution": CURVE, "transformer": CURVE}, preprocess_ms=0.05, tail_ratio=2.0, seconds=1,
)  # fmt: skip
LOCAL = HardwareProfile.model_validate(
    {"id": "local", "name": "here", "device_class": "cpu", "vendor": "v", "host": "x86-64", "facts": {}}
)


def project(**changes: Any) -> Project:
    return Project.model_validate(
        {
            "name": "p",
            "task": "text_classification",
            "teachers": [{"function": "m:f"}],
            "data": {"train": {"path": "train.csv"}},
            "targets": ["t"],
            "min_retention": 0.5,
        }
        | changes
    )


def target(limit_ms: float = 10.0, **changes: Any) -> Target:
    objective = {"limit_ms": limit_ms} | changes.pop("objective", {})
    return Target.model_validate(
        {
            "id": "t",
            "profile": "local",
            "runtimes": ["onnxruntime"],
            "precisions": ["fp32"],
            "objective": objective,
            "traffic": {"mean_requests_per_s": 1, "peak_requests_per_s": 1},
        }
        | changes
    )


def planned(
    where: Target, profile: HardwareProfile = LOCAL, here: bool = True, sizes: Sizes = SIZES, **changes: Any
) -> Plan:
    return plan(project(**changes), sizes, RECIPE, [(where, profile, CALIBRATION if here else None)], cores=2)


def test_a_looser_limit_never_gives_a_worse_student() -> None:
    values = [planned(target(ms), prefer="quality").targets[0].chosen.quality.value for ms in (0.3, 0.5, 1.0, 5.0)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_a_limit_that_nothing_meets_is_said_with_what_is_met() -> None:
    found = planned(target(0.001)).targets[0]
    assert not found.feasible
    assert "is over limit_ms 0.001" in found.nearest
    assert "met: limit_ms" in found.nearest


@pytest.mark.parametrize(
    ("where", "changes", "message"),
    [
        (target(), {"max_params": 10}, "parameters are over max_params 10"),
        (target(limits={"artifact_bytes": 10}), {}, "bytes are over the target's artifact_bytes 10"),
        (target(limits={"memory_mib": 0.001}), {}, "MiB of weights are over the target's memory_mib 0.001"),
    ],
)
def test_every_limit_is_named_where_it_cannot_be_kept(where: Target, changes: dict[str, Any], message: str) -> None:
    found = planned(where, **changes).targets[0]
    assert not found.feasible
    assert message in found.nearest


def test_the_parameter_limit_is_kept() -> None:
    found = planned(target(), max_params=50_000, prefer="quality").targets[0]
    assert found.feasible
    assert found.chosen.num_params <= 50_000


def test_end_to_end_is_the_model_plus_preprocessing() -> None:
    scopes = ("end_to_end", "model")
    whole, model = (planned(target(objective={"scope": s})).targets[0].chosen.latency for s in scopes)
    assert whole is not None
    assert model is not None
    assert whole.p50_ms - model.p50_ms == pytest.approx(0.05)


def test_a_cpu_whose_facts_are_missing_has_no_latency_and_says_so() -> None:
    found = planned(target(profile="blank"), LOCAL.model_copy(update={"id": "blank"}), here=False).targets[0]
    assert found.chosen.latency is None
    assert any("cannot be estimated: its facts lack" in note for note in found.notes)


def test_a_target_without_an_offering_has_a_blank_cost_and_says_so() -> None:
    found = planned(target()).targets[0]
    assert found.chosen.usd_per_year is None
    assert "target t names no offering: its cost is blank" in found.notes


def test_an_absent_machine_has_an_estimate_and_a_price() -> None:
    where = catalogue.target("l4", "")
    found = planned(where, catalogue.profile("l4", ""), here=False).targets[0].chosen
    assert found.latency is not None
    assert found.latency.low_ms < found.latency.p50_ms < found.latency.high_ms
    assert found.usd_per_year is not None


@given(st.floats(0.01, 100), st.floats(1, 10))
def test_a_higher_percentile_is_never_lower_and_the_median_is_the_median(p50_ms: float, tail: float) -> None:
    values = [at_percentile(p50_ms, tail, Objective(percentile=p, limit_ms=1)) for p in PERCENTILES]
    assert values == sorted(values)
    assert values[0] == p50_ms
    assert values[PERCENTILES.index(99)] == pytest.approx(p50_ms * tail)


def test_half_precision_is_planned_with_where_it_is_allowed() -> None:
    assert planned_precision(target(precisions=["fp32", "fp16"])) == "fp16"
    assert planned_precision(target(precisions=["int8", "fp32"])) == "int8"


def test_a_cpu_instance_answers_with_one_process_for_each_so_many_threads() -> None:
    where, profile = catalogue.target("c7i-large", ""), catalogue.profile(catalogue.target("c7i-large", "").profile, "")
    assert workers(profile, where, 1) == 2 * workers(profile, where, 2) == 2
    assert workers(catalogue.profile("l4", ""), catalogue.target("l4", ""), 1) == 1


def test_hours_are_said_for_every_stage_before_any_is_spent() -> None:
    fit = {"fit": {"spec": {"backbone": "convolution", "vocab_size": 10, "embedding_size": 8, "hidden_size": 8}}}
    names = [s.stage for s in planned(target(), teachers=[fit]).stages]
    assert names == ["teach", "label", "distil student 1", "engines and bench"]
    assert [s.stage for s in planned(target()).stages] == names[1:]


def test_hours_grow_with_the_rows() -> None:
    few, many = (planned(target(), sizes=replace(SIZES, transfer_rows=n)).stages for n in (10_000, 100_000))
    for one, other in zip(few[:2], many[:2], strict=True):
        assert one.hours
        assert other.hours == pytest.approx(10 * one.hours)


def test_hours_of_a_teacher_whose_arithmetic_is_not_known_are_blank_not_zero() -> None:
    label, distil = planned(target(), sizes=replace(SIZES, teacher_params=None, teacher_flops=None)).stages[:2]
    assert label.stage == "label"
    assert label.hours is None
    assert "not known" in label.basis
    assert distil.hours is not None


def test_a_core_is_not_counted_twice_in_the_capacity_of_an_instance() -> None:
    """MiniLM, 16 tokens, on two of the 64 cores of a Graviton3: two workers, each as fast as one core."""
    where = catalogue.target("c7g-large", "")
    profile = catalogue.profile(where.profile, "")
    mini_lm = {"vocab_size": 30_522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    spec = parse_spec({"backbone": "transformer", "intermediate_size": 1536, **mini_lm})
    cost = backbone_of(spec).cost(spec, 77, InputShape(tokens=16))
    host = absent_host(profile, "text", None)
    found = absent_end_to_end(profile, cost, "fp32", "model", host, cores_of_run(profile, 1))
    assert found.p50_ms == pytest.approx(5.8, abs=0.3)
    assert "on 1 core" in found.basis
    assert workers(profile, where, 1) == 2


@pytest.mark.parametrize(("name", "cores"), [("c7g-large", 2), ("l4", None)])
def test_students_are_planned_on_as_many_cores_as_engines_have_threads(
    monkeypatch: pytest.MonkeyPatch, name: str, cores: int | None
) -> None:
    asked = set()
    estimate = absent.estimate

    def noted(profile: HardwareProfile, cost: GraphCost, precision: Precision, cores: int | None) -> LatencyEstimate:
        asked.add(cores)
        return estimate(profile, cost, precision, cores)

    monkeypatch.setattr(absent, "estimate", noted)
    where = catalogue.target(name, "")
    planned(where, catalogue.profile(where.profile, ""), here=False, threads=2)
    assert asked == {cores}


PICTURES = replace(
    SIZES, input_kind="image", shape=InputShape(channels=3, height=64, width=64), vocab_sizes=(0,), transfer_rows=80_000
)
PICTURE_CALIBRATION = CALIBRATION.model_copy(update={"curves": {"image_convolution": CURVE}})


def planned_pictures(sizes: Sizes) -> Plan:
    where = [(target(), LOCAL, PICTURE_CALIBRATION)]
    return plan(project(task="image_classification"), sizes, RECIPE, where, cores=2)


def test_memory_of_pictures_is_their_pixels_and_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_classification, "memory_limit_bytes", lambda: 8 << 30)
    one, other = (
        next(s for s in planned_pictures(replace(PICTURES, transfer_rows=n)).stages if s.stage.startswith("distil"))
        for n in (80_000, 160_000)
    )
    assert other.memory_gib - one.memory_gib == pytest.approx(80_000 * 3 * 64 * 64 / 2**30)


def test_pictures_that_do_not_fit_into_memory_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_classification, "memory_limit_bytes", lambda: 1 << 30)
    with pytest.raises(
        BadInput, match=r"80,000 pictures of 64 x 64 x 3 are 0\.92 GiB of pixels; 0\.60 GiB are allowed"
    ):
        planned_pictures(PICTURES)
