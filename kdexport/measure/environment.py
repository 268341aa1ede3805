"""The machine and the software that a figure was taken with."""

from __future__ import annotations

import datetime
import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdexport.bundle.runner import cores
from kdexport.measure.memory import physical_bytes
from kdexport.nouns.measurement import Environment
from kdexport.storage.files import content_key

# what a kernel is chosen by: flag in /proc/cpuinfo -> name shown
ISA_FLAGS = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fp16",
    "sve": "sve",
    "sve2": "sve2",
    "i8mm": "i8mm",
    "bf16": "bf16",
}
RUNTIMES = (
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-extensions",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "tensorrt-rtx-cu13",
    "tokenizers",
    "numpy",
)
PACKAGES = ("kdexport", *RUNTIMES, "nncf", "onnx", "transformers", "safetensors", "pillow", "scikit-learn", "pydantic")
ROOT = Path("/")  # tests put another machine here
_CPUS = "sys/devices/system/cpu"


def detect(threads: int) -> Environment:
    """This machine now, for measurements with `threads` threads per engine. Imports no runtime."""
    cpu, isa = _cpu(_read(ROOT / "proc/cpuinfo"))
    fields = {
        "cpu": cpu,
        "isa": isa,
        "cores_allowed": cores_allowed(),
        "memory_bytes": memory_limit_bytes(),
        "threads": threads,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(),
    }
    taken_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Environment.model_validate({**fields, "id": content_key(fields)[:12], "taken_at": taken_at})


def fingerprint(environment: Environment) -> str:
    """12 hex digits of what latency depends on: CPU, instructions, cores, threads and the runtimes' versions, and as
    they are now the CPU quota (one of one core throttles, the affinity to one does not) and the clock's governor."""
    runtimes = {name: v for name, v in environment.packages.items() if name in RUNTIMES}
    parts = (environment.cpu, sorted(environment.isa), environment.cores_allowed, environment.threads, runtimes)
    return content_key(*parts, cpu_quota_cores(), governor())[:12]


@lru_cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change a figure."""
    return {name: found for name in PACKAGES if (found := _version(name))}


def cores_allowed() -> float:
    """Cores that this process may use: the lesser of its affinity and its cgroup quota (v1 or v2)."""
    return round(cores.cores_allowed(ROOT), 2)


def cores_by_affinity() -> int:
    """Logical CPUs that the kernel may run this process on, whatever its quota."""
    return len(_allowed_cpus())


def cpu_quota_cores() -> float | None:
    """Cores' worth of time that the smallest cgroup quota gives (v1 or v2); None where there is none."""
    folders = cores.cgroup_folders("cpu", ROOT)
    quotas = [q for folder in folders for q in (cores._quota_v2(folder), cores._quota_v1(folder)) if q is not None]
    return round(min(quotas), 2) if quotas else None


def threads_per_core() -> int | None:
    """Hardware threads of a core, as the kernel shows them to this process: 2 with SMT. None where it does not say."""
    siblings = [
        text for cpu in _allowed_cpus() if (text := _read(ROOT / _CPUS / f"cpu{cpu}/topology/thread_siblings_list"))
    ]
    return max(_count(text) for text in siblings) if siblings else None


def numa_nodes() -> int | None:
    """Nodes that the kernel shows; None where it shows none (macOS, some containers)."""
    return len(list((ROOT / "sys/devices/system/node").glob("node[0-9]*"))) or None


def governor() -> str:
    """Of the CPU's clock ("performance", "powersave", ...); empty where it is hidden, as in most virtual machines."""
    return _read(ROOT / _CPUS / "cpu0/cpufreq/scaling_governor").strip()


def _allowed_cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _count(cpus: str) -> int:
    """Of CPUs in a list of the kernel: "0-1,96" holds three."""
    ends = [part.split("-") for part in cpus.strip().split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def memory_limit_bytes() -> int:
    """Bytes that this process may use: the lesser of the machine's memory and its cgroup limit (v1 or v2)."""
    names = ("memory.max", "memory.limit_in_bytes")  # of v2, of v1; no limit reads "max" in v2
    texts = [_read(folder / name).strip() for folder in cores.cgroup_folders("memory", ROOT) for name in names]
    return min([physical_bytes(), *(int(text) for text in texts if text.isdigit() and int(text) > 0)])


def _cpu(cpuinfo: str) -> tuple[str, tuple[str, ...]]:
    """(model, instruction sets of interest) from the first processor in /proc/cpuinfo."""
    first = cpuinfo.strip().split("\n\n")[0]
    pairs = [line.split(":", 1) for line in first.splitlines() if ":" in line]
    info = {key.strip().lower(): value.strip() for key, value in pairs}
    flags = set((info.get("flags") or info.get("features") or "").split())
    isa = {name for flag, name in ISA_FLAGS.items() if flag in flags}
    if platform.machine() == "arm64":
        isa.add("neon")  # macOS has no /proc; NEON is part of every 64-bit ARM
    return _cpu_model(info), tuple(sorted(isa))


def _cpu_model(info: dict[str, str]) -> str:
    if name := info.get("model name"):
        # a virtual machine may hide the generation behind "AMD EPYC": family and model tell it
        numbered = "cpu family" in info and "model" in info
        return f"{name} (family {info['cpu family']}, model {info['model']})" if numbered else name
    if "cpu part" in info:
        return f"ARM implementer {info.get('cpu implementer', '?')} part {info['cpu part']}"
    return platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
