"""Latency on a machine that nobody here has: physics with a few coefficients, fitted on published measurements.

One run costs a launch, an overhead for every operator, the arithmetic at a share of the peak, and the bytes moved
at a share of the bandwidth. The terms are summed, not overlapped, so no cost and no missing speed can make a run
faster. Efficiency saturates with work per operator by itself: of w FLOPs an operator needs w / (efficiency x peak)
on top of its overhead, so a small operator gets a small share of the peak.

A CPU is taken to run on one core or on all of them, whichever is estimated faster: waking the cores costs more for
each operator than a small student needs to compute. `benchmarks/absent_fit.py` writes the coefficients.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from kdexport.errors import Unsupported
from kdexport.nouns.base import Noun
from kdexport.nouns.graph import GraphCost, LatencyEstimate
from kdexport.nouns.profile import DeviceClass, Facts, HardwareProfile, Precision
from kdexport.storage.files import read_json

PRIOR_FILE = Path(__file__).with_name("absent_prior.json")
MODEL = "absent"

# An operator with no fast path runs on the next one: int8 without dot products is computed in floating point.
FALLBACK: dict[Precision, tuple[Precision, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp16", "fp32"),
    "bf16": ("bf16", "fp32"),
    "int8": ("int8", "fp16", "fp32"),
}
SHARE_OF_FP32_BYTES: dict[Precision, float] = {"fp32": 1.0, "fp16": 0.5, "bf16": 0.5, "int8": 0.25}

# Microseconds on a server core: (median, low, high). Text: `tokenizers` 28-70 us for a short query, 3.5 us with a
# word cache, identical ids (one thread, 2026-11). Image: Pillow decode, resize and normalise on a 2-core EPYC server,
# 2026-11-24: 52 us (28x28 PNG), 116 us (64x64 PNG), 976 us (224x224 JPEG).
HOST_US: dict[Literal["text", "image"], tuple[float, float, float]] = {
    "text": (44.0, 3.5, 70.0),
    "image": (78.0, 52.0, 976.0),
}
OTHER_SERVER_CORES = (1.0, 1 / 1.5, 1.5)  # assumed: how far one server core is from another
EDGE_CORES = (math.sqrt(2 * 5), 2.0, 5.0)  # assumed: an edge core is 2 to 5 times slower


class Mode(Noun):
    """Coefficients of one way to run: on one core, or on the whole device."""

    operator_us: dict[DeviceClass, float] = Field(description="overhead of an operator, by class")
    efficiency: float = Field(gt=0, description="share of the datasheet peak that a large operator reaches")


class Pool(Noun):
    """Coefficients of the devices that are alike, how far they miss, and what they were fitted on."""

    launch_us: float = Field(ge=0, description="of an empty run, assumed: published rows are too slow to show it")
    modes: dict[Literal["one_core", "whole"], Mode]
    bandwidth_efficiency: float = Field(gt=0, description="share of the datasheet bandwidth")
    half_width_log: float = Field(gt=0, description="quantile of |ln(published / estimated)|, device left out")
    extrapolated_half_width_log: float = Field(gt=0, description="the same with the smaller half of rows left out too")
    span_log: float = Field(gt=0, description="ln of the FLOPs range that leaving the smaller half out jumped over")
    quantile_level: float = Field(ge=0, le=1, description="lowest that covers 0.9 of left-out devices")
    coverage: float = Field(ge=0, le=1, description="of devices left out, by the interval that the others give")
    min_flops: float
    max_flops: float
    min_params: int
    min_operators: float
    rows: int
    devices: int


class Prior(Noun):
    provenance: str
    pools: dict[Literal["gpu", "cpu"], Pool]


@cache
def prior() -> Prior:
    """The shipped coefficients. Raises Damaged where the file is not JSON."""
    return Prior.model_validate(read_json(PRIOR_FILE))


def run_ms(
    launch_us: float,
    operator_us: float,
    num_operators: float,
    flops: float,
    flops_per_s: float,
    moved_bytes: float,
    bytes_per_s: float,
) -> float:
    """The formula, in ms; speeds are those reached, not those of the datasheet. Also holds element-wise for arrays."""
    overhead_ms = (launch_us + operator_us * num_operators) * 1e-3
    return overhead_ms + (flops / flops_per_s + moved_bytes / bytes_per_s) * 1e3


def moved_bytes(cost: GraphCost, precision: Precision) -> float:
    """Weights read and activations written in a run at this precision."""
    return (cost.weight_bytes + cost.activation_bytes) * SHARE_OF_FP32_BYTES[precision]


def usable_peak(profile: HardwareProfile, precision: Precision) -> tuple[Precision, float]:
    """(precision whose peak is used, FLOP/s or OP/s of the whole device).

    Raises Unsupported where neither the precision nor what it falls back on has a peak."""
    for candidate in FALLBACK[precision]:
        peak = _peak_tera(profile.facts, candidate)
        if peak is not None:
            return candidate, peak * 1e12
    keys = " or ".join(_peak_key(p) for p in FALLBACK[precision])
    raise Unsupported(
        f"profile '{profile.id}': no latency estimate for {precision}: {keys} is missing; "
        "add the fact with its source, or measure on the device"
    )


def estimate(profile: HardwareProfile, cost: GraphCost, precision: Precision) -> LatencyEstimate:
    """Median of one run of the model alone, inputs on the host, batch already in `cost`; in ms with a 90 % interval.

    The interval is a quantile of log residuals of devices left out, each device weighing the same (split-conformal,
    with the level raised until left-out devices are covered). Outside the range of published models it is the one of
    left-out small models, growing with the square root of the distance in ln FLOPs, as errors of independent steps
    add up. Raises Unsupported, naming profile and fact, where the bandwidth or a usable peak is missing."""
    pool = prior().pools["gpu" if profile.is_gpu else "cpu"]
    used, _ = usable_peak(profile, precision)
    times_ms = _times_ms(profile, pool, cost, precision)
    way = min(times_ms, key=lambda name: times_ms[name])
    extrapolated, half_width_log = _half_width(pool, cost)
    factor = math.exp(half_width_log)
    return LatencyEstimate(
        p50_ms=times_ms[way],
        low_ms=times_ms[way] / factor,
        high_ms=times_ms[way] * factor,
        model=MODEL,
        basis=_basis(profile, pool, precision, used, way, extrapolated),
        extrapolated=extrapolated,
    )


def estimate_host(profile: HardwareProfile, task_kind: Literal["text", "image"]) -> LatencyEstimate:
    """Tokenising a short text, or decoding a small image, on the device's host CPU; in ms, wide interval.

    Figures of a server core, scaled by an assumed factor: edge cores are 2 to 5 times slower."""
    edge = profile.device_class == "edge-cpu" or (profile.device_class == "edge-gpu" and profile.host == "aarch64")
    factors = EDGE_CORES if edge else OTHER_SERVER_CORES
    p50, low, high = (us * factor * 1e-3 for us, factor in zip(HOST_US[task_kind], factors, strict=True))
    work = "tokenising a short text" if task_kind == "text" else "decoding a small image"
    scale = "an edge core, 2 to 5 times slower" if edge else "another server core, within 1.5 times"
    return LatencyEstimate(
        p50_ms=p50,
        low_ms=low,
        high_ms=high,
        model=f"{MODEL}-host",
        basis=f"assumption, interval included: {work} as measured on a server core, scaled to {scale}",
        extrapolated=True,
    )


def _times_ms(profile: HardwareProfile, pool: Pool, cost: GraphCost, precision: Precision) -> dict[str, float]:
    """ms of a run in each mode of the pool that the facts allow: one core needs the number of cores."""
    _, flops_per_s = usable_peak(profile, precision)
    cores = profile.facts.cores
    share_of_peak = {"whole": 1.0, **({"one_core": 1 / cores.value} if cores else {})}
    return {
        name: run_ms(
            pool.launch_us,
            mode.operator_us[profile.device_class],
            cost.num_operators,
            cost.flops,
            mode.efficiency * flops_per_s * share_of_peak[name],
            moved_bytes(cost, precision),
            pool.bandwidth_efficiency * _bandwidth(profile),
        )
        for name, mode in pool.modes.items()
        if name in share_of_peak
    }


def _peak_key(precision: Precision) -> str:
    return "peak_int8_tops" if precision == "int8" else f"peak_{precision}_tflops"


def _peak_tera(facts: Facts, precision: Precision) -> float | None:
    peaks = {
        "fp32": facts.peak_fp32_tflops,
        "fp16": facts.peak_fp16_tflops,
        "bf16": facts.peak_bf16_tflops,
        "int8": facts.peak_int8_tops,
    }
    number = peaks[precision]
    return number.value if number else None


def _bandwidth(profile: HardwareProfile) -> float:
    bandwidth = profile.facts.memory_bandwidth_gb_per_s
    if bandwidth is None:
        raise Unsupported(
            f"profile '{profile.id}': no latency estimate: memory_bandwidth_gb_per_s is missing; "
            "add the fact with its source, or measure on the device"
        )
    return bandwidth.value * 1e9


def _half_width(pool: Pool, cost: GraphCost) -> tuple[bool, float]:
    """(outside the published range, half width of the interval of ln latency)."""
    flops = max(cost.flops, 1.0)
    distance_log = math.log(max(pool.min_flops / flops, flops / pool.max_flops, 1.0))
    small = cost.num_params < pool.min_params or cost.num_operators < pool.min_operators
    if not small and distance_log == 0:
        return False, pool.half_width_log
    return True, pool.extrapolated_half_width_log * math.sqrt(max(1.0, distance_log / pool.span_log))


def _basis(
    profile: HardwareProfile, pool: Pool, precision: Precision, used: Precision, way: str, extrapolated: bool
) -> str:
    parts = [
        f"nothing measured on this device; fitted on {pool.rows} published rows of {pool.devices} devices, "
        "90 % interval from leaving devices out"
    ]
    if not profile.is_gpu:
        parts.append("on one core" if way == "one_core" else f"on all {_cores(profile)}cores")
    if used != precision:
        parts.append(f"no {precision} peak known, {used} peak used")
    if extrapolated:
        parts.append("model size outside the published range, interval widened")
    return "; ".join(parts)


def _cores(profile: HardwareProfile) -> str:
    return f"{profile.facts.cores.value:g} " if profile.facts.cores else ""
