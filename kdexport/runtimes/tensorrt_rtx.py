"""TensorRT-RTX on NVIDIA GPUs in x86-64 machines: fp32 and fp16. Its engines are built without a GPU, ahead of time,
and one serves every compute capability in `PORTABLE_TO`; the GPU's own kernels are compiled when it is opened."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdexport.errors import MissingPackage, Unsupported
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.runtimes import Feeds, _tensorrt_build

PRECISIONS = ("fp32", "fp16")
INSTALL = "pip install tensorrt-rtx-cu13"
# 7.5 is left out: the builder refuses fp32 matrix products there, and an fp16 engine that includes it grew by 7 to 30 %
# (1.7.1, three small students) and, says NVIDIA's support matrix, may be slower on the other GPUs
PORTABLE_TO = {(8, 0): "SM80", (8, 6): "SM86", (8, 9): "SM89", (12, 0): "SM120"}


def missing() -> str | None:
    return None if importlib.util.find_spec("tensorrt_rtx") else INSTALL


def unsupported(precision: Precision, profile: HardwareProfile) -> str | None:
    if reason := _tensorrt_build.not_an_nvidia_gpu(profile):
        return reason
    if profile.host != "x86-64":
        return f"{profile.id} has an {profile.host} host: TensorRT-RTX is supported on x86-64 only; use TensorRT"
    found = _tensorrt_build.compute_capability(profile)
    if found not in PORTABLE_TO:
        served = ", ".join(f"{major}.{minor}" for major, minor in PORTABLE_TO)
        text = "{}.{}".format(*found) if found else "unknown"
        return f"{profile.id} has compute capability {text}: TensorRT-RTX engines are built for {served}; use TensorRT"
    return _not_offered(precision)


def only_there(profile: HardwareProfile) -> str | None:
    """Engines are built ahead of time, for compute capabilities, not for one card."""
    return None


def build(graph: Path, precision: Precision, folder: Path, calibration: Sequence[Feeds]) -> Path:
    """One engine for every GPU in PORTABLE_TO; needs no GPU. Raises BuildFailed, MissingPackage."""
    if reason := _not_offered(precision):
        raise Unsupported(reason)
    trt = _import()
    model = _tensorrt_build.model_bytes(graph, precision, calibration)
    return _tensorrt_build.build_engine(trt, model, folder / f"{graph.stem}.{precision}.rtx.engine", _target(trt))


def open_engine(path: Path, threads: int) -> _tensorrt_build.TensorRTEngine:
    """`threads` means nothing to a GPU. The first run at a new shape may compile kernels: warm up before timing."""
    return _tensorrt_build.open_on_gpu(_import(), path)


def _not_offered(precision: Precision) -> str | None:
    if precision == "int8":
        # https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html, 1.0 to 1.5;
        # 1.7.1 builds such a graph, but no GPU was at hand to run it
        return (
            "NVIDIA's support matrix lists int8 in TensorRT-RTX for the weights of matrix products alone, not for "
            "activations; fp32 and fp16 are supported, and int8 with TensorRT"
        )
    return None if precision in PRECISIONS else f"{precision} is not offered with TensorRT-RTX; fp32 and fp16 are"


def _target(trt: Any) -> Any:
    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(PORTABLE_TO)
        for i, name in enumerate(PORTABLE_TO.values()):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), i)

    return configure


def _import() -> Any:
    trt = _tensorrt_build.import_module("tensorrt_rtx", INSTALL)
    if absent := [name for name in PORTABLE_TO.values() if not hasattr(trt.ComputeCapability, name)]:
        raise MissingPackage(f"tensorrt_rtx {trt.__version__} cannot target {absent}: {INSTALL} --upgrade")
    return trt
