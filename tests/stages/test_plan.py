from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport import catalogue
from kdexport.backbones import InputShape, backbone_of, parse_spec
from kdexport.errors import BadInput
from kdexport.latency import absent, calibrated
from kdexport.latency.estimates import Estimates
from kdexport.nouns.calibration import Calibration, LocalSpeed
from kdexport.nouns.ladder import Ladder, Rung
from kdexport.nouns.plan import Plan
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.nouns.project import Project
from kdexport.nouns.student import Recipe
from kdexport.nouns.target import Target
from kdexport.sizing.spend import Sizes
from kdexport.stages.plan import (
    Where,
    absent_end_to_end,
    absent_host,
    cores_of_run,
    plan,
    planned_precision,
    queue_ms,
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
CALIBRATION = Calibration(
    fingerprint="f",
    environment="e",
    taken_at="2026-11-24T00:00:00+00:00",
    runtime="onnxruntime",
    version="1",
    precision="fp32",
    threads=1,
    points=(),
    noise=0.01,
    tail={"90": 1.1, "95": 1.2, "99": 2.0, "99.9": 3.0},
    seconds=1,
)
SPEED = LocalSpeed(cells=(CALIBRATION,), preprocess_ms=0.05, preprocess_tail={"99": 1.0})


def counted(calibration: Calibration, specs: Any, num_classes: int, shape: InputShape) -> Estimates:
    """In place of a fit: latency counted from the arithmetic; int8 is twice as fast, an interval 10 % wide."""
    costs = [backbone_of(s).cost(s, num_classes, shape) for s in specs]
    p50_ms = np.array([0.01 + 0.001 * c.num_operators + 1e-8 * c.flops for c in costs])
    p50_ms /= 2 if calibration.precision == "int8" else 1
    return Estimates(p50_ms, p50_ms / 1.1, p50_ms * 1.1, np.zeros(len(costs), bool), "counted", "b")


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "estimates", counted)


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
    where: Target,
    profile: HardwareProfile = LOCAL,
    here: bool = True,
    sizes: Sizes = SIZES,
    speed: LocalSpeed = SPEED,
    **changes: Any,
) -> Plan:
    return plan(project(**changes), sizes, RECIPE, [Where(where, profile, speed if here else None)], cores=2)


