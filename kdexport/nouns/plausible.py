"""What is wrong with the facts of a device that each look right alone: a slip between units, a peak that is sparse.

A number by itself cannot be told from its value in another unit; beside the class of the device and the other facts
it can. Bounds hold every device of the catalogue, and refuse each of its values times or over 1,000 (a test does so).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NoReturn

from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from kdexport.nouns.profile import Facts

Class = Literal["edge-gpu", "edge-cpu", "cpu", "datacenter-gpu"]
Bounds = tuple[float, float]

# (lowest, highest) of any device, and the unit that is wanted
ANY: Mapping[str, tuple[Bounds, str]] = {
    "cores": ((1, 1_000), "CPU cores, or streaming multiprocessors of a GPU"),
    "peak_fp32_tflops": ((0.002, 600), "10^12 operations per second"),
    "clock_mhz": ((100, 7_000), "10^6 cycles per second"),
    "l2_cache_bytes": ((2**16, 2**31), "bytes of the whole device"),
    "l3_cache_bytes": ((2**18, 2**33), "bytes of the whole device"),
    "runtime_floor_mib": ((4, 8_192), "2^20 bytes"),
    "sustained_share": ((0.05, 1), "a share of the peak, 0 to 1"),
    "numa_nodes": ((1, 64), "nodes"),
    "vcpus_per_core": ((1, 8), "virtual CPUs that share one core"),
}
BY_CLASS: Mapping[str, tuple[Mapping[Class, Bounds], str]] = {
    "memory_gib": (
        {"edge-gpu": (1, 256), "datacenter-gpu": (8, 1_024), "edge-cpu": (0.25, 256), "cpu": (0.06, 32_768)},
        "2^30 bytes",
    ),
    "memory_bandwidth_gb_per_s": (
        {"edge-gpu": (20, 4_000), "datacenter-gpu": (50, 20_000), "edge-cpu": (1, 4_000), "cpu": (5, 4_000)},
        "10^9 bytes per second",
    ),
    "power_w": (
        {"edge-gpu": (3, 1_500), "datacenter-gpu": (20, 2_500), "edge-cpu": (1, 150), "cpu": (5, 1_500)},
        "watts",
    ),
}
# TFLOP/s of fp32 of one core. A streaming multiprocessor has 64 or 128 lanes at 0.3 to 3 GHz: 0.04 to 0.8. A CPU core
# issues 4 (one 64-bit FMA) to 64 FLOP per cycle (two of 512 bit) at 0.5 to 6 GHz: 0.002 to 0.4. TF32 of one SM is 3 up.
FP32_OF_A_CORE: Mapping[bool, Bounds] = {True: (0.02, 2.5), False: (0.002, 2.5)}
GIB_OF_A_CORE = 256  # the largest memory servers rented have about 110 GiB for each core
OTHER_OVER_FP32: Bounds = (0.5, 250)  # dense int8 reaches 64 times (Blackwell) or 32 (AMX), read sparse 128

# Dense fp16 over fp32, by compute capability: the tensor cores of one SM over its 64 or 128 lanes, both per cycle.
# A GPU that reaches less (A10G, H100) is throttled by its maker; one that reaches twice as much was read sparse.
DENSE_FP16_OVER_FP32 = {
    "7.0": 8, "7.2": 8, "7.5": 8, "8.0": 16, "8.6": 4, "8.7": 8, "8.9": 4,
    "9.0": 16, "10.0": 32, "10.3": 32, "11.0": 32, "12.0": 4, "12.1": 4,
}  # fmt: skip
SPARSE = 1.6  # a sparse peak is twice the dense one; makers round and boost by a few per cent
INT8_OVER_FP16 = 2.2  # dense int8 is twice dense fp16 on every GPU
INT8_OVER_FP16_ANYWHERE = 4.5


def check(facts: Facts, device_class: Class) -> None:
    """Raises PydanticCustomError, whose context names the key, for the first fact that cannot be what it says."""
    for key, (bounds, unit) in ANY.items():
        _within(facts, key, bounds, unit, "any device")
    for key, (classes, unit) in BY_CLASS.items():
        _within(facts, key, classes[device_class], unit, f"class {device_class}")
    _beside_each_other(facts, device_class.endswith("gpu"))


def _within(facts: Facts, key: str, bounds: Bounds, unit: str, whom: str) -> None:
    value = _value(facts, key)
    low, high = bounds
    if value is None or low <= value <= high:
        return
    factor = 1024 if key.endswith(("gib", "mib", "bytes")) else 1000
    meant = next((v for v in (value / factor, value * factor) if low <= v <= high), None)
    write = f"; a unit slip? {meant:g} would do" if meant is not None else ""
    _refuse(key, f"{value:g} is outside {low:,g} to {high:,g} for {whom}: {unit} are wanted{write}")


def _beside_each_other(facts: Facts, is_gpu: bool) -> None:
    cores, fp32, memory_gib = (_value(facts, key) for key in ("cores", "peak_fp32_tflops", "memory_gib"))
    low, high = FP32_OF_A_CORE[is_gpu]
    if cores and fp32 and not low <= fp32 / cores <= high:
        _refuse(
            "peak_fp32_tflops",
            f"{fp32:g} over {cores:g} cores is {fp32 / cores:.2g} a core, outside {low:g} to {high:g}: TFLOP/s of the "
            "whole device are wanted; a unit slip, or TF32?",
        )
    if cores and memory_gib and memory_gib / cores > GIB_OF_A_CORE:
        _refuse("memory_gib", f"{memory_gib:g} for {cores:g} cores: GiB are wanted; a unit slip by 1,024?")
    _one_unit(facts, is_gpu)
    if is_gpu:
        _dense(facts)
    fp16, int8 = _value(facts, "peak_fp16_tflops"), _value(facts, "peak_int8_tops")
    if fp16 and int8 and int8 > INT8_OVER_FP16_ANYWHERE * fp16:
        _refuse(
            "peak_int8_tops",
            f"{int8:g} is over {INT8_OVER_FP16_ANYWHERE} times peak_fp16_tflops {fp16:g}: a sparse peak or a unit "
            "slip? Write the dense peak",
        )


def _dense(facts: Facts) -> None:
    """fp16 beside fp32, which is never sparse; then int8 beside fp16."""
    fp32, fp16, bf16 = (_value(facts, f"peak_{p}_tflops") for p in ("fp32", "fp16", "bf16"))
    int8 = _value(facts, "peak_int8_tops")
    capability = facts.compute_capability.value if facts.compute_capability else ""
    if fp16 and int8 and int8 > INT8_OVER_FP16 * fp16:
        _refuse(
            "peak_int8_tops",
            f"{int8:g} is {int8 / fp16:.2g} times peak_fp16_tflops {fp16:g}, and dense int8 is twice dense fp16: a "
            "sparse int8 peak, or fp16 with FP32 accumulation? Write both dense, fp16 with FP16 accumulation",
        )
    times = DENSE_FP16_OVER_FP32.get(capability)
    if times is None or not fp32:
        return
    for key, found, per_fp16 in (
        ("peak_fp16_tflops", fp16, 1),
        ("peak_bf16_tflops", bf16, 1),
        ("peak_int8_tops", int8, 2),
    ):
        most = times * per_fp16
        if found and found > SPARSE * most * fp32:
            _refuse(
                key,
                f"{found:g} is {found / fp32:.3g} times peak_fp32_tflops {fp32:g}; compute capability {capability} "
                f"reaches {most} times at most, dense: a sparse peak? Write the dense one, half of it",
            )


def _one_unit(facts: Facts, is_gpu: bool) -> None:
    """Peaks are within two orders of magnitude of fp32; a slip of one of them is three."""
    fp32 = _value(facts, "peak_fp32_tflops")
    capability = facts.compute_capability.value if facts.compute_capability else ""
    if not fp32 or (is_gpu and capability[:1] in ("5", "6")):  # fp16 of a GeForce 10 is 1/64 of its fp32
        return
    low, high = OTHER_OVER_FP32
    for key in ("peak_fp16_tflops", "peak_bf16_tflops", "peak_int8_tops"):
        found = _value(facts, key)
        if found and not low <= found / fp32 <= high:
            _refuse(
                key,
                f"{found:g} is {found / fp32:.3g} times peak_fp32_tflops {fp32:g}, outside {low:g} to {high:g} times: "
                "10^12 operations per second are wanted; a unit slip by 1,000?",
            )


def _value(facts: Facts, key: str) -> float | None:
    fact = getattr(facts, key)
    return fact.value if fact is not None else None


def _refuse(key: str, message: str) -> NoReturn:
    raise PydanticCustomError("implausible", "{said}", {"said": message, "key": key})
