"""Open the graph of a bundle in its runtime: a function from the input tensor to logits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .tensorrt_engine import NoTensorRT, open_built
else:
    from tensorrt_engine import NoTensorRT, open_built


class NoEngine(ValueError):
    """The bundle's graph cannot be run here; the message says what to do."""


def open_engine(folder: Path, manifest: dict[str, Any], threads: int, spin: bool) -> Callable[[Any], Any]:
    """A function: int64 (B, T) or float32 (B, C, H, W) -> logits, float32 (B, C).

    Raises NoEngine for a runtime that is not installed, or whose engine is yet to be built on this device."""
    model = os.path.join(folder, manifest["model"])
    try:
        if manifest["runtime"] == "onnxruntime":
            return _onnxruntime(model, manifest, threads, spin)
        if manifest["runtime"] == "openvino":
            return _openvino(model, manifest, threads)
        if manifest["runtime"] in ("tensorrt", "tensorrt_rtx"):
            return open_built(folder, manifest)
    except NoTensorRT as e:
        raise NoEngine(str(e)) from e
    except ImportError as e:
        raise NoEngine(f"{e}; pip install -r {os.path.join(folder, 'requirements.txt')}") from e
    raise NoEngine(f"{folder}: runtime '{manifest['runtime']}' is not known to this runner")


def _onnxruntime(model: str, manifest: dict[str, Any], threads: int, spin: bool) -> Callable[[Any], Any]:
    import onnxruntime as ort

    ort.set_default_logger_severity(3)  # warnings on devices that are not there would mix with the caller's stderr
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    run, outputs, input_name = session.run, [manifest["output_name"]], manifest["input_name"]
    return lambda tensor: run(outputs, {input_name: tensor})[0]


def _openvino(model: str, manifest: dict[str, Any], threads: int) -> Callable[[Any], Any]:
    import openvino

    precision = "f16" if manifest["precision"] == "fp16" else "bf16" if manifest["precision"] == "bf16" else "f32"
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,  # else CPUs with AMX round to bf16 unasked
    }
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    input_name, output_name = manifest["input_name"], manifest["output_name"]

    def run(tensor: Any) -> Any:
        request.infer({input_name: tensor}, share_inputs=True)
        return request.get_tensor(output_name).data.copy()

    return run
