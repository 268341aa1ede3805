"""A TensorRT engine that `build.py` made on this device: where it lies, and how it is run.

TensorRT 10 or later, or TensorRT-RTX. CUDA is reached through its own C library: on a Jetson no Python package for
it is sure to be there."""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import hashlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

ENGINE, REPORT = "model.engine", "build.json"
INSTALL = {
    "tensorrt": "JetPack 6 brings it (apt install python3-libnvinfer); elsewhere: pip install tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76  # cudaDeviceAttr


class NoTensorRT(ImportError):
    """TensorRT, CUDA or a built engine is absent; the message says what to do."""


def import_tensorrt(runtime: str) -> Any:
    """The module that the manifest's runtime names, or else the other one: a graph can be built with either, an engine
    is read by its own alone. Raises NoTensorRT if neither is there, or is too old."""
    for name in sorted(INSTALL, key=lambda name: name != runtime):
        try:
            trt = importlib.import_module(name)
        except ImportError:
            continue
        if name == "tensorrt" and int(trt.__version__.split(".")[0]) < 10:
            raise NoTensorRT(f"TensorRT 10 or later is wanted, found {trt.__version__}: JetPack 6.1 has it")
        return trt
    raise NoTensorRT(f"neither tensorrt nor tensorrt_rtx can be imported: {INSTALL[runtime]}")


def cache_folder(bundle: Path) -> Path:
    """Where this bundle's engine lies on this device. Not in the bundle, which never changes."""
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "kdexport" / "engines" / digest[:16]


def open_built(bundle: Path, manifest: dict[str, Any]) -> TensorRTEngine:
    """The engine that `build.py` left in the cache.

    Raises NoTensorRT where there is none, it is not whole, or it failed its self-test."""
    folder = cache_folder(bundle)
    try:
        plan = (folder / ENGINE).read_bytes()
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise NoTensorRT(f"{folder}: no engine of this bundle; run `python build.py` on this device first") from e
    if hashlib.sha256(plan).hexdigest() != report["engine_sha256"]:
        raise NoTensorRT(f"{folder / ENGINE}: altered since it was built; run `python build.py` again")
    if not report["parity"]["passed"]:
        raise NoTensorRT(f"{folder / REPORT}: the engine's answers are not the student's; it is not served")
    return TensorRTEngine(import_tensorrt(report["runtime"]), plan, manifest)


class Cuda:
    """The few calls of the CUDA runtime that are needed here; each raises RuntimeError where CUDA says no."""

    def __init__(self) -> None:
        names = [ctypes.util.find_library("cudart"), *(f"libcudart.so{v}" for v in ("", ".13", ".12"))]
        wheels = (p for entry in sys.path for p in glob.glob(os.path.join(entry, "nvidia/*/lib/libcudart.so.*")))
        for path in [*filter(None, names), "/usr/local/cuda/lib64/libcudart.so", *wheels]:
            try:
                self._library = ctypes.CDLL(path)
                return
            except OSError:
                continue
        raise NoTensorRT(
            "libcudart.so is not found: add CUDA's lib64 folder to LD_LIBRARY_PATH, or pip install nvidia-cuda-runtime"
        )

    def allocate(self, size_bytes: int) -> int:
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        self._call("cudaFree", ctypes.c_void_p(address))

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(handle))
        return int(handle.value or 0)

    def copy(self, target: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
        """Asynchronous on the stream; from pageable host memory CUDA itself waits where it must."""
        size = ctypes.c_size_t(size_bytes)
        handle = ctypes.c_void_p(stream)
        self._call(
            "cudaMemcpyAsync", ctypes.c_void_p(target), ctypes.c_void_p(source), size, ctypes.c_int(kind), handle
        )

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def compute_capability(self) -> str:
        numbers = []
        for attribute in (COMPUTE_MAJOR, COMPUTE_MINOR):
            value = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(0))
            numbers.append(str(value.value))
        return ".".join(numbers)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} failed with CUDA error {code}")


class TensorRTEngine:
    """Called as a function: the input tensor to float32 logits (B, C). One thread at a time."""

    def __init__(self, trt: Any, plan: bytes, manifest: dict[str, Any]) -> None:
        self._cuda = Cuda()
        self._logger = trt.Logger(trt.Logger.ERROR)  # kept: TensorRT holds only a bare pointer to it
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise NoTensorRT(
                "the engine cannot be loaded: either no GPU and driver work here, or another TensorRT or GPU built it; "
                "see TensorRT's lines above, then run `python build.py --rebuild`"
            )
        self._context = self._engine.create_execution_context()
        self._stream = self._cuda.stream()
        self._input, self._output = manifest["input_name"], manifest["output_name"]
        self._dtypes = {n: np.dtype(trt.nptype(self._engine.get_tensor_dtype(n))) for n in (self._input, self._output)}
        self._max_batch = manifest["max_batch"]
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> (device address, bytes)

    def __call__(self, tensor: Any) -> Any:
        parts = [self._run(tensor[i : i + self._max_batch]) for i in range(0, len(tensor), self._max_batch)]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def _run(self, tensor: Any) -> Any:
        values = np.ascontiguousarray(tensor, self._dtypes[self._input])
        if not self._context.set_input_shape(self._input, tuple(values.shape)):
            raise ValueError(f"the engine takes no input of shape {values.shape}")
        logits = np.empty(tuple(self._context.get_tensor_shape(self._output)), self._dtypes[self._output])
        source, target = self._buffer(self._input, values.nbytes), self._buffer(self._output, logits.nbytes)
        self._cuda.copy(source, values.ctypes.data, values.nbytes, HOST_TO_DEVICE, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeError("TensorRT could not run the engine")
        self._cuda.copy(logits.ctypes.data, target, logits.nbytes, DEVICE_TO_HOST, self._stream)
        self._cuda.wait(self._stream)
        return logits

    def _buffer(self, name: str, size_bytes: int) -> int:
        """Device memory for one tensor, kept from call to call and grown where it must."""
        address, held_bytes = self._buffers.get(name, (0, 0))
        if size_bytes > held_bytes:
            if address:
                self._cuda.free(address)
            address = self._cuda.allocate(size_bytes)
            self._buffers[name] = (address, size_bytes)
            self._context.set_tensor_address(name, address)
        return address
