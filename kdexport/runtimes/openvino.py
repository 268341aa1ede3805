"""OpenVINO on the CPU: fp32, bf16 where the CPU multiplies it, int8 by NNCF with calibration."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.errors import BadInput, MissingPackage, Unsupported
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.runtimes import Feeds
from kdexport.storage.files import replacing

if TYPE_CHECKING:
    import numpy as np

PRECISIONS = ("fp32", "bf16", "int8")
INSTALL_NNCF = "pip install nncf"
PRECISION_KEY = "kdexport_precision"  # in the IR's runtime information


@dataclass(frozen=True)
class OpenVinoEngine:
    request: Any

    def run(self, feeds: Feeds) -> np.ndarray:
        self.request.infer(dict(feeds), share_inputs=True)
        result: np.ndarray = self.request.get_output_tensor(0).data.copy()  # the buffer is the next run's too
        return result


def missing() -> str | None:
    return None if importlib.util.find_spec("openvino") else "pip install openvino"


def unsupported(precision: Precision, profile: HardwareProfile) -> str | None:
    if profile.is_gpu:
        return "kdexport runs OpenVINO on CPUs; on an NVIDIA GPU it uses TensorRT"
    if precision not in PRECISIONS:
        return _not_offered(precision)
    if precision == "bf16" and not _multiplies_bf16(profile):
        isa = profile.facts.isa
        found = f"its instruction set is '{isa.value}'" if isa else "its profile does not state the instruction set"
        return f"bf16 needs a CPU with amx_bf16 or avx512_bf16, and {found}; fp32 and int8 are supported"
    if precision == "int8" and not importlib.util.find_spec("nncf"):
        return f"int8 for OpenVINO is made by NNCF, which is not installed ({INSTALL_NNCF}); fp32 is supported without"
    return None


def only_there(profile: HardwareProfile) -> str | None:
    """A graph runs anywhere."""
    return None


def build(graph: Path, precision: Precision, folder: Path, calibration: Sequence[Feeds]) -> Path:
    """fp32: the graph as it is. bf16, int8: OpenVINO's format in `folder`, an .xml (returned) and a .bin beside it.

    Raises BadInput for int8 without calibration, MissingPackage where NNCF is absent."""
    if precision == "fp32":
        return graph
    if precision not in PRECISIONS:
        raise Unsupported(_not_offered(precision))
    import openvino

    model = openvino.Core().read_model(str(graph))
    if precision == "int8":
        model = _quantised(model, calibration)
    model.set_rt_info(precision, PRECISION_KEY)
    return _save(model, folder / f"{graph.stem}.{precision}.xml")


def open_engine(path: Path, threads: int) -> OpenVinoEngine:
    """Compiled for one request at a time on `threads` threads.

    Raises Unsupported for a bf16 engine on a CPU without bf16: OpenVINO would silently compute it in fp32."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    is_bf16 = model.has_rt_info(PRECISION_KEY) and model.get_rt_info(PRECISION_KEY).astype(str) == "bf16"
    if is_bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Unsupported(f"{path}: this CPU does not multiply bf16; build the engine in fp32 or int8")
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if is_bf16 else "f32",  # unset, a CPU with AMX rounds to bf16 unasked
    }
    return OpenVinoEngine(core.compile_model(model, "CPU", options).create_infer_request())


def _not_offered(precision: Precision) -> str:
    return f"{precision} is not offered by OpenVINO on CPUs; fp32, int8 and, on some, bf16 are"


def _multiplies_bf16(profile: HardwareProfile) -> bool:
    isa = profile.facts.isa
    stated = re.sub(r"\(no [^)]*\)", "", isa.value) if isa else ""  # profiles also say what a CPU lacks
    return re.search(r"(amx|avx512)[-_]bf16", stated) is not None


def _quantised(model: Any, calibration: Sequence[Feeds]) -> Any:
    """Post-training quantisation with the ranges seen in `calibration`, weights per channel."""
    if not calibration:
        raise BadInput("int8 for OpenVINO wants calibration inputs, found none; give at least one batch")
    # NNCF reports its use to Google Analytics unless told that it runs in CI; it looks once, when it is imported
    os.environ.setdefault("NNCF_CI", "1")
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars would mix with the results on stdout
        try:
            import nncf
        except ImportError as e:
            raise MissingPackage(f"int8 for OpenVINO is made by NNCF, which is not installed: {INSTALL_NNCF}") from e
        nncf.set_log_level(logging.ERROR)
        return nncf.quantize(model, nncf.Dataset([dict(f) for f in calibration]), subset_size=len(calibration))


def _save(model: Any, path: Path) -> Path:
    """The .xml appears last: whoever sees it has a whole pair."""
    import openvino

    weights = path.with_suffix(".bin")
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{path.name}.") as scratch:
        openvino.save_model(model, Path(scratch) / path.name, compress_to_fp16=False)
        path.unlink(missing_ok=True)
        for finished in (weights, path):
            with replacing(finished) as temporary:
                os.replace(Path(scratch) / finished.name, temporary)
    return path
