"""ONNX Runtime on the CPU: fp32, and int8 (dynamic for text, static with calibration for pictures)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.runtimes import Feeds

if TYPE_CHECKING:
    import numpy as np

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class OnnxRuntimeEngine:
    session: Any

    def run(self, feeds: Feeds) -> np.ndarray:
        result: np.ndarray = self.session.run(None, feeds)[0]
        return result


def missing() -> str | None:
    return None if importlib.util.find_spec("onnxruntime") else "pip install onnxruntime"


def unsupported(precision: Precision, profile: HardwareProfile) -> str | None:
    if profile.is_gpu:
        return "kdexport runs ONNX Runtime on CPUs; on a GPU it uses TensorRT"
    return None if precision in PRECISIONS else f"{precision} is not offered by ONNX Runtime on CPUs; fp32 and int8 are"


def only_there(profile: HardwareProfile) -> str | None:
    """A graph runs anywhere."""
    return None


def build(graph: Path, precision: Precision, folder: Path, calibration: Sequence[Feeds]) -> Path:
    """fp32: the graph as it is. int8: a quantised copy in `folder`."""
    if precision == "fp32":
        return graph
    from kdexport.export.quantise import dynamic_int8, static_int8

    engine = folder / f"{graph.stem}.int8.onnx"
    pictures = any(value.ndim == 4 for feeds in calibration[:1] for value in feeds.values())
    return static_int8(graph, engine, calibration) if pictures else dynamic_int8(graph, engine)


def open_engine(path: Path, threads: int) -> OnnxRuntimeEngine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads > 1 else "1")
    options.log_severity_level = 4  # an error is raised too: once is enough
    return OnnxRuntimeEngine(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
