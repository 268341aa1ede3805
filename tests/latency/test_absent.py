"""Latency of absent machines: physics that never rewards more work, with an interval that has been tried."""

from __future__ import annotations

import datetime
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexport.errors import Unsupported
from kdexport.latency import absent
from kdexport.latency.absent import (
    PairSpread,
    Pool,
    Prior,
    Width,
    estimate,
    estimate_host,
    estimate_speedup,
    estimates,
    family_of,
    prior,
)
from kdexport.latency.absent_physics import COEFFICIENTS, PRIORS, PoolName, predicted
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.profile import DeviceClass, Facts, HardwareProfile, Number, Precision, Text
from kdexport.nouns.published import PublishedLatency

if TYPE_CHECKING:
    from benchmarks.absent_devices import Table

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "hardware" / "published_latency.csv"
CLASSES: tuple[DeviceClass, ...] = ("edge-gpu", "edge-cpu", "cpu", "datacenter-gpu")


def profile(facts: dict[str, float], device_class: DeviceClass = "cpu", host: str = "x86-64") -> HardwareProfile:
    source = {"source": "made up for a test", "date": datetime.date(2026, 11, 24)}
    numbers = {name: Number.model_validate({"value": value, **source}) for name, value in facts.items()}
    return HardwareProfile.model_validate(
        {
            "id": "made-up",
            "name": "made up",
            "device_class": device_class,
            "vendor": "nobody",
            "host": host,
            "facts": Facts.model_validate(numbers),
        }
    )


