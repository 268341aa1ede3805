"""Latency on a machine that nobody here has: physics whose coefficients come from published measurements.

One run costs a launch, an overhead for every operator, the arithmetic at a share of the peak, and the bytes moved
at a share of the bandwidth. The terms are summed, not overlapped, so no cost and no missing speed can make a run
faster. Efficiency saturates with work per operator by itself: of w FLOPs an operator needs w / (efficiency x peak)
on top of its overhead, so a small operator gets a small share of the peak.

A device that nobody measured gets the coefficients of all devices, moved towards its family and its runtime. Rows that
others published of the device itself (`published` in its profile) move them further and narrow the interval.
A CPU is taken to run on one core or on all that it may use, whichever is estimated faster: waking the cores costs more
for each operator than a small student needs to compute. Not fitted: throughput, and a batch as such; a batch is a run
with more FLOPs and bytes. `benchmarks/absent_devices.py --fit` writes the coefficients and judges them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdexport.errors import Unsupported
from kdexport.latency.absent_physics import (
    GAIN,
    LAUNCH_US,
    Label,
    PoolName,
    State,
    Work,
    columns_of,
    conditioned,
    join,
    predicted,
    runs_on_one_core,
    widened,
)
from kdexport.latency.estimates import Estimates
from kdexport.nouns.base import Noun
from kdexport.nouns.graph import GraphCost, LatencyEstimate
from kdexport.nouns.profile import DeviceClass, Facts, HardwareProfile, Precision
from kdexport.nouns.published import PublishedLatency
from kdexport.storage.files import read_json

if TYPE_CHECKING:
    import numpy as np

PRIOR_FILE = Path(__file__).with_name("absent_prior.json")
MODEL = "absent"
FEWEST_DEVICES = 9  # a class with fewer has no interval of its own alone: one device would be over a tenth of it

# An operator with no fast path runs on the next one: int8 without dot products is computed in floating point.
FALLBACK: dict[Precision, tuple[Precision, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp16", "fp32"),
    "bf16": ("bf16", "fp32"),
    "int8": ("int8", "fp16", "fp32"),
}
SHARE_OF_FP32_BYTES: dict[Precision, float] = {"fp32": 1.0, "fp16": 0.5, "bf16": 0.5, "int8": 0.25}
# The name under which a runtime was published, by the name of the runtime here.
PUBLISHED_AS = {"tensorrt_rtx": "tensorrt", "torch": "pytorch"}
USUAL_RUNTIME: dict[PoolName, str] = {"gpu": "tensorrt", "cpu": "onnxruntime"}
GPU_FAMILIES = (  # compute capability from, family
    (10.0, "Blackwell"),
    (9.0, "Hopper"),
    (8.9, "Ada"),
    (8.7, "Orin"),
    (8.0, "Ampere"),
    (7.5, "Turing"),
    (7.0, "Volta"),
)
CPU_FAMILIES = (  # word in the ISA, family
    ("amx", "x86-64 with AMX"),
    ("avx512", "x86-64 with AVX-512"),
    ("x86-64", "x86-64 with AVX2"),
    ("sve", "Arm with SVE"),
    ("arm", "Arm with NEON"),
)

# Microseconds on a server core: (median, low, high). Text: `tokenizers` 28-70 us for a short query, 3.5 us with a
# word cache, identical ids (one thread, 2026-11). Image: Pillow decode, resize and normalise on a 2-core EPYC server,
# 2026-11-24: 52 us (28x28 PNG), 116 us (64x64 PNG), 976 us (224x224 JPEG).
HOST_US: dict[Literal["text", "image"], tuple[float, float, float]] = {
    "text": (44.0, 3.5, 70.0),
    "image": (78.0, 52.0, 976.0),
}
OTHER_SERVER_CORES = (1.0, 1 / 1.5, 1.5)  # assumed: how far one server core is from another
EDGE_CORES = (math.sqrt(2 * 5), 2.0, 5.0)  # assumed: an edge core is 2 to 5 times slower

Known = Literal["none", "one", "several"]
SEVERAL = 5  # published rows of a device from which its interval is that of several


class PairSpread(Noun):
    """How far the ratio of two models on one device misses, device left out: the error they share cancels.

    Widths are those of ln ratio over sqrt(1 + |ln of the ratio of FLOPs|): models far apart share less."""

    half_width_log: float = Field(gt=0, description="0.9 quantile of |ln(published ratio / estimated ratio)|, scaled")
    extrapolated_half_width_log: float = Field(
        gt=0, description="the same of pairs with a row of the smaller half left out"
    )
    coverage: float = Field(ge=0, le=1, description="of devices left out, by the interval that the others give")
    pairs: int
    devices: int


class Width(Noun):
    """Half width of the interval of ln latency over its predicted standard deviation, by what is known of a device."""

    inside: float = Field(gt=0, description="0.9 quantile of left-out devices, within the published sizes")
    extrapolated: float = Field(gt=0, description="the same of the smaller models, left out too; never below inside")
    devices: int = Field(description="left-out devices with enough rows")


class Pool(Noun):
    """What is believed of devices that are alike, and how far that misses."""

    names: tuple[str, ...] = Field(description="of the unknowns, absent_physics.unknowns")
    means: tuple[float, ...] = Field(description="ln")
    covariance: tuple[tuple[float, ...], ...] = Field(description="lower triangle, ln squared")
    widths: dict[DeviceClass, dict[Known, Width]]
    half_width_log: float = Field(gt=0, description="median of left-out rows, nothing known of their device")
    span_log: float = Field(gt=0, description="ln of the FLOPs range that leaving the smaller models out jumped over")
    min_flops: float
    max_flops: float
    min_params: int
    min_operators: float
    rows: int
    devices: int
    classes: dict[DeviceClass, int] = Field(description="devices of each class")
    families: dict[str, int] = Field(description="devices of each family")
    same_precision: PairSpread
    other_precision: PairSpread


class Prior(Noun):
    provenance: str
    pools: dict[PoolName, Pool]


@cache
def prior() -> Prior:
    """The shipped coefficients. Raises Damaged where the file is not JSON."""
    return Prior.model_validate(read_json(PRIOR_FILE))


def state_of(pool: Pool) -> State:
    import numpy as np

    covariance = np.zeros((len(pool.names), len(pool.names)))
    for row, values in enumerate(pool.covariance):
        covariance[row, : row + 1] = covariance[: row + 1, row] = values
    return State(pool.names, np.array(pool.means), covariance)


def pool_of(profile: HardwareProfile) -> PoolName:
    return "gpu" if profile.is_gpu else "cpu"


def family_of(profile: HardwareProfile) -> str:
    """Devices that share an architecture; '' where the fact that tells it is missing."""
    if profile.is_gpu:
        capability = profile.facts.compute_capability
        try:
            version = float(capability.value) if capability else 0.0
        except ValueError:  # another vendor's: 'gfx942'
            return ""
        return next((family for lowest, family in GPU_FAMILIES if version >= lowest), "")
    isa = profile.facts.isa.value.split("(no")[0] if profile.facts.isa else ""
    return next((family for word, family in CPU_FAMILIES if word in isa), "")


def published_runtime(name: str) -> str:
    return PUBLISHED_AS.get(name, name)


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


def work_of(
    profile: HardwareProfile,
    costs: Sequence[GraphCost],
    precision: Precision,
    cores: int | None,
    label: Label,
    as_published: bool = False,
) -> Work:
    """The runs at the datasheet's speed. as_published: no choice of one core, the run was what the row says.

    k of n cores have k / n of the peak, and are given k / n of the bandwidth: what is left while the neighbours are as
    busy, as a count of workers assumes. A run on one core keeps the bandwidth of the whole device: its coefficients
    were fitted so. Raises Unsupported as `usable_peak`, and where the bandwidth is missing."""
    import numpy as np

    used, peak = usable_peak(profile, precision)
    fp32 = _peak_tera(profile.facts, "fp32")
    gain = GAIN[pool_of(profile)]
    flops_per_s = peak if fp32 is None else (fp32 * 1e12) ** (1 - gain) * peak**gain
    bytes_per_s = _bandwidth(profile)
    all_cores = profile.facts.cores.value if profile.facts.cores and not profile.is_gpu else None
    share = min(1.0, cores / all_cores) if all_cores and cores else 1.0
    only_one = all_cores is not None and cores == 1
    operators, flops, fp32_bytes = columns_of(costs)
    moved = fp32_bytes * SHARE_OF_FP32_BYTES[precision]
    row = np.ones(len(costs))
    return Work(
        operators=operators,
        whole_s=flops / (flops_per_s * share),
        whole_bytes_s=moved / (bytes_per_s * share),
        core_s=flops / (flops_per_s / (all_cores or 1.0)),
        core_bytes_s=moved / bytes_per_s,
        may_whole=np.full(len(costs), not only_one),
        may_one=np.full(len(costs), all_cores is not None and (only_one or not as_published)),
        towards_edge=(0.5 if profile.device_class.startswith("edge") else -0.5) * row,
        is_int8=float(precision == "int8") * row,
        is_fp32=float(profile.is_gpu and used == "fp32") * row,
        log_flops=np.log(np.maximum(flops, 1.0)),
        label=np.zeros(len(costs), int),
        labels=(label,),
        launch_s=LAUNCH_US[pool_of(profile)] * 1e-6,
    )


def label_of(profile: HardwareProfile, runtime: str) -> Label:
    return Label(profile.id, published_runtime(runtime), family_of(profile))


def with_known_rows(state: State, profile: HardwareProfile, rows: Sequence[PublishedLatency]) -> State:
    """The coefficients of this device after rows that were published of it; `state` where there is none."""
    import numpy as np

    if not rows:
        return state
    works = [
        work_of(profile, [r.cost], r.precision, r.cores, label_of(profile, r.runtime), as_published=True) for r in rows
    ]
    return conditioned(pool_of(profile), state, join(works), np.log([r.p50_ms * 1e-3 for r in rows]))


def bucket_of(count: int) -> Known:
    """The bucket whose interval holds with so many rows of the device: two to four count as one."""
    return "none" if count == 0 else "one" if count < SEVERAL else "several"


def estimates(
    profile: HardwareProfile,
    costs: Sequence[GraphCost],
    precision: Precision,
    cores: int | None = None,
    runtime: str | None = None,
) -> Estimates:
    """Medians of one run of each of N models alone, inputs on the host, batch already in the cost; 90 % intervals.

    cores: how many a CPU's run may use (None: all); a GPU is always used whole. runtime: what will run it (None:
    USUAL_RUNTIME); of one that nobody published the interval is wider.

    The half width of ln latency is the predicted standard deviation times the 0.9 quantile of what left-out devices
    missed by, each device weighing the same (split-conformal, by how many rows of the device were known). Outside the
    range of published models it is the quantile of left-out small models, growing with the square root of the distance
    in ln FLOPs, as errors of independent steps add up. Raises Unsupported, naming profile and fact, where the
    bandwidth or a usable peak is missing."""
    import numpy as np

    name = pool_of(profile)
    pool, runtime = prior().pools[name], runtime or USUAL_RUNTIME[name]
    state = with_known_rows(state_of(pool), profile, profile.published)
    work = work_of(profile, costs, precision, cores, label_of(profile, runtime))
    log_s, deviation = predicted(name, state, work)
    width = pool.widths[profile.device_class][bucket_of(len(profile.published))]
    widening = _widening(pool, costs)
    extrapolated = widening > 0
    half_width_log = deviation * np.where(extrapolated, width.extrapolated * widening, width.inside)
    p50_ms, factor = np.exp(log_s) * 1e3, np.exp(half_width_log)
    on_core = runs_on_one_core(name, widened(name, state, work.labels), work)
    return Estimates(
        p50_ms=p50_ms,
        low_ms=p50_ms / factor,
        high_ms=p50_ms * factor,
        extrapolated=extrapolated,
        model=MODEL,
        basis=_basis(profile, pool, precision, runtime, _where(profile, cores, on_core), bool(extrapolated.any())),
    )


def estimate(
    profile: HardwareProfile,
    cost: GraphCost,
    precision: Precision,
    cores: int | None = None,
    runtime: str | None = None,
) -> LatencyEstimate:
    """One model of `estimates`."""
    return estimates(profile, [cost], precision, cores, runtime).one(0)


def estimate_speedup(
    profile: HardwareProfile,
    slow: GraphCost,
    slow_precision: Precision,
    fast: GraphCost,
    fast_precision: Precision,
    host_ms: tuple[float, float, float] | None = None,
    cores: int | None = None,
    runtime: str | None = None,
) -> tuple[float, tuple[float, float]]:
    """(ms of slow over ms of fast on one device, its 90 % interval); host_ms: (p50, low, high) added to both.
    cores, runtime: as in `estimates`, for both.

    What an estimate misses about a device, it misses for both models, so the interval is that of left-out pairs
    (PairSpread), widened outside the published range as in `estimate`. With host work three unknowns take part: the
    device's speed, which is how far `slow` misses, the ratio of the models, and the host. Each is moved alone to the
    ends of its interval and the moves of ln ratio add up as squares, as independent errors do. Never wider than the
    far ends of the two latencies; exactly 1 for a model against itself. Raises Unsupported as `estimate`."""
    slow_ms = estimate(profile, slow, slow_precision, cores, runtime)
    fast_ms = estimate(profile, fast, fast_precision, cores, runtime)
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


def _widening(pool: Pool, costs: Sequence[GraphCost]) -> np.ndarray:
    """(N,): what the extrapolated half width is multiplied by, at least 1; 0 inside the published range."""
    import numpy as np

    flops = np.maximum([c.flops for c in costs], 1.0)
    distance_log = np.log(np.maximum(np.maximum(pool.min_flops / flops, flops / pool.max_flops), 1.0))
    small = np.array([c.num_params < pool.min_params or c.fused_operators < pool.min_operators for c in costs])
    return np.where(small | (distance_log > 0), np.sqrt(np.maximum(1.0, distance_log / pool.span_log)), 0.0)


def pair_growth(flops_ratio_log: float) -> float:
    """Growth of the width of ln ratio with |ln of the ratio of FLOPs|: a random walk, one step for being another model.

    Also holds element-wise for arrays."""
    growth: float = (1 + flops_ratio_log) ** 0.5
    return growth


def _pair_half_width(
    profile: HardwareProfile, slow: GraphCost, slow_precision: Precision, fast: GraphCost, fast_precision: Precision
) -> float:
    """Half width of the interval of ln(ms of slow / ms of fast)."""
    pool = prior().pools[pool_of(profile)]
    spread = pool.same_precision if slow_precision == fast_precision else pool.other_precision
    growth = pair_growth(abs(math.log(max(slow.flops, 1.0) / max(fast.flops, 1.0))))
    widening = float(_widening(pool, [slow, fast]).max())
    if widening == 0:
        return spread.half_width_log * growth
    return spread.extrapolated_half_width_log * widening * growth


def _basis(
    profile: HardwareProfile, pool: Pool, precision: Precision, runtime: str, where: str, extrapolated: bool
) -> str:
    parts = [_measured_words(profile), f"fitted on {pool.rows} published rows of {pool.devices} devices"]
    family = family_of(profile)
    relatives = pool.families.get(family, 0)
    parts[1] += f", {relatives or 'none'} of them of family {family}" if family else ", family not known"
    own = pool.classes.get(profile.device_class, 0)
    if own < FEWEST_DEVICES:
        parts.append(f"{' and '.join(pool.classes)} pooled, {own} {profile.device_class} are too few")
    parts.append("90 % interval from leaving devices out")
    known_runtime = f"runtime {published_runtime(runtime)}: scale" in pool.names
    parts.append(f"by {runtime}" if known_runtime else f"by {runtime}, of which no row is published")
    if where:
        parts.append(where)
    used, _ = usable_peak(profile, precision)
    if used != precision:
        parts.append(f"no {precision} peak known, {used} peak used")
    if extrapolated:
        parts.append("model size outside the published range, interval widened")
    return "; ".join(parts)


def _measured_words(profile: HardwareProfile) -> str:
    count = len(profile.published)
    if not count:
        return "no measurement of this device"
    words = f"{count} published row{'s' * (count > 1)} of this device"
    return words + (", interval of one" if 1 < count < SEVERAL else "")


def _where(profile: HardwareProfile, cores: int | None, on_core: np.ndarray) -> str:
    if profile.is_gpu:
        return ""
    known = profile.facts.cores
    if known is None:
        return "on all cores"
    whole = f"{cores} of {known.value:g} cores" if cores and cores < known.value else f"all {known.value:g} cores"
    return "on 1 core" if on_core.all() else f"on 1 core or {whole}" if on_core.any() else f"on {whole}"