def test_a_looser_limit_never_gives_a_worse_student() -> None:
    values = [planned(target(ms), prefer="quality").targets[0].chosen.quality.value for ms in (0.3, 0.5, 1.0, 5.0)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_a_limit_that_nothing_meets_is_said_with_what_is_met() -> None:
    found = planned(target(0.001)).targets[0]
    assert not found.feasible
    assert found.binding == "latency"
    assert "is over limit_ms 0.001" in found.nearest
    assert "met with limit_ms" in found.nearest


def test_on_a_calibrated_machine_the_upper_end_of_the_interval_is_held_against_the_limit() -> None:
    chosen = planned(target(0.2), prefer="quality").targets[0].chosen
    assert chosen.objective_ms is not None
    assert chosen.bound_ms is not None
    assert chosen.objective_ms < chosen.bound_ms <= 0.2


def test_the_longest_requests_decide_the_percentile() -> None:
    """One request in ten is forty times as long as the others: the p99 is that of a long one, the median is not."""
    lengths = replace(SIZES, lengths=(10,) * 9 + (400,))
    short, long = (planned(target(1e6), sizes=s, prefer="quality").targets[0].chosen for s in (SIZES, lengths))
    assert short.latency is not None
    assert long.latency is not None
    assert short.objective_ms is not None
    assert long.objective_ms is not None
    assert long.objective_ms / long.latency.p50_ms > 4 * short.objective_ms / short.latency.p50_ms


def test_the_faster_of_two_precisions_is_planned_with() -> None:
    cells = (CALIBRATION, CALIBRATION.model_copy(update={"precision": "int8"}))
    found = planned(target(precisions=["fp32", "int8"]), speed=SPEED.model_copy(update={"cells": cells})).targets[0]
    assert found.chosen.precision == "int8"
    assert found.chosen.runtime == "onnxruntime"


def test_thousands_of_candidates_are_weighed() -> None:
    sizes = replace(SIZES, vocab_sizes=(4000, 2000, 1000))
    assert planned(target(), sizes=sizes).targets[0].num_candidates > 2000


def test_the_ladder_moves_the_prediction() -> None:
    spec = {"backbone": "convolution", "vocab_size": 1000, "embedding_size": 64, "hidden_size": 128}
    rungs = [Rung(spec=spec, num_params=90_000, schedule_share=0.25, dev_quality=q, seconds=1) for q in (0.5, 0.9)]
    low, high = (
        plan(
            project(),
            SIZES,
            RECIPE,
            [Where(target(), LOCAL, SPEED)],
            cores=2,
            ladder=Ladder(rungs=(r,), teacher_dev_quality=0.95, dev_rows=1000, seconds=1, budget_seconds=1),
        )
        .targets[0]
        .chosen.quality.value
        for r in rungs
    )
    assert low < high


def test_a_plan_says_what_the_ladder_would_cost_until_it_is_climbed() -> None:
    stage = next(
        s for s in planned(target(), training={"ladder_minutes": 3, "usd_per_hour": 2}).stages if s.stage == "ladder"
    )
    assert stage.hours == pytest.approx(0.05)
    assert stage.usd == pytest.approx(0.1)
    assert not any(s.stage == "ladder" for s in planned(target(), training={"ladder_minutes": 0}).stages)


def test_a_dearer_offering_never_costs_less() -> None:
    where, profile = catalogue.target("l4", ""), catalogue.profile("l4", "")
    found = []
    for usd in (0.5, 0.8, 3.0):
        offering = profile.offering(str(where.offering))
        assert offering is not None
        price = offering.price_usd_per_hour
        assert price is not None
        dearer = offering.model_copy(update={"price_usd_per_hour": price.model_copy(update={"value": usd})})
        chosen = planned(where, profile.model_copy(update={"offerings": (dearer,)}), here=False).targets[0].chosen
        found.append(chosen.usd_per_year or 0)
    assert found == sorted(found)
    assert found[0] > 0


def test_batches_are_planned_on_a_gpu_under_load_and_nowhere_else() -> None:
    where, profile = catalogue.target("l4", ""), catalogue.profile("l4", "")
    busy = where.model_copy(update={"traffic": where.traffic.model_copy(update={"peak_requests_per_s": 1e6})})
    assert planned(busy, profile, here=False).targets[0].chosen.batch > 1
    alone = busy.model_copy(update={"objective": busy.objective.model_copy(update={"scenario": "single_stream"})})
    assert planned(alone, profile, here=False).targets[0].chosen.batch == 1


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


def test_half_precision_is_planned_with_where_it_is_allowed() -> None:
    assert planned_precision(target(precisions=["fp32", "fp16"])) == "fp16"
    assert planned_precision(target(precisions=["int8", "fp32"])) == "int8"


@pytest.mark.parametrize(("name", "cores"), [("c7g-large", 2), ("c7i-large", 1)])
def test_a_cpu_instance_answers_with_one_process_for_each_so_many_threads(name: str, cores: int) -> None:
    """Both sell two virtual CPUs: whole cores on Graviton, two threads of one core on Xeon."""
    where = catalogue.target(name, "")
    profile = catalogue.profile(where.profile, "")
    assert workers(profile, where, 1) == cores
    assert workers(profile, where, 2) == 1
    assert (
        workers(
            profile.model_copy(update={"facts": profile.facts.model_copy(update={"vcpus_per_core": None})}), where, 1
        )
        == 1
    )


def test_a_gpu_instance_answers_with_one_process_a_device() -> None:
    assert workers(catalogue.profile("l4", ""), catalogue.target("l4", ""), 1) == 1


def test_hours_are_said_for_every_stage_before_any_is_spent() -> None:
    fit = {"fit": {"spec": {"backbone": "convolution", "vocab_size": 10, "embedding_size": 8, "hidden_size": 8}}}
    names = [s.stage for s in planned(target(), teachers=[fit]).stages]
    assert names == ["teach", "label", "ladder", "distil student 1", "baselines of student 1", "engines and bench"]
    assert [s.stage for s in planned(target()).stages] == names[1:]


def test_hours_grow_with_the_rows() -> None:
    few, many = (planned(target(), sizes=replace(SIZES, transfer_rows=n)).stages for n in (10_000, 100_000))
    for one, other in zip(few[:2], many[:2], strict=True):
        assert one.hours
        assert other.hours == pytest.approx(10 * one.hours)


def test_hours_of_a_teacher_whose_arithmetic_is_not_known_are_blank_not_zero() -> None:
    label, _, distil = planned(target(), sizes=replace(SIZES, teacher_params=None, teacher_flops=None)).stages[:3]
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
    assert found.low_ms < 5.8 < found.high_ms  # 6 layers of 384 in 5.8 ms: 70 GFLOP/s of one core's 83
    assert "on 1 core" in found.basis
    assert workers(profile, where, 1) == 2


@pytest.mark.parametrize(("name", "cores"), [("c7g-large", 2), ("l4", None)])
def test_students_are_planned_on_as_many_cores_as_engines_have_threads(
    monkeypatch: pytest.MonkeyPatch, name: str, cores: int | None
) -> None:
    asked = set()
    estimates = absent.estimates

    def noted(profile: HardwareProfile, costs: Any, precision: Precision, cores: int | None, runtime: str) -> Estimates:
        asked.add(cores)
        return estimates(profile, costs, precision, cores, runtime)

    monkeypatch.setattr(absent, "estimates", noted)
    where = catalogue.target(name, "")
    planned(where, catalogue.profile(where.profile, ""), here=False, threads=2)
    assert asked == {cores}


PICTURES = replace(
    SIZES, input_kind="image", shape=InputShape(channels=3, height=64, width=64), vocab_sizes=(0,), transfer_rows=80_000
)


def planned_pictures(sizes: Sizes) -> Plan:
    where = [Where(target(), LOCAL, SPEED)]
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


def test_a_further_precision_is_planned_elsewhere_only_where_the_planned_one_breaks_a_limit() -> None:
    """int8 is a quarter of the bytes; on a machine that is not here nobody measured that it is faster."""
    where = catalogue.target("raspberry-pi-5", "")
    assert {"fp32", "int8"} <= set(where.precisions)
    profile = catalogue.profile(where.profile, "")
    roomy = planned(where, profile, here=False, prefer="quality").targets[0].chosen
    limits = where.limits.model_copy(update={"artifact_bytes": 200_000})
    tight = planned(
        where.model_copy(update={"limits": limits}), profile, here=False, prefer="quality", min_retention=0.01
    ).targets[0]
    assert roomy.precision == "fp32"
    assert tight.chosen.precision == "int8"
    assert any("int8 is predicted to keep what fp32 keeps" in note for note in tight.notes)


@given(st.floats(0.01, 0.98), st.floats(0.01, 0.98), st.integers(1, 16), st.sampled_from((90, 95, 99)))
def test_a_busier_replica_never_makes_a_request_wait_less(one: float, other: float, workers: int, p: float) -> None:
    quiet, busy = sorted((one, other))
    waits = queue_ms(np.array([2.0, 2.0]), np.array([quiet, busy]), workers, p)
    assert waits[0] <= waits[1]
    assert queue_ms(np.array([2.0]), np.array([busy]), workers + 1, p)[0] <= waits[1]


def test_waiting_is_that_of_a_simulated_queue() -> None:
    """One worker, constant service of 1 ms, Poisson arrivals at 0.7: Lindley's recursion."""
    chance = np.random.default_rng(0)
    gaps_ms, wait, waits = chance.exponential(1 / 0.7, 400_000), 0.0, []
    for gap_ms in gaps_ms.tolist():
        wait = max(0.0, wait + 1.0 - gap_ms)
        waits.append(wait)
    found = queue_ms(np.array([1.0]), np.array([0.7]), 1, 99)[0]
    assert found == pytest.approx(np.percentile(waits, 99), rel=0.15)


def test_under_load_a_tighter_limit_needs_more_replicas() -> None:
    where, profile = catalogue.target("c7g-large", ""), catalogue.profile("graviton3", "")
    busy = where.traffic.model_copy(update={"mean_requests_per_s": 5e4, "peak_requests_per_s": 1e5})
    found = []
    for limit_ms in (0.3, 1.0, 50.0):
        objective = where.objective.model_copy(update={"scenario": "server", "limit_ms": limit_ms})
        there = where.model_copy(update={"traffic": busy, "objective": objective})
        chosen = planned(there, profile, here=False).targets[0].chosen
        assert chosen.bound_ms is not None
        assert chosen.bound_ms <= limit_ms
        found.append(chosen.usd_per_year or 0)
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_money_says_what_it_rests_on() -> None:
    where = catalogue.target("l4", "")
    (note,) = (n for n in planned(where, catalogue.profile("l4", ""), here=False).targets[0].notes if "cost is of" in n)
    assert "(assumed)" in note
    assert str(where.offering) in note
