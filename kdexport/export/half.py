"""fp16 copies of an ONNX graph, by ONNX Runtime's converter: what a GPU engine in half precision is built from."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

# sums over many numbers overflow or lose their tail in fp16
FP32_OPERATORS = ("LayerNormalization", "Softmax", "ReduceMean")


def half_precision(graph: Path) -> onnx.ModelProto:
    """The graph with weights and operators in fp16; inputs, logits, normalisation and softmax stay in fp32."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*truncated.*")  # one for each tensor with a number below 6e-8
        model: onnx.ModelProto = convert_float_to_float16(
            onnx.load(str(graph)), keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *FP32_OPERATORS]
        )
    return model
