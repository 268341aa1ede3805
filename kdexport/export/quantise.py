"""int8 copies of an ONNX graph, by ONNX Runtime's quantiser."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.runtimes import Feeds
from kdexport.storage.files import replacing

if TYPE_CHECKING:
    import numpy as np


def dynamic_int8(graph: Path, path: Path) -> Path:
    """Weights int8 per channel, activations quantised as they come: matrix products and look-up tables."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with replacing(path) as temporary, _quiet():
        quantize_dynamic(
            str(graph),
            str(temporary),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Attention", "Gather", "EmbedLayerNormalization"],
            # an ORT-fused graph holds operators without type inference: 1 says float
            extra_options={"DefaultTensorType": 1, "MatMulConstBOnly": True},
        )
    return path


def static_int8(graph: Path, path: Path, calibration: Sequence[Feeds], **options: Any) -> Path:
    """Weights int8 per channel, activations by the ranges seen in `calibration`; quantise-dequantise format.

    options: of ONNX Runtime's `quantize_static`, in place of those chosen here."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds: Iterator[Feeds] = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            feeds = next(self.feeds, None)
            return dict(feeds) if feeds is not None else None

    chosen = {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
    }
    with tempfile.TemporaryDirectory() as scratch, replacing(path) as temporary, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(graph), str(prepared))
        quantize_static(str(prepared), str(temporary), Reader(), **{**chosen, **options})
    return path


@contextmanager
def _quiet() -> Iterator[Any]:
    """The quantiser warns through the root logger on every call."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
