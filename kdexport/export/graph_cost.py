"""Count what one run of an ONNX graph asks of a machine, by shape inference."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from kdexport.backbones import InputShape
from kdexport.nouns.graph import GraphCost

MATMULS = ("MatMul", "Gemm")
# what stays a kernel of its own after the usual fusions; the rest is taken to be merged into its neighbour
KERNELS = (*MATMULS, "Conv", "Softmax", "LayerNormalization", "Gather", "MaxPool", "AveragePool", "GlobalAveragePool",
           "ReduceMean", "ReduceSum", "ReduceMax", "Concat", "ArgMax")  # fmt: skip


def graph_cost(path: Path, shape: InputShape) -> GraphCost:
    """Every input gets `shape`: (batch, tokens), or (batch, channels, height, width)."""
    import onnx

    model = onnx.load(str(path))
    weights = {w.name: tuple(w.dims) for w in model.graph.initializer}
    dims = [shape.batch, shape.tokens] if shape.tokens else [shape.batch, shape.channels, shape.height, shape.width]
    for graph_input in model.graph.input:
        for axis, size in zip(graph_input.type.tensor_type.shape.dim, dims, strict=False):
            axis.ClearField("dim_param")
            axis.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = weights | {
        v.name: _dims(v) for v in [*inferred.graph.value_info, *inferred.graph.output, *model.graph.input]
    }
    shapes |= {n.output[0]: tuple(n.attribute[0].t.dims) for n in model.graph.node if n.op_type == "Constant"}
    nodes = [n for n in model.graph.node if n.op_type in KERNELS and not _is_shape_work(n, shapes)]
    tables = {n.input[0]: shapes.get(n.output[0], ()) for n in nodes if n.op_type == "Gather"}
    read = sum(prod(tables.get(name, dims)) for name, dims in weights.items())
    return GraphCost(
        flops=sum(_flops(n, shapes) for n in nodes),
        weight_bytes=4.0 * read,
        activation_bytes=4.0 * sum(prod(shapes.get(n.output[0], ())) for n in nodes),
        num_operators=max(len(nodes), 1),
        num_params=sum(prod(d) for d in weights.values()),
        tokens=shape.batch * max(shape.tokens, 1),
    )


def _dims(value: Any) -> tuple[int, ...]:
    return tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)


def _is_shape_work(node: Any, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Gathers and concats of shape vectors cost nothing."""
    return node.op_type in ("Gather", "Concat") and len(shapes.get(node.output[0], ())) < 2


def _flops(node: Any, shapes: dict[str, tuple[int, ...]]) -> float:
    output = prod(shapes.get(node.output[0], (0,)))
    if node.op_type in MATMULS:
        return 2.0 * output * (shapes.get(node.input[0]) or (1,))[-1]
    if node.op_type == "Conv":
        return 2.0 * output * prod(shapes.get(node.input[1], (0, 0))[1:])
    return float(output)
