"""What an ONNX graph costs, counted by the shapes of its operators."""

from __future__ import annotations

import math
import warnings
from typing import Any

from ghostsearch.errors import GhostsearchWarning
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.records import Cost

MULTIPLYING = {
    "Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3), "ConvTranspose": (0, 1), "Gemm": (0, 1),
    "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3),
}  # fmt: skip
"""Operators that multiply, and at which places of their inputs the two factors stand."""
SUBGRAPHS = ("If", "Loop", "Scan")
"""Operators that run a graph of their own."""
UNCOUNTED = {*SUBGRAPHS, "LSTM", "GRU", "RNN", "Einsum", "DeformConv", "Attention", "DFT"}


def graph_cost(module: OnnxModule, example: Any) -> Cost:
    """Cost of an ONNX graph per image: numbers in its constants, multiply-adds by its operators' shapes, bytes.

    Peak memory is the runtime's affair. Warns (GhostsearchWarning) with the operators whose shapes are not known.
    """
    import onnx

    inputs = example if isinstance(example, tuple) else (example,)
    model = onnx.load_from_string(module.graph)
    constants = model.graph.initializer
    del model.graph.value_info[:]
    fed = [x for x in model.graph.input if x.name in module.inputs]
    for x, value in zip(fed, inputs, strict=True):
        for place, n in zip(x.type.tensor_type.shape.dim, value.shape, strict=True):
            place.dim_value = n
    found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {c.name: tuple(c.dims) for c in constants} | {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*found.value_info, *found.input, *found.output)
    }
    macs, unknown = 0, set[str]()
    for node in model.graph.node:
        if node.op_type in MULTIPLYING:
            one, other = (shapes.get(node.input[i], ()) for i in MULTIPLYING[node.op_type])
            count = _macs(node, one, other, shapes.get(node.output[0], ()))
            macs += count
            unknown |= set() if count else {node.op_type}
        elif node.op_type in UNCOUNTED or node.domain not in ("", "ai.onnx"):
            unknown.add(node.op_type)
    if unknown:
        warnings.warn(f"not in macs: {', '.join(sorted(unknown))}", GhostsearchWarning, stacklevel=2)
    kinds = [getattr(onnx.TensorProto, k) for k in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8")]
    params = sum(math.prod(c.dims) for c in constants if c.data_type in kinds)
    return Cost(params=params, macs=macs // len(inputs[0]), size_bytes=len(module.graph))


def _macs(node: Any, one: tuple[int, ...], other: tuple[int, ...], made: tuple[int, ...]) -> int:
    """Multiply-adds of an operator; 0 where a shape is not known."""
    if not (one and other and made) or 0 in (*one, *other, *made):
        return 0
    if node.op_type == "ConvTranspose":
        return math.prod(one) * math.prod(other[1:])
    if "Conv" in node.op_type:
        return math.prod(made) * math.prod(other[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(made) * (one[0] if transposed else one[-1])
