"""Latency on a machine that nobody here has: physics with a few coefficients, fitted on published measurements.

One run costs a launch, an overhead for every operator, the arithmetic at a share of the peak, and the bytes moved
at a share of the bandwidth. The terms are summed, not overlapped, so no cost and no missing speed can make a run
faster. Efficiency saturates with work per operator by itself: of w FLOPs an operator needs w / (efficiency x peak)
on top of its overhead, so a small operator gets a small share of the peak.

A CPU is taken to run on one core or on all that it may use, whichever is estimated faster: waking the cores costs more
for each operator than a small student needs to compute. `benchmarks/absent_fit.py` writes the coefficients.
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


class PairSpread(Noun):
    """How far the ratio of two models on one device misses, device left out: the error they share cancels.

    Widths are those of ln ratio over sqrt(1 + |ln of the ratio of FLOPs|): models far apart share less."""

    half_width_log: float = Field(gt=0, description="quantile of |ln(published ratio / estimated ratio)|, scaled")
    extrapolated_half_width_log: float = Field(
        gt=0, description="the same of pairs with a row of the smaller half left out"
    )
    quantile_level: float = Field(ge=0, le=1, description="lowest that covers 0.9 of left-out devices")
    coverage: float = Field(ge=0, le=1, description="of devices left out, by the interval that the others give")
    pairs: int
    devices: int


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
    same_precision: PairSpread
    other_precision: PairSpread


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


def estimate(
    profile: HardwareProfile, cost: GraphCost, precision: Precision, cores: int | None = None
) -> LatencyEstimate:
    """Median of one run of the model alone, inputs on the host, batch already in `cost`; in ms with a 90 % interval.

    cores: how many a CPU's run may use (None: all); a GPU is always used whole. k of n cores have k / n of the peak,
    and are given k / n of the bandwidth: what is left while the neighbours are as busy, as a count of workers assumes.
    A run on one core is not cut further: its coefficients were fitted with the bandwidth of the whole device.

    The interval is a quantile of log residuals of devices left out, each device weighing the same (split-conformal,
    with the level raised until left-out devices are covered). Outside the range of published models it is the one of
    left-out small models, growing with the square root of the distance in ln FLOPs, as errors of independent steps
    add up. Raises Unsupported, naming profile and fact, where the bandwidth or a usable peak is missing."""
    pool = prior().pools["gpu" if profile.is_gpu else "cpu"]
    used, _ = usable_peak(profile, precision)
    times_ms = _times_ms(profile, pool, cost, precision, cores)
    way = min(times_ms, key=lambda name: times_ms[name])
    extrapolated, half_width_log = _half_width(pool, cost)
    factor = math.exp(half_width_log)
    return LatencyEstimate(
        p50_ms=times_ms[way],
        low_ms=times_ms[way] / factor,
        high_ms=times_ms[way] * factor,
        model=MODEL,
        basis=_basis(profile, pool, precision, used, way, cores, extrapolated),
        extrapolated=extrapolated,
    )


def estimate_speedup(
    profile: HardwareProfile,
    slow: GraphCost,
    slow_precision: Precision,
    fast: GraphCost,
    fast_precision: Precision,
    host_ms: tuple[float, float, float] | None = None,
    cores: int | None = None,
) -> tuple[float, tuple[float, float]]:
    """(ms of slow over ms of fast on one device, its 90 % interval); host_ms: (p50, low, high) added to both.
    cores: as in `estimate`, for both.

    What an estimate misses about a device, it misses for both models, so the interval is that of left-out pairs
    (PairSpread), widened outside the published range as in `estimate`. With host work three unknowns take part: the
    device's speed, which is how far `slow` misses, the ratio of the models, and the host. Each is moved alone to the
    ends of its interval and the moves of ln ratio add up as squares, as independent errors do. Never wider than the
    far ends of the two latencies; exactly 1 for a model against itself. Raises Unsupported as `estimate`."""
    slow_ms, fast_ms = estimate(profile, slow, slow_precision, cores), estimate(profile, fast, fast_precision, cores)
    ratio = slow_ms.p50_ms / fast_ms.p50_ms
    same = (slow, slow_precision) == (fast, fast_precision)
    factor = 1.0 if same else math.exp(_pair_half_width(profile, slow, slow_precision, fast, fast_precision))
    host, host_low, host_high = host_ms or (0.0, 0.0, 0.0)

    def end_to_end(slow_alone_ms: float, model_ratio: float, added_ms: float) -> float:
        return (slow_alone_ms + added_ms) / (slow_alone_ms / model_ratio + added_ms)

    value = end_to_end(slow_ms.p50_ms, ratio, host)
    moved = [
        [end_to_end(ms, ratio, host) for ms in (slow_ms.low_ms, slow_ms.high_ms)],
        [end_to_end(slow_ms.p50_ms, r, host) for r in (ratio / factor, ratio * factor)],
        [end_to_end(slow_ms.p50_ms, ratio, ms) for ms in (host_low, host_high)],
    ]
    down = math.hypot(*(max(0.0, math.log(value / min(ends))) for ends in moved))
    up = math.hypot(*(max(0.0, math.log(max(ends) / value)) for ends in moved))
    lowest = (slow_ms.low_ms + host_low) / (fast_ms.high_ms + host_high)
    highest = (slow_ms.high_ms + host_high) / (fast_ms.low_ms + host_low)
    return value, (max(value * math.exp(-down), lowest), min(value * math.exp(up), highest))


def estimate_host(
    profile: HardwareProfile, task_kind: Literal["text", "image"], measured_here_ms: float | None = None
) -> LatencyEstimate:
    """Tokenising a short text, or decoding a small image, on the device's host CPU; in ms, wide interval.

    measured_here_ms: the project's own preprocessing on a server core, which is then scaled; figures of other inputs
    otherwise. The factor is assumed: edge cores are 2 to 5 times slower."""
    edge = profile.device_class == "edge-cpu" or (profile.device_class == "edge-gpu" and profile.host == "aarch64")
    factors = EDGE_CORES if edge else OTHER_SERVER_CORES
    scale = "an edge core, 2 to 5 times slower" if edge else "another server core, within 1.5 times"
    if measured_here_ms is not None:
        server_ms: tuple[float, ...] = (measured_here_ms,) * 3
        basis = f"{measured_here_ms:.3g} ms measured here, scaled to {scale} (assumed)"
    else:
        server_ms = tuple(us * 1e-3 for us in HOST_US[task_kind])
        work = "tokenising a short text" if task_kind == "text" else "decoding a small image"
        basis = f"assumption, interval included: {work} as measured on a server core, scaled to {scale}"
    p50, low, high = (ms * factor for ms, factor in zip(server_ms, factors, strict=True))
    return LatencyEstimate(
        p50_ms=p50,
        low_ms=low,
        high_ms=high,
        model=f"{MODEL}-host",
        basis=basis,
        extrapolated=True,
    )


def _times_ms(
    profile: HardwareProfile, pool: Pool, cost: GraphCost, precision: Precision, cores: int | None
) -> dict[str, float]:
    """ms of a run in each mode that the pool knows and the facts allow."""
    _, flops_per_s = usable_peak(profile, precision)
    shares = _shares(profile, cores)
    return {
        name: run_ms(
            pool.launch_us,
            mode.operator_us[profile.device_class],
            cost.num_operators,
            cost.flops,
            mode.efficiency * flops_per_s * shares[name][0],
            moved_bytes(cost, precision),
            pool.bandwidth_efficiency * _bandwidth(profile) * shares[name][1],
        )
        for name, mode in pool.modes.items()
        if name in shares
    }


def _shares(profile: HardwareProfile, cores: int | None) -> dict[str, tuple[float, float]]:
    """(share of the peak, share of the bandwidth) by mode; a count of cores that is not known leaves the whole."""
    known = profile.facts.cores
    if profile.is_gpu or known is None:
        return {"whole": (1.0, 1.0)}
    one_core = {"one_core": (1 / known.value, 1.0)}
    if cores == 1:
        return one_core
    share = 1.0 if cores is None else min(1.0, cores / known.value)
    return {"whole": (share, share), **one_core}


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
    widening = _widening(pool, cost)
    if widening is None:
        return False, pool.half_width_log
    return True, pool.extrapolated_half_width_log * widening


def _widening(pool: Pool, cost: GraphCost) -> float | None:
    """What the extrapolated half width is multiplied by, at least 1; None inside the published range."""
    flops = max(cost.flops, 1.0)
    distance_log = math.log(max(pool.min_flops / flops, flops / pool.max_flops, 1.0))
    small = cost.num_params < pool.min_params or cost.num_operators < pool.min_operators
    if not small and distance_log == 0:
        return None
    return math.sqrt(max(1.0, distance_log / pool.span_log))


def pair_growth(flops_ratio_log: float) -> float:
    """Growth of the width of ln ratio with |ln of the ratio of FLOPs|: a random walk, one step for being another model.

    Also holds element-wise for arrays."""
    growth: float = (1 + flops_ratio_log) ** 0.5
    return growth


def _pair_half_width(
    profile: HardwareProfile, slow: GraphCost, slow_precision: Precision, fast: GraphCost, fast_precision: Precision
) -> float:
    """Half width of the interval of ln(ms of slow / ms of fast)."""
    pool = prior().pools["gpu" if profile.is_gpu else "cpu"]
    spread = pool.same_precision if slow_precision == fast_precision else pool.other_precision
    growth = pair_growth(abs(math.log(max(slow.flops, 1.0) / max(fast.flops, 1.0))))
    widenings = [w for w in (_widening(pool, slow), _widening(pool, fast)) if w is not None]
    if not widenings:
        return spread.half_width_log * growth
    return spread.extrapolated_half_width_log * max(widenings) * growth


def _basis(
    profile: HardwareProfile,
    pool: Pool,
    precision: Precision,
    used: Precision,
    way: str,
    cores: int | None,
    extrapolated: bool,
) -> str:
    parts = [
        f"nothing measured on this device; fitted on {pool.rows} published rows of {pool.devices} devices, "
        "90 % interval from leaving devices out"
    ]
    if not profile.is_gpu:
        parts.append("on 1 core" if way == "one_core" else f"on {_cores(profile, cores)}")
    if used != precision:
        parts.append(f"no {precision} peak known, {used} peak used")
    if extrapolated:
        parts.append("model size outside the published range, interval widened")
    return "; ".join(parts)


def _cores(profile: HardwareProfile, cores: int | None) -> str:
    known = profile.facts.cores
    if known is None:
        return "all cores"
    return f"{cores} of {known.value:g} cores" if cores and cores < known.value else f"all {known.value:g} cores"
