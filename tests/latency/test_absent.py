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
from kdexport.latency.absent import Mode, PairSpread, Pool, Prior, estimate, estimate_host, estimate_speedup, prior
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.profile import DeviceClass, Facts, HardwareProfile, Number, Precision

if TYPE_CHECKING:
    from benchmarks.absent_fit import Row

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


BERT_BASE_128 = cost(
    flops=22.4e9, weight_bytes=340e6, activation_bytes=61e6, num_operators=100, num_params=85_000_000, tokens=128
)


def pairs_within(factor: float, extrapolated: float) -> PairSpread:
    widths = {"half_width_log": math.log(factor), "extrapolated_half_width_log": math.log(extrapolated)}
    return PairSpread.model_validate({**widths, "quantile_level": 0.9, "coverage": 0.9, "pairs": 40, "devices": 9})


@pytest.fixture
def round_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coefficients to reckon with by hand, in place of the fitted ones."""
    cpu = Pool(
        launch_us=10,
        modes={
            "one_core": Mode(operator_us={"cpu": 2}, efficiency=0.5),
            "whole": Mode(operator_us={"cpu": 20}, efficiency=0.25),
        },
        bandwidth_efficiency=0.5,
        half_width_log=math.log(2),
        extrapolated_half_width_log=math.log(3),
        span_log=math.log(10),
        quantile_level=0.9,
        coverage=0.9,
        min_flops=1e6,
        max_flops=1e12,
        min_params=1_000,
        min_operators=5,
        rows=31,
        devices=9,
        same_precision=pairs_within(1.1, extrapolated=1.2),
        other_precision=pairs_within(1.3, extrapolated=1.4),
    )
    monkeypatch.setattr(absent, "prior", lambda: Prior(provenance="by hand", pools={"cpu": cpu}))


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

    def test_int8_moves_a_quarter_of_the_bytes_at_its_own_peak(self) -> None:
        # launch 10 + 10 x 2 + 5e6 / (0.5 x 0.4e12) = 25 + 0.25e6 bytes / (0.5 x 100e9) = 5: 60 us
        small = cost(flops=5e6, weight_bytes=8e5, activation_bytes=2e5, num_operators=10)
        assert estimate(server(peak_int8_tops=3.2), small, "int8").p50_ms == pytest.approx(0.060)

    def test_inside_the_published_range_the_interval_is_the_one_of_left_out_devices(self) -> None:
        got = estimate(server(), cost(flops=5e6), "fp32")
        assert not got.extrapolated
        assert got.p50_ms / got.low_ms == pytest.approx(2)
        assert got.high_ms / got.p50_ms == pytest.approx(2)

    def test_outside_it_grows_with_the_square_root_of_the_distance(self) -> None:
        # 1e6 / 100 is ten to the fourth, four spans of ten: twice the log width of the left-out small models
        got = estimate(server(), cost(flops=100), "fp32")
        assert got.extrapolated
        assert got.high_ms / got.p50_ms == pytest.approx(9)

    def test_few_operators_or_parameters_are_outside_too(self) -> None:
        for small in (cost(num_operators=4), cost(num_params=999)):
            got = estimate(server(), small, "fp32")
            assert got.extrapolated
            assert got.high_ms / got.p50_ms == pytest.approx(3)

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


@pytest.mark.parametrize(("device_class", "share"), [("datacenter-gpu", 0.6), ("cpu", 0.95)])
def test_errors_that_two_models_share_make_their_ratio_narrower_than_the_far_ends(
    device_class: DeviceClass, share: float
) -> None:
    machine = profile({"memory_bandwidth_gb_per_s": 300.0, "peak_fp32_tflops": 30.0}, device_class)
    _, (low, high) = estimate_speedup(machine, BERT_BASE_128, "fp32", cost(), "fp32")
    slow, fast = estimate(machine, BERT_BASE_128, "fp32"), estimate(machine, cost(), "fp32")
    far = math.log(slow.high_ms / fast.low_ms * fast.high_ms / slow.low_ms)
    assert math.log(high / low) < share * far


def test_a_missing_fact_leaves_the_ratio_unsupported() -> None:
    with pytest.raises(Unsupported, match="memory_bandwidth_gb_per_s is missing"):
        estimate_speedup(profile({"peak_fp32_tflops": 1.0}), cost(), "fp32", BERT_BASE_128, "fp32")


def test_the_shipped_coverage_of_left_out_devices_is_what_the_interval_claims() -> None:
    for name, pool in prior().pools.items():
        assert 0.85 <= pool.coverage <= 0.97, name
        assert pool.extrapolated_half_width_log >= pool.half_width_log, name
        assert pool.devices >= 9, name
        for spread in (pool.same_precision, pool.other_precision):
            assert 0.85 <= spread.coverage <= 0.97, name
            assert spread.extrapolated_half_width_log >= spread.half_width_log, name
            assert spread.devices >= 3, name
        assert pool.other_precision.half_width_log > pool.same_precision.half_width_log, name


def test_the_shipped_coefficients_are_physical() -> None:
    for pool in prior().pools.values():
        assert 0 < pool.bandwidth_efficiency <= 1
        for mode in pool.modes.values():
            assert 0 < mode.efficiency <= 1
            assert all(1 <= us <= 50 for us in mode.operator_us.values())


def test_the_shipped_file_says_where_it_comes_from_and_holds_no_rows() -> None:
    document = json.loads(absent.PRIOR_FILE.read_text())
    assert "collected 2026-11-24, sources named row by row" in document["provenance"]
    assert "ratios of two models on pairs of these rows that share a device" in document["provenance"]
    assert len(absent.PRIOR_FILE.read_bytes()) < 4_000


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
        ],
    )
    def test_a_convolutional_network(self, model: str, size: int, mega_macs: float, mega_params: float) -> None:
        from benchmarks.absent_fit import cost_of

        got = cost_of(model, size, batch=2)
        assert got is not None
        assert got.flops == pytest.approx(2 * 2 * mega_macs * 1e6, rel=0.01)
        assert got.num_params == pytest.approx(mega_params * 1e6, rel=0.01)

    def test_an_encoder_layer_is_twelve_hidden_squared(self) -> None:
        from benchmarks.absent_fit import cost_of

        got = cost_of("bert-base", 128, batch=1)
        assert got is not None
        assert got.num_params == pytest.approx(85e6, rel=0.01)
        assert got.num_operators == 100

    def test_a_model_without_a_formula_is_left_out(self) -> None:
        from benchmarks.absent_fit import cost_of

        assert cost_of("yolo11n", 640, batch=1) is None


class TestLeavingDevicesOut:
    def test_every_device_weighs_the_same_however_many_rows_it_has(self) -> None:
        from benchmarks.absent_fit import device_quantile

        errors = {"many rows": np.array([0.1] * 98 + [-0.2] * 2), "one row": np.array([-0.5])}
        assert device_quantile(errors, 0.49) == 0.1
        assert device_quantile(errors, 0.51) == 0.5

    def test_coverage_judges_a_device_by_the_errors_of_the_others(self) -> None:
        from benchmarks.absent_fit import coverage

        # c misses what a and b allow, a and b are within what c allows
        errors = {"a": np.array([0.1]), "b": np.array([0.2]), "c": np.array([0.9, 0.15])}
        assert coverage(errors, 1.0) == pytest.approx((1 + 1 + 0.5) / 3)

    def test_what_two_models_on_a_device_miss_together_cancels(self) -> None:
        # e^3 apart in FLOPs, so the difference of 0.4 counts half; the third row has another precision
        rows = [row("a", 1e9, "fp32"), row("a", 1e9 * math.e**3, "fp32"), row("a", 1e9, "int8"), row("b", 1e9, "fp32")]
        errors = {"a": np.array([1.0, 1.4, 1.1]), "b": np.array([9.0])}
        from benchmarks.absent_fit import pair_errors

        same, other = pair_errors(rows, errors, True), pair_errors(rows, errors, False)
        assert {d: list(abs(e)) for d, e in same.items()} == {"a": [pytest.approx(0.2)]}
        assert {d: list(abs(e)) for d, e in other.items()} == {"a": [pytest.approx(0.1), pytest.approx(0.15)]}

    def test_a_pair_counts_as_small_by_its_smaller_model(self) -> None:
        rows = [row("a", flops, "fp32") for flops in (1e9, 2e9, 3e9)]
        from benchmarks.absent_fit import pair_errors

        assert len(pair_errors(rows, {"a": np.zeros(3)}, True, max_flops=1e9)["a"]) == 2


def row(device: str, flops: float, precision: Precision) -> Row:
    from benchmarks.absent_fit import Row

    return Row(device, "cpu", cost(flops=flops), precision, 1e12, 1e11, one_core=False, published_ms=1.0)


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is absent: the published rows are not in this repository")
def test_fitting_again_gives_the_shipped_coefficients(tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    command = [sys.executable, "-m", "benchmarks.absent_fit", "--out", str(again)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(bar["passed"] for bar in json.loads(done.stdout)["bars"])
    fitted = Prior.model_validate_json(again.read_text())
    for name, pool in prior().pools.items():
        assert fitted.pools[name].half_width_log == pytest.approx(pool.half_width_log, rel=1e-3)
        for spread in ("same_precision", "other_precision"):
            again_log, shipped_log = (getattr(p, spread).half_width_log for p in (fitted.pools[name], pool))
            assert again_log == pytest.approx(shipped_log, rel=1e-3)
        assert fitted.pools[name].modes["whole"].efficiency == pytest.approx(pool.modes["whole"].efficiency, rel=1e-3)