def server(**facts: float) -> HardwareProfile:
    return profile({"cores": 8.0, "memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8, **facts})


def gpu(**facts: float) -> HardwareProfile:
    known = {"memory_bandwidth_gb_per_s": 933.0, "peak_fp32_tflops": 10.3, "peak_fp16_tflops": 165.0}
    return profile({**known, **facts}, "datacenter-gpu")


def cost(**changes: float) -> GraphCost:
    """A student of 0.7 M parameters on 16 tokens, unless said otherwise."""
    student = {"flops": 5e6, "weight_bytes": 4e5, "activation_bytes": 1e5, "num_operators": 12, "num_params": 700_000}
    return GraphCost.model_validate({**student, "tokens": 16, **changes})


def published(p50_ms: float, work: GraphCost, precision: Precision = "fp16", runtime: str = "tensorrt") -> Any:
    """A row that others measured of the device."""
    return PublishedLatency(
        model="made up",
        runtime=runtime,
        precision=precision,
        p50_ms=p50_ms,
        flops=work.flops,
        num_params=work.num_params,
        num_operators=work.num_operators,
        activation_bytes=work.activation_bytes,
        source="made up for a test",
        date=datetime.date(2026, 11, 24),
    )


def knowing(machine: HardwareProfile, *rows: Any) -> HardwareProfile:
    return machine.model_copy(update={"published": rows})


BERT_BASE_128 = cost(
    flops=22.4e9, weight_bytes=340e6, activation_bytes=61e6, num_operators=100, num_params=85_000_000, tokens=128
)


def pairs_within(factor: float, extrapolated: float) -> PairSpread:
    widths = {"half_width_log": math.log(factor), "extrapolated_half_width_log": math.log(extrapolated)}
    return PairSpread.model_validate({**widths, "coverage": 0.9, "pairs": 40, "devices": 9})


def round_pool(name: PoolName) -> Pool:
    """One core: 2 us an operator, half of its peak; all cores: 20 us and a quarter. Half of the bandwidth."""
    means = dict.fromkeys(COEFFICIENTS, 0.0) | {
        "operator_us": math.log(2),
        "fork": math.log(10),
        "efficiency": math.log(0.25),
        "one_core": math.log(2),
        "bandwidth": math.log(0.5),
    }
    widths = {
        "none": Width(inside=1.0, extrapolated=1.5, devices=9),
        "one": Width(inside=0.8, extrapolated=1.2, devices=9),
        "several": Width(inside=0.5, extrapolated=0.75, devices=9),
    }
    classes: dict[DeviceClass, int] = {"cpu": 9, "edge-cpu": 2}
    variances = [PRIORS[name][c][1] ** 2 for c in COEFFICIENTS]
    return Pool.model_validate(
        {
            "names": COEFFICIENTS,
            "means": tuple(means.values()),
            "covariance": tuple((*[0.0] * i, variance) for i, variance in enumerate(variances)),
            "widths": dict.fromkeys(classes, widths),
            "half_width_log": math.log(2),
            "span_log": math.log(10),
            "min_flops": 1e6,
            "max_flops": 1e12,
            "min_params": 1_000,
            "min_operators": 5,
            "rows": 31,
            "devices": 11,
            "classes": classes,
            "families": {"Arm with NEON": 2},
            "same_precision": pairs_within(1.1, extrapolated=1.2),
            "other_precision": pairs_within(1.3, extrapolated=1.4),
        }
    )


@pytest.fixture
def round_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coefficients to reckon with by hand, in place of the fitted ones."""
    monkeypatch.setattr(absent, "prior", lambda: Prior(provenance="by hand", pools={"cpu": round_pool("cpu")}))


@pytest.fixture
def doubtful_by_ln_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every estimate has the standard deviation ln 2."""
    doubt = math.log(2)
    monkeypatch.setattr(absent, "predicted", lambda *a: (predicted(*a)[0], doubt * np.ones(len(a[2]))))


@pytest.mark.usefixtures("round_prior")
class TestByHand:
    def test_a_small_graph_runs_on_one_core(self) -> None:
        # launch 10 + 10 operators x 2 + 5e6 / (0.5 x 0.1e12) = 100 + 1e6 bytes / (0.5 x 100e9) = 20: 150 us
        got = estimate(server(), cost(flops=5e6, weight_bytes=8e5, activation_bytes=2e5, num_operators=10), "fp32")
        assert got.p50_ms == pytest.approx(0.150)
        assert "on 1 core" in got.basis

    def test_a_large_graph_runs_on_all_cores(self) -> None:
        # launch 10 + 10 operators x 20 + 2e9 / (0.25 x 0.8e12) = 10,000 + 1e6 bytes / (0.5 x 100e9) = 20: 10,230 us
        got = estimate(server(), cost(flops=2e9, weight_bytes=8e5, activation_bytes=2e5, num_operators=10), "fp32")
        assert got.p50_ms == pytest.approx(10.230)
        assert "on all 8 cores" in got.basis

    def test_a_run_that_may_use_one_core_is_not_counted_on_all_of_them(self) -> None:
        # launch 10 + 10 operators x 2 + 2e9 / (0.5 x 0.1e12) = 40,000 + 1e6 bytes / (0.5 x 100e9) = 20: 40,050 us
        large = cost(flops=2e9, weight_bytes=8e5, activation_bytes=2e5, num_operators=10)
        got = estimate(server(), large, "fp32", cores=1)
        assert got.p50_ms == pytest.approx(40.050)
        assert "on 1 core" in got.basis

    def test_a_quarter_of_the_cores_has_a_quarter_of_peak_and_bandwidth(self) -> None:
        # 16 of 64 cores: 10 + 10 x 20 + 2e9 / (0.25 x 0.2e12) = 40,000 + 1e6 / (0.5 x 25e9) = 80: 40,290 us
        large = cost(flops=2e9, weight_bytes=8e5, activation_bytes=2e5, num_operators=10)
        got = estimate(server(cores=64.0), large, "fp32", cores=16)
        assert got.p50_ms == pytest.approx(40.290)
        assert "on 16 of 64 cores" in got.basis

    def test_a_speed_up_is_of_the_cores_that_a_run_may_use(self) -> None:
        slow, fast = cost(flops=2e9), cost(flops=5e6)
        value, _ = estimate_speedup(server(), slow, "fp32", fast, "fp32", cores=1)
        one, other = (estimate(server(), c, "fp32", cores=1).p50_ms for c in (slow, fast))
        assert value == pytest.approx(one / other)
        assert value > estimate_speedup(server(), slow, "fp32", fast, "fp32")[0]

    def test_int8_moves_a_quarter_of_the_bytes_at_the_geometric_mean_of_the_peaks(self) -> None:
        # of a core: sqrt(0.1e12 x 0.4e12) = 0.2e12
        # launch 10 + 10 x 2 + 5e6 / (0.5 x 0.2e12) = 50 + 0.25e6 bytes / (0.5 x 100e9) = 5: 85 us
        small = cost(flops=5e6, weight_bytes=8e5, activation_bytes=2e5, num_operators=10)
        assert estimate(server(peak_int8_tops=3.2), small, "int8").p50_ms == pytest.approx(0.085)

    @pytest.mark.usefixtures("doubtful_by_ln_2")
    def test_inside_the_published_range_the_interval_is_the_one_of_left_out_devices(self) -> None:
        got = estimate(server(), cost(flops=5e6), "fp32")
        assert not got.extrapolated
        assert got.p50_ms / got.low_ms == pytest.approx(2)
        assert got.high_ms / got.p50_ms == pytest.approx(2)

    @pytest.mark.usefixtures("doubtful_by_ln_2")
    def test_outside_it_grows_with_the_square_root_of_the_distance(self) -> None:
        # 1e6 / 100 is ten to the fourth, four spans of ten: twice 1.5 standard deviations of ln 2
        got = estimate(server(), cost(flops=100), "fp32")
        assert got.extrapolated
        assert got.high_ms / got.p50_ms == pytest.approx(8)

    @pytest.mark.usefixtures("doubtful_by_ln_2")
    def test_few_operators_or_parameters_are_outside_too(self) -> None:
        for small in (cost(num_operators=4), cost(num_params=999)):
            got = estimate(server(), small, "fp32")
            assert got.extrapolated
            assert got.high_ms / got.p50_ms == pytest.approx(2**1.5)

    @pytest.mark.usefixtures("doubtful_by_ln_2")
    @pytest.mark.parametrize(("count", "width"), [(0, 1.0), (1, 0.8), (4, 0.8), (5, 0.5), (9, 0.5)])
    def test_the_width_is_of_as_many_known_rows(self, count: int, width: float) -> None:
        row = published(0.15, cost(), "fp32", "onnxruntime")
        got = estimate(knowing(server(), *[row] * count), cost(flops=5e6), "fp32")
        assert got.high_ms / got.p50_ms == pytest.approx(2**width)

    def test_the_basis_says_what_is_pooled(self) -> None:
        assert "pooled" not in estimate(server(), cost(), "fp32").basis
        board = profile({"memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8}, "edge-cpu")
        assert "cpu and edge-cpu pooled, 2 edge-cpu are too few" in estimate(board, cost(), "fp32").basis

    def test_without_a_count_of_cores_all_of_them_are_used(self) -> None:
        unknown = profile({"memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8})
        assert "on all cores" in estimate(unknown, cost(), "fp32").basis

    def test_two_models_of_equal_size_differ_by_the_spread_of_pairs(self) -> None:
        other = cost(flops=5e6, weight_bytes=8e5)
        value, (low, high) = estimate_speedup(server(), other, "fp32", cost(flops=5e6), "fp32")
        expected = estimate(server(), other, "fp32").p50_ms / estimate(server(), cost(flops=5e6), "fp32").p50_ms
        assert value == pytest.approx(expected)
        assert value / low == pytest.approx(1.1)
        assert high / value == pytest.approx(1.1)

    def test_the_spread_grows_with_the_root_of_the_distance_in_flops(self) -> None:
        # e^3 times the FLOPs: sqrt(1 + 3) = 2 times the width of ln ratio
        value, (low, high) = estimate_speedup(server(), cost(flops=5e6 * math.e**3), "fp32", cost(flops=5e6), "fp32")
        assert value / low == pytest.approx(1.1**2)
        assert high / value == pytest.approx(1.1**2)

    def test_two_precisions_share_less_than_one(self) -> None:
        value, (low, _) = estimate_speedup(server(peak_int8_tops=3.2), cost(), "fp32", cost(), "int8")
        assert value / low == pytest.approx(1.3)

    def test_a_model_outside_the_published_range_widens_the_ratio(self) -> None:
        # 1e6 / 100 is four spans of ten: twice the width; 1e6 / 100 is e^9.2 too
        value, (low, _) = estimate_speedup(server(), cost(flops=1e6), "fp32", cost(flops=100), "fp32")
        assert value / low == pytest.approx(1.2 ** (2 * math.sqrt(1 + math.log(1e4))))

    def test_host_work_alone_moves_a_ratio_by_the_host_it_might_be(self) -> None:
        # alone one takes about 20 times as long as the other; with 1 s of host before both nothing is left of it
        slow, fast = cost(flops=5e8), cost(flops=5e6)
        value, (low, high) = estimate_speedup(server(), slow, "fp32", fast, "fp32", (1e3, 0.9e3, 1.1e3))
        assert value == pytest.approx(1, abs=0.01)
        assert high - low < 0.02


def test_the_shipped_interval_holds_a_published_figure_inside_the_range() -> None:
    # BERT base, 128 tokens, fp16, batch 1 on an A30: 0.89 ms (NVIDIA TensorRT demoBERT README, read 2026-11-24)
    got = estimate(gpu(), BERT_BASE_128, "fp16")
    assert not got.extrapolated
    assert got.low_ms < 0.89 < got.high_ms


@pytest.mark.parametrize("device_class", CLASSES)
def test_a_student_below_the_published_range_is_marked_and_gets_a_wider_interval(device_class: DeviceClass) -> None:
    facts = {"cores": 4.0, "memory_bandwidth_gb_per_s": 60.0, "peak_fp32_tflops": 0.15}
    student = estimate(profile(facts, device_class), cost(), "fp32")
    published = estimate(profile(facts, device_class), BERT_BASE_128, "fp32")
    assert student.extrapolated
    assert not published.extrapolated
    assert "outside the published range" in student.basis
    assert student.high_ms / student.p50_ms > published.high_ms / published.p50_ms


def test_the_interval_holds_the_median_and_the_basis_counts_rows_and_devices() -> None:
    got = estimate(gpu(), cost(), "fp16")
    assert got.low_ms < got.p50_ms < got.high_ms
    pool = prior().pools["gpu"]
    assert f"{pool.rows} published rows of {pool.devices} devices" in got.basis


def test_the_basis_counts_rows_of_the_device_and_relatives_of_its_family() -> None:
    date = datetime.date(2026, 11, 24)
    ada = gpu()
    facts = ada.facts.model_copy(update={"compute_capability": Text(value="8.9", source="made up", date=date)})
    ada = ada.model_copy(update={"facts": facts})
    relatives = prior().pools["gpu"].families["Ada"]
    basis = estimate(ada, BERT_BASE_128, "fp16").basis
    assert basis.startswith("no measurement of this device; ")
    assert f"{relatives} of them of family Ada" in basis
    row = published(1.0, BERT_BASE_128)
    assert estimate(knowing(ada, row), cost(), "fp16").basis.startswith("1 published row of this device; ")
    three = estimate(knowing(ada, row, row, row), cost(), "fp16").basis
    assert three.startswith("3 published rows of this device, interval of one; ")
    assert "family not known" in estimate(gpu(), BERT_BASE_128, "fp16").basis


def test_a_runtime_that_nobody_published_is_named_and_less_certain() -> None:
    known, unknown = (estimate(server(), BERT_BASE_128, "fp32", runtime=r) for r in ("onnxruntime", "brand-new"))
    assert "by brand-new, of which no row is published" in unknown.basis
    assert unknown.high_ms / unknown.low_ms > known.high_ms / known.low_ms
    assert estimate(server(), BERT_BASE_128, "fp32") == known


@pytest.mark.parametrize(
    ("fact", "value", "family"),
    [
        ("compute_capability", "8.7", "Orin"),
        ("compute_capability", "8.6", "Ampere"),
        ("compute_capability", "12.0", "Blackwell"),
        ("compute_capability", "gfx942", ""),
        ("isa", "x86-64-v4 avx512+vnni+amx-int8+amx-bf16", "x86-64 with AMX"),
        ("isa", "x86-64-v3 avx2+avx-vnni (no avx512)", "x86-64 with AVX2"),
        ("isa", "armv8.4-a sve256 dotprod i8mm bf16", "Arm with SVE"),
        ("isa", "armv8.2-a neon+dotprod+fp16 (no i8mm, no bf16)", "Arm with NEON"),
    ],
)
def test_devices_of_one_architecture_are_a_family(fact: str, value: str, family: str) -> None:
    machine = gpu() if fact == "compute_capability" else server()
    text = Text(value=value, source="made up", date=datetime.date(2026, 11, 24))
    assert family_of(machine.model_copy(update={"facts": machine.facts.model_copy(update={fact: text})})) == family
    assert family_of(machine) == ""


class TestKnownRows:
    def test_a_device_published_as_slower_is_estimated_slower_for_every_model(self) -> None:
        expected = estimate(gpu(), BERT_BASE_128, "fp16").p50_ms
        slower = knowing(gpu(), published(2 * expected, BERT_BASE_128))
        for other in (BERT_BASE_128, cost(), cost(flops=1e12)):
            assert estimate(slower, other, "fp16").p50_ms > estimate(gpu(), other, "fp16").p50_ms

    def test_the_correction_is_shrunk_towards_other_devices(self) -> None:
        expected = estimate(gpu(), BERT_BASE_128, "fp16").p50_ms
        once = published(2 * expected, BERT_BASE_128)
        corrected = estimate(knowing(gpu(), once), BERT_BASE_128, "fp16").p50_ms
        assert 1.1 * expected < corrected < 1.9 * expected

    def test_rows_of_the_same_size_agree_less_than_rows_of_many_sizes(self) -> None:
        # ten sizes of one network are not ten witnesses: ten equal rows count hardly more than one
        slow = published(2 * estimate(gpu(), BERT_BASE_128, "fp16").p50_ms, BERT_BASE_128)
        one, ten = (estimate(knowing(gpu(), *[slow] * n), BERT_BASE_128, "fp16").p50_ms for n in (1, 10))
        assert one <= ten < 1.2 * one

    def test_another_runtime_of_the_device_tells_less(self) -> None:
        expected = estimate(server(), BERT_BASE_128, "fp32").p50_ms
        same, other = (
            estimate(knowing(server(), published(3 * expected, BERT_BASE_128, "fp32", r)), BERT_BASE_128, "fp32").p50_ms
            for r in ("onnxruntime", "openvino")
        )
        assert same > other

    def test_a_row_that_says_what_was_expected_changes_little(self) -> None:
        expected = estimate(gpu(), BERT_BASE_128, "fp16").p50_ms
        same = estimate(knowing(gpu(), published(expected, BERT_BASE_128)), BERT_BASE_128, "fp16").p50_ms
        assert same == pytest.approx(expected, rel=0.02)

    def test_a_row_without_a_source_or_from_memory_is_refused(self) -> None:
        row = published(1.0, BERT_BASE_128)
        with pytest.raises(ValueError, match=r"\[memory\] is not sourced"):
            PublishedLatency.model_validate({**row.model_dump(), "source": "[memory]"})


def test_many_models_at_once_are_the_same_as_one_by_one() -> None:
    models = [cost(), BERT_BASE_128, cost(flops=100), cost(num_operators=300)]
    for machine in (server(), gpu(), knowing(gpu(), published(1.0, BERT_BASE_128))):
        together = estimates(machine, models, "fp32")
        for index, model in enumerate(models):
            alone, one = estimate(machine, model, "fp32"), together.one(index)
            for name in ("p50_ms", "low_ms", "high_ms"):
                assert getattr(one, name) == pytest.approx(getattr(alone, name))
            assert one.extrapolated == alone.extrapolated


def test_a_missing_bandwidth_is_named() -> None:
    with pytest.raises(Unsupported, match=r"profile 'made-up'.*memory_bandwidth_gb_per_s is missing"):
        estimate(profile({"peak_fp32_tflops": 1.0}), cost(), "fp32")


def test_a_missing_peak_is_named_with_what_could_stand_in_for_it() -> None:
    bare = profile({"memory_bandwidth_gb_per_s": 100.0})
    with pytest.raises(Unsupported, match=r"'made-up'.*int8: peak_int8_tops or peak_fp16_tflops or peak_fp32_tflops"):
        estimate(bare, cost(), "int8")
    with pytest.raises(Unsupported, match=r"'made-up'.*fp32: peak_fp32_tflops is missing"):
        estimate(gpu().model_copy(update={"facts": bare.facts}), cost(), "fp32")


def test_a_faster_peak_is_never_borrowed() -> None:
    only_fp16 = profile({"memory_bandwidth_gb_per_s": 100.0, "peak_fp16_tflops": 10.0}, "edge-gpu")
    with pytest.raises(Unsupported, match="peak_fp32_tflops is missing"):
        estimate(only_fp16, cost(), "fp32")


def test_a_precision_without_a_peak_uses_the_next_one_and_says_so() -> None:
    assert "no int8 peak known, fp16 peak used" in estimate(gpu(), BERT_BASE_128, "int8").basis
    assert "no int8 peak known, fp32 peak used" in estimate(server(), BERT_BASE_128, "int8").basis
    assert "no bf16 peak known, fp32 peak used" in estimate(gpu(), BERT_BASE_128, "bf16").basis
    assert "peak known" not in estimate(gpu(), BERT_BASE_128, "fp16").basis


work = st.fixed_dictionaries(
    {
        "flops": st.floats(0, 1e13),
        "weight_bytes": st.floats(0, 1e10),
        "activation_bytes": st.floats(0, 1e10),
        "num_operators": st.floats(1, 1000),
    }
)
more = st.floats(1, 60)


@settings(deadline=None)
@given(device_class=st.sampled_from(CLASSES), base=work, factors=st.tuples(more, more, more, more))
def test_more_work_is_never_faster(
    device_class: DeviceClass, base: dict[str, float], factors: tuple[float, float, float, float]
) -> None:
    machine = profile({"cores": 8.0, "memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8}, device_class)
    heavier = {name: value * factor for (name, value), factor in zip(base.items(), factors, strict=True)}
    assert estimate(machine, cost(**heavier), "fp32").p50_ms >= estimate(machine, cost(**base), "fp32").p50_ms


@settings(deadline=None)
@given(
    device_class=st.sampled_from(CLASSES),
    rows=st.lists(st.tuples(st.floats(0.05, 500), work, st.sampled_from(["fp32", "int8"])), max_size=6),
    base=work,
    factors=st.tuples(more, more, more, more),
)
def test_whatever_was_published_of_a_device_more_work_is_never_faster(
    device_class: DeviceClass, rows: list[Any], base: dict[str, float], factors: tuple[float, float, float, float]
) -> None:
    facts = {"cores": 8.0, "memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8}
    known = [published(ms, cost(**w, num_params=10**6), precision) for ms, w, precision in rows if w["flops"] > 0]
    machine = knowing(profile(facts, device_class), *known)
    heavier = {name: value * factor for (name, value), factor in zip(base.items(), factors, strict=True)}
    found = estimates(machine, [cost(**base), cost(**heavier)], "fp32")
    assert found.p50_ms[1] >= found.p50_ms[0]


@settings(deadline=None)
@given(device_class=st.sampled_from(CLASSES), base=work, cores=more, per_core=more, bandwidth=more)
def test_a_device_with_more_of_everything_is_never_slower(
    device_class: DeviceClass, base: dict[str, float], cores: float, per_core: float, bandwidth: float
) -> None:
    """More cores of at least the same speed: as many slower cores may well be slower for a small graph."""
    few = {"cores": 4.0, "memory_bandwidth_gb_per_s": 60.0, "peak_fp32_tflops": 0.15}
    factors = {"cores": cores, "memory_bandwidth_gb_per_s": bandwidth, "peak_fp32_tflops": cores * per_core}
    small, large = (profile(facts, device_class) for facts in (few, {name: few[name] * factors[name] for name in few}))
    tolerance = 1 + 1e-12  # cores x per_core / cores is not per_core to the last bit
    assert estimate(large, cost(**base), "fp32").p50_ms <= estimate(small, cost(**base), "fp32").p50_ms * tolerance


@settings(deadline=None)
@given(base=work, few=st.integers(1, 80), more_cores=st.integers(0, 80))
def test_a_run_that_may_use_more_cores_is_never_slower(base: dict[str, float], few: int, more_cores: int) -> None:
    machine = profile({"cores": 64.0, "memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8})
    less, more_of_them, all_of_them = (
        estimate(machine, cost(**base), "fp32", cores).p50_ms for cores in (few, few + more_cores, None)
    )
    assert less >= more_of_them >= all_of_them


def test_a_gpu_is_used_whole_whatever_the_threads_of_the_host() -> None:
    card = gpu(cores=60.0)
    assert estimate(card, cost(), "fp16", cores=1) == estimate(card, cost(), "fp16")


ratios = st.fixed_dictionaries(
    {
        "device_class": st.sampled_from(CLASSES),
        "slow": work,
        "fast": work,
        "precision": st.sampled_from(["fp32", "int8"]),
        "host": st.none() | st.tuples(st.floats(0.01, 10), st.floats(1, 20), st.floats(1, 20)),
    }
)


def host_of(drawn: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
    return drawn and (drawn[0], drawn[0] / drawn[1], drawn[0] * drawn[2])


@settings(deadline=None)
@given(drawn=ratios)
def test_a_ratio_lies_in_its_interval_and_never_beyond_the_far_ends(drawn: dict[str, Any]) -> None:
    facts = {"cores": 8.0, "memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8, "peak_int8_tops": 2.0}
    machine, precision, host = profile(facts, drawn["device_class"]), drawn["precision"], host_of(drawn["host"])
    slow, fast = cost(**drawn["slow"]), cost(**drawn["fast"])
    value, (low, high) = estimate_speedup(machine, slow, "fp32", fast, precision, host)
    s, f = estimate(machine, slow, "fp32"), estimate(machine, fast, precision)
    p50, host_low, host_high = host or (0.0, 0.0, 0.0)
    assert value == pytest.approx((s.p50_ms + p50) / (f.p50_ms + p50))
    assert low <= value <= high
    assert low >= (s.low_ms + host_low) / (f.high_ms + host_high) * (1 - 1e-12)
    assert high <= (s.high_ms + host_high) / (f.low_ms + host_low) * (1 + 1e-12)


@settings(deadline=None)
@given(drawn=ratios)
def test_a_model_is_exactly_as_fast_as_itself(drawn: dict[str, Any]) -> None:
    facts = {"cores": 8.0, "memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8}
    machine, one, precision = profile(facts, drawn["device_class"]), cost(**drawn["slow"]), drawn["precision"]
    assert estimate_speedup(machine, one, precision, one, precision, host_of(drawn["host"])) == (1.0, (1.0, 1.0))


@settings(deadline=None)
@given(drawn=ratios, factors=st.tuples(more, more, more, more))
def test_a_heavier_teacher_never_lowers_the_speed_up(
    drawn: dict[str, Any], factors: tuple[float, float, float, float]
) -> None:
    facts = {"cores": 8.0, "memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8}
    machine, host, fast = profile(facts, drawn["device_class"]), host_of(drawn["host"]), cost(**drawn["fast"])
    heavier = {name: v * factor for (name, v), factor in zip(drawn["slow"].items(), factors, strict=True)}
    before, _ = estimate_speedup(machine, cost(**drawn["slow"]), "fp32", fast, "fp32", host)
    after, _ = estimate_speedup(machine, cost(**heavier), "fp32", fast, "fp32", host)
    assert after >= before * (1 - 1e-12)


@settings(deadline=None)
@given(device_class=st.sampled_from(CLASSES), near=st.floats(1, 50), further=st.floats(1, 50))
def test_models_further_apart_in_flops_have_no_narrower_interval(
    device_class: DeviceClass, near: float, further: float
) -> None:
    machine = profile({"memory_bandwidth_gb_per_s": 100.0, "peak_fp32_tflops": 0.8}, device_class)
    large = {"num_params": 85_000_000, "num_operators": 100}
    small = cost(flops=9e9, **large)
    widths = []
    for factor in (1.01 * near, 1.01 * near * further):
        _, (low, high) = estimate_speedup(machine, cost(flops=9e9 * factor, **large), "fp32", small, "fp32")
        widths.append(high / low)
    assert widths[1] >= widths[0] * (1 - 1e-12)


@pytest.mark.parametrize("device_class", CLASSES)
def test_errors_that_two_models_share_make_their_ratio_narrower_than_the_far_ends(device_class: DeviceClass) -> None:
    machine = profile({"memory_bandwidth_gb_per_s": 300.0, "peak_fp32_tflops": 30.0}, device_class)
    large = cost(**{**BERT_BASE_128.model_dump(), "flops": 80e9, "num_operators": 196, "weight_bytes": 1.2e9})
    _, (low, high) = estimate_speedup(machine, large, "fp32", BERT_BASE_128, "fp32")
    slow, fast = estimate(machine, large, "fp32"), estimate(machine, BERT_BASE_128, "fp32")
    far = math.log(slow.high_ms / fast.low_ms * fast.high_ms / slow.low_ms)
    assert math.log(high / low) < 0.8 * far


def test_a_missing_fact_leaves_the_ratio_unsupported() -> None:
    with pytest.raises(Unsupported, match="memory_bandwidth_gb_per_s is missing"):
        estimate_speedup(profile({"peak_fp32_tflops": 1.0}), cost(), "fp32", BERT_BASE_128, "fp32")


def test_the_shipped_widths_widen_outside_the_range_and_say_how_many_devices_gave_them() -> None:
    for name, pool in prior().pools.items():
        assert pool.devices == sum(pool.classes.values()) >= 9, name
        for device_class, widths in pool.widths.items():
            assert widths["none"].devices >= 9, device_class
            assert widths["several"].devices >= 3, device_class
            assert all(w.extrapolated >= w.inside for w in widths.values()), device_class
        for spread in (pool.same_precision, pool.other_precision):
            assert 0.85 <= spread.coverage <= 0.97, name
            assert spread.extrapolated_half_width_log >= spread.half_width_log, name
            assert spread.devices >= 3, name
        assert pool.other_precision.half_width_log >= pool.same_precision.half_width_log, name


def test_the_shipped_coefficients_are_physical() -> None:
    for pool in prior().pools.values():
        found = dict(zip(pool.names, np.exp(pool.means), strict=True))
        assert 1 <= found["operator_us"] <= 50
        assert found["efficiency"] * found["one_core"] <= 1.5  # turbo: the datasheet states the base clock
        assert 0 < found["bandwidth"] <= 1
        covariance = absent.state_of(pool).covariance
        assert np.linalg.eigvalsh(covariance).min() > -1e-3, "not a covariance"


def test_the_shipped_file_says_where_it_comes_from_and_holds_no_rows() -> None:
    document = json.loads(absent.PRIOR_FILE.read_text())
    assert "collected 2026-11-24, sources named row by row" in document["provenance"]
    assert "ratios of two models on pairs of these rows that share a device" in document["provenance"]
    for pool in document["pools"].values():
        assert not any(name.startswith("device ") or " on " in name for name in pool["names"])
        assert len(pool["means"]) == len(pool["covariance"]) == len(pool["names"]) < 40  # 225 and 596 rows


def test_host_work_is_an_assumption_and_wide() -> None:
    text = estimate_host(server(), "text")
    assert text.low_ms < 0.0035 < 0.028 < text.p50_ms < 0.070 < text.high_ms
    assert "assumption" in text.basis
    assert text.extrapolated


def test_an_edge_core_is_two_to_five_times_slower_than_a_server_core() -> None:
    pi, jetson = profile({}, "edge-cpu", "aarch64"), profile({}, "edge-gpu", "aarch64")
    assert estimate_host(pi, "image").p50_ms == pytest.approx(math.sqrt(10) * estimate_host(server(), "image").p50_ms)
    assert estimate_host(jetson, "image") == estimate_host(pi, "image")
    assert estimate_host(profile({}, "edge-gpu"), "image") == estimate_host(server(), "image")  # a desktop card


def test_preprocessing_measured_here_is_scaled_to_the_device() -> None:
    other = estimate_host(server(), "text", 0.081)
    assert (other.p50_ms, other.low_ms, other.high_ms) == pytest.approx((0.081, 0.081 / 1.5, 0.081 * 1.5))
    assert other.basis.startswith("0.081 ms measured here, scaled to another server core")
    edge = estimate_host(profile({}, "edge-cpu", "aarch64"), "text", 0.081)
    assert (edge.p50_ms, edge.low_ms, edge.high_ms) == pytest.approx((0.081 * math.sqrt(10), 0.162, 0.405))
    assert edge.basis.startswith("0.081 ms measured here, scaled to an edge core")
    assert estimate_host(server(), "image", 0.081) == other


def test_importing_the_model_loads_no_numpy() -> None:
    code = "import sys, kdexport.latency.absent; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


class TestCostFormulas:
    """Multiply-adds and parameters as the papers state them, within 1 %."""

    @pytest.mark.parametrize(
        ("model", "size", "mega_macs", "mega_params"),
        [
            ("mobilenet-v1-1.0", 224, 569, 4.24),  # Howard et al. 2017, table 8
            ("mobilenet-v1-0.25", 128, 13.6, 0.47),  # the authors' model page
            ("mobilenet-v2-1.0", 224, 300, 3.5),  # Sandler et al. 2018, table 4
            ("resnet50", 224, 4089, 25.6),  # torchvision: 4.09 GFLOPS
            ("mobilenet-v3-large", 224, 217, 5.47),  # the authors' model page: 217 MMACs, 5.4 M
            ("mobilenet-v3-small-minimalistic", 224, 52, 2.04),  # the authors' model page: 51 MMACs, 2.0 M
            ("yolo11n", 640, 3240, 2.62),  # docs.ultralytics.com: 6.5 GFLOPs, 2.6 M
            ("retinanet", 800, 201_000, 37.1),  # MLPerf Inference: 37 M
        ],
    )
    def test_a_convolutional_network(self, model: str, size: int, mega_macs: float, mega_params: float) -> None:
        from benchmarks._published import cost_of

        got = cost_of(model, size, batch=2)
        assert got is not None
        assert got.flops == pytest.approx(2 * 2 * mega_macs * 1e6, rel=0.01)
        assert got.num_params == pytest.approx(mega_params * 1e6, rel=0.01)

    def test_an_encoder_layer_is_twelve_hidden_squared(self) -> None:
        from benchmarks._published import cost_of

        got = cost_of("bert-base", 128, batch=1)
        assert got is not None
        assert got.num_params == pytest.approx(85e6, rel=0.01)
        assert got.num_operators == 100

    def test_a_model_without_a_formula_is_left_out(self) -> None:
        from benchmarks._published import cost_of

        assert cost_of("gptj", 1919, batch=1) is None


class TestLeavingDevicesOut:
    def test_every_device_weighs_the_same_however_many_rows_it_has(self) -> None:
        from benchmarks.absent_devices import device_quantile

        errors = {"many rows": np.array([0.1] * 98 + [-0.2] * 2), "one row": np.array([-0.5])}
        assert device_quantile(errors, 0.49) == 0.1
        assert device_quantile(errors, 0.51) == 0.5

    def test_coverage_judges_a_device_by_the_errors_of_the_others(self) -> None:
        from benchmarks.absent_devices import coverage

        # c misses what a and b allow, a and b are within what c allows
        errors = {"a": np.array([0.1]), "b": np.array([0.2]), "c": np.array([0.9, 0.15])}
        assert coverage(errors, 1.0) == pytest.approx((1 + 1 + 0.5) / 3)

    def test_what_two_models_on_a_device_miss_together_cancels(self) -> None:
        # e^3 apart in FLOPs, so the difference of 0.4 counts half; the third row has another precision
        from benchmarks.absent_devices import pair_errors

        table = table_of([("a", 1e9, "fp32"), ("a", 1e9 * math.e**3, "fp32"), ("a", 1e9, "int8"), ("b", 1e9, "fp32")])
        errors = {"a": np.array([1.0, 1.4, 1.1]), "b": np.array([9.0])}
        same, other = (pair_errors(table, errors, s, math.inf) for s in (True, False))
        assert {d: list(abs(e)) for d, e in same.items()} == {"a": [pytest.approx(0.2)]}
        assert {d: list(abs(e)) for d, e in other.items()} == {"a": [pytest.approx(0.1), pytest.approx(0.15)]}

    def test_a_pair_counts_as_small_by_its_smaller_model(self) -> None:
        from benchmarks.absent_devices import pair_errors

        table = table_of([("a", flops, "fp32") for flops in (1e9, 2e9, 3e9)])
        assert len(pair_errors(table, {"a": np.zeros(3)}, True, 1e9)["a"]) == 2

    def test_a_left_out_device_leaves_no_trace_in_the_fit(self) -> None:
        from benchmarks.absent_devices import fit

        rows: list[tuple[str, float, Precision]] = [(d, f, "fp32") for d in "abc" for f in (1e8, 1e9, 1e10)]
        kept, altered = table_of(rows), table_of(rows, {"c": 50.0})
        without_c, also = (fit(t, t.device != "c") for t in (kept, altered))
        assert np.array_equal(without_c.mean, also.mean)
        assert not np.array_equal(fit(kept, kept.flops > 0).mean, fit(altered, altered.flops > 0).mean)

    def test_a_class_of_nine_devices_has_its_own_width_and_a_small_one_never_a_narrower(self) -> None:
        from benchmarks.absent_devices import Misses, width_of

        large = {f"server {i}": np.array([0.1]) for i in range(9)}
        errors = large | {"board 1": np.array([0.7]), "board 2": np.array([0.7])}
        misses = Misses(errors, {d: np.ones(1) for d in errors})
        classes: dict[str, DeviceClass] = {d: "cpu" if d in large else "edge-cpu" for d in errors}
        assert width_of(misses, misses, classes, "cpu").inside == 0.1
        assert width_of(misses, misses, classes, "edge-cpu").inside == 0.7
        few = {d: c for d, c in classes.items() if d != "server 1"}
        part = Misses({d: errors[d] for d in few}, {d: np.ones(1) for d in few})
        assert width_of(part, part, few, "cpu").inside == width_of(part, part, few, "edge-cpu").inside == 0.7

    def test_all_ways_to_give_rows_back_are_tried_where_they_are_few(self) -> None:
        from benchmarks.absent_devices import _draws

        chance = np.random.default_rng(0)
        assert len(_draws(np.arange(6), 5, 20, chance)) == 6
        assert len(_draws(np.arange(60), 5, 20, chance)) == 20
        assert [len(d) for d in _draws(np.arange(6), 0, 20, chance)] == [0]


def table_of(rows: list[tuple[str, float, Precision]], published_ms: dict[str, float] | None = None) -> Table:
    from benchmarks import absent_devices
    from benchmarks._published import Row

    def row(device: str, flops: float, precision: Precision) -> Row:
        machine = server().model_copy(update={"id": device})
        ms = (published_ms or {}).get(device, flops / 1e9)
        return Row(machine, "made up", "openvino", cost(flops=flops), precision, None, ms)

    return absent_devices.table_of("cpu", [row(*r) for r in rows])


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is absent: the published rows are not in this repository")
class TestOnThePublishedRows:
    def test_fitting_again_gives_the_shipped_coefficients(self) -> None:
        from benchmarks import absent_devices
        from benchmarks._published import read_rows

        rows = read_rows(SHARED.parent).rows
        for name, pool in prior().pools.items():
            table = absent_devices.table_of(name, rows)
            state = absent_devices.fit(table, table.flops > 0)
            again, shipped = (
                dict(zip(state.names, state.mean, strict=True)),
                dict(zip(pool.names, pool.means, strict=True)),
            )
            assert again == pytest.approx(shipped, abs=1e-3)
            assert len(table.rows) == pool.rows

    def test_every_latency_is_used_or_left_out_for_a_reason_that_is_counted(self) -> None:
        from benchmarks._published import read_rows

        found = read_rows(SHARED.parent)
        assert len(found.rows) + sum(found.left_out.values()) == 832  # rows of metric latency_ms
        assert sum(found.left_out.values()) == 11


def test_the_published_result_is_of_the_shipped_coefficients_and_meets_its_bars() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "absent_devices.json").read_text())
    assert [bar["name"] for bar in result["bars"] if not bar["passed"]] == []
    assert result["figures"]["rows"] == sum(pool.rows for pool in prior().pools.values())
