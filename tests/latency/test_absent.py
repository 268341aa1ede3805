"""Latency of absent machines: physics that never rewards more work, with an interval that has been tried."""

from __future__ import annotations

import datetime
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexport.errors import Unsupported
from kdexport.latency import absent
from kdexport.latency.absent import Mode, Pool, Prior, estimate, estimate_host, prior
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.profile import DeviceClass, Facts, HardwareProfile, Number

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
    )
    monkeypatch.setattr(absent, "prior", lambda: Prior(provenance="by hand", pools={"cpu": cpu}))


@pytest.mark.usefixtures("round_prior")
class TestByHand:
    def test_a_small_graph_runs_on_one_core(self) -> None:
        # launch 10 + 10 operators x 2 + 5e6 / (0.5 x 0.1e12) = 100 + 1e6 bytes / (0.5 x 100e9) = 20: 150 us
        got = estimate(server(), cost(flops=5e6, weight_bytes=8e5, activation_bytes=2e5, num_operators=10), "fp32")
        assert got.p50_ms == pytest.approx(0.150)
        assert "on one core" in got.basis

    def test_a_large_graph_runs_on_all_cores(self) -> None:
        # launch 10 + 10 operators x 20 + 2e9 / (0.25 x 0.8e12) = 10,000 + 1e6 bytes / (0.5 x 100e9) = 20: 10,230 us
        got = estimate(server(), cost(flops=2e9, weight_bytes=8e5, activation_bytes=2e5, num_operators=10), "fp32")
        assert got.p50_ms == pytest.approx(10.230)
        assert "on all 8 cores" in got.basis

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


def test_the_shipped_coverage_of_left_out_devices_is_what_the_interval_claims() -> None:
    for name, pool in prior().pools.items():
        assert 0.85 <= pool.coverage <= 0.97, name
        assert pool.extrapolated_half_width_log >= pool.half_width_log, name
        assert pool.devices >= 9, name


def test_the_shipped_coefficients_are_physical() -> None:
    for pool in prior().pools.values():
        assert 0 < pool.bandwidth_efficiency <= 1
        for mode in pool.modes.values():
            assert 0 < mode.efficiency <= 1
            assert all(1 <= us <= 50 for us in mode.operator_us.values())


def test_the_shipped_file_says_where_it_comes_from_and_holds_no_rows() -> None:
    document = json.loads(absent.PRIOR_FILE.read_text())
    assert "collected 2026-11-24, sources named row by row" in document["provenance"]
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
        assert fitted.pools[name].modes["whole"].efficiency == pytest.approx(pool.modes["whole"].efficiency, rel=1e-3)
