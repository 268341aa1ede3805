"""TensorRT 10 or later on an NVIDIA GPU: fp32, fp16, int8. An engine is bound to the GPU and version that built it,
so it is built on the target; for a Jetson, or where the package is absent, the bundle carries a build script."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdexport.errors import MissingPackage, Unsupported
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.runtimes import Feeds, _tensorrt_build

PRECISIONS = ("fp32", "fp16", "int8")
INSTALL = "pip install tensorrt"
FIRST_MAJOR = 10  # strongly typed networks and int64 inputs


def missing() -> str | None:
    return None if importlib.util.find_spec("tensorrt") else INSTALL


def unsupported(precision: Precision, profile: HardwareProfile) -> str | None:
    if reason := _tensorrt_build.not_an_nvidia_gpu(profile):
        return reason
    return _not_offered(precision)


def only_there(profile: HardwareProfile) -> str | None:
    """Unless a GPU of the profile's compute capability is in this machine, which runs on the same host CPU."""
    wanted, found = _tensorrt_build.compute_capability(profile), _tensorrt_build.compute_capability_here()
    if found is not None and found == wanted:
        return None
    here = f"a GPU of compute capability {found[0]}.{found[1]}" if found else "no GPU"
    return f"an engine is bound to the GPU that builds it, and here is {here}: the bundle's build.py builds it there"


def build(graph: Path, precision: Precision, folder: Path, calibration: Sequence[Feeds]) -> Path:
    """An engine for the GPU of this machine. Raises BuildFailed, MissingPackage, Unsupported without a GPU."""
    if reason := _not_offered(precision):
        raise Unsupported(reason)
    trt = _import()
    model = _tensorrt_build.model_bytes(graph, precision, calibration)
    return _tensorrt_build.build_engine(trt, model, folder / f"{graph.stem}.{precision}.engine", lambda _: None)


def open_engine(path: Path, threads: int) -> _tensorrt_build.TensorRTEngine:
    """`threads` means nothing to a GPU."""
    return _tensorrt_build.open_on_gpu(_import(), path)


def _not_offered(precision: Precision) -> str | None:
    return None if precision in PRECISIONS else f"{precision} is not offered with TensorRT; fp32, fp16 and int8 are"


def _import() -> Any:
    trt = _tensorrt_build.import_module("tensorrt", INSTALL)
    if int(trt.__version__.split(".")[0]) < FIRST_MAJOR:
        raise MissingPackage(f"TensorRT {FIRST_MAJOR} or later is wanted, found {trt.__version__}: {INSTALL} --upgrade")
    return trt
