"""The GPUs of this machine, as the NVIDIA driver lists them (NVML, package nvidia-ml-py). No CUDA context is made."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from kdexport.nouns.profile import Gpu

INSTALL = "pip install nvidia-ml-py"
MIB, GIB = 2**20, 2**30


def gpus() -> tuple[tuple[Gpu, ...], str]:
    """(GPUs in the order of the driver, why there is none: no package, no driver, no card; '' where there are)."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return (), f"GPUs were not looked for: {INSTALL}"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as e:
        return (), f"no NVIDIA driver answers ({e})"
    try:
        found = tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError as e:
        return (), f"the NVIDIA driver does not list its GPUs ({e})"
    finally:
        nvml.nvmlShutdown()
    return found, "" if found else "the NVIDIA driver lists no GPU"


def _gpu(nvml: ModuleType, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    capability = _asked(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    milliwatts = _asked(nvml, nvml.nvmlDeviceGetPowerManagementLimit, handle)
    return Gpu(
        index=index,
        name=name.decode() if isinstance(name, bytes) else name,  # older packages answer in bytes
        memory_gib=nvml.nvmlDeviceGetMemoryInfo(handle).total / GIB,
        compute_capability="{}.{}".format(*capability) if capability else "",
        power_limit_w=milliwatts / 1000 if milliwatts else None,
        cuda_cores=_asked(nvml, nvml.nvmlDeviceGetNumGpuCores, handle),
        clock_mhz=_asked(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
    )


def _asked(nvml: ModuleType, question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where this card (a Jetson, a part of a GPU) has none."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None
