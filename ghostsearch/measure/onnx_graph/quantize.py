"""Static int8 quantization of an ONNX graph by ONNX Runtime's own quantizer, prepared so that it reaches everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostsearch.files import temporary_folder
from ghostsearch.graph.detector import FOUND
from ghostsearch.machine import processor_flags
from ghostsearch.measure.devices.base import quiet_exporter
from ghostsearch.measure.onnx_graph.affine_sums import fold_affine_sums
from ghostsearch.measure.onnx_graph.equalize import equalize_ranges
from ghostsearch.measure.onnx_graph.folds import split_ghost_norms
from ghostsearch.measure.onnx_graph.names import layer_of, nodes_of
from ghostsearch.measure.onnx_graph.noise import WEIGHTED, LayerNoise, layer_noise

Feed = Mapping[str, np.ndarray]
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
"""Processor flags (as in /proc/cpuinfo) of 8-bit dot products that do not saturate halfway."""
MOVES_BYTES = frozenset({
    "QuantizeLinear", "DequantizeLinear", "Shape", "Gather", "Constant", "Identity", "ConstantOfShape", "Cast",
})  # fmt: skip
IN_INT8 = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid",
    "Softmax", "Where", "MaxPool", "Relu", "Clip", "Pad", "Resize", "Slice", "Split", "Reshape", "Transpose", "Flatten",
    "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth", "Expand",
})  # fmt: skip
"""Operators that ONNX Runtime's CPU kernels compute between int8 tensors (1.32, by the graphs that it optimises)."""


@dataclass(frozen=True)
class Int8Options:
    """How a graph is quantized."""

    split_norms: bool = True
    """Split the BatchNorm behind a ghost, so that it can be folded; without it the quantizer is left to itself."""
    equalize: bool = True
    """Bring the channels of an activation to one range first."""
    keep_float: tuple[str, ...] = ()
    """Globs of layers, by module path, that stay in float, with everything inside them."""


@dataclass(frozen=True)
class Int8Graph:
    """A quantized graph, with the float one it was made from and the inputs that noise is to be judged on."""

    graph: bytes
    prepared: bytes
    """Norms folded, ranges equalized; its tensors have the quantized graph's names."""
    feed: Feed

    def noise(self) -> tuple[LayerNoise, ...]:
        """Each layer's own signal-to-noise on the first calibration batch, the noisiest first."""
        import onnx

        return layer_noise(onnx.load_from_string(self.prepared), onnx.load_from_string(self.graph), self.feed)


def fast_int8() -> bool:
    """Whether this processor multiplies 8-bit numbers in fast instructions that do not saturate."""
    return bool(VNNI_FLAGS & processor_flags())


def weight_bits() -> int:
    """7 where 8-bit products would saturate halfway (x86 without VNNI), else 8."""
    return 8 if fast_int8() else 7


def quantized(graph: bytes, feeds: Sequence[Feed], options: Int8Options | None = None) -> Int8Graph:
    """The graph in QDQ form: weights int8 per channel, activations uint8 with ranges from calibration inputs.

    feeds: inputs by name, one mapping a batch. Of a detector only the layers are quantized: eight bits are too coarse
    for the positions of boxes. Raises whatever ONNX Runtime raises for a graph it cannot quantize.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands calibration inputs to the quantizer, batch by batch."""

        def __init__(self) -> None:
            self.left: Iterator[Feed] = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self.left, None)

    options = options or Int8Options()
    # The quantizer reads and writes files only.
    with quiet_exporter(), temporary_folder() as folder:
        prepared, small = folder / "prepared.onnx", folder / "int8.onnx"
        model = onnx.load_from_string(graph)
        fold_affine_sums(model)
        if options.split_norms:
            split_ghost_norms(model)
        onnx.save(model, prepared)
        # Folds BatchNorm into convolutions, so that both are quantized as one.
        quant_pre_process(prepared, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        if options.equalize:
            equalize_ranges(model, feeds)
            onnx.save(model, prepared)
        detects = {y.name for y in model.graph.output} == set(FOUND)
        quantize_static(
            prepared, small, Reader(), op_types_to_quantize=["Conv", "ConvTranspose", "Gemm"] if detects else None,
            quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=weight_bits() == 7,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_exclude=[*nodes_of(model.graph, options.keep_float), *_unquantizable(model.graph)],
        )  # fmt: skip
        return Int8Graph(small.read_bytes(), prepared.read_bytes(), feeds[0])


def float_nodes(graph: bytes) -> list[str]:
    """Layer and operator of a quantized graph's nodes that compute in float: what int8 did not reach."""
    import onnx

    nodes = onnx.load_from_string(graph).graph.node
    maker = {name: node for node in nodes for name in node.output}
    found = []
    for node in nodes:
        if node.op_type in MOVES_BYTES:
            continue
        sources = [maker[name] for name in node.input if name in maker]
        floating = any(source.op_type != "DequantizeLinear" for source in sources) and not _fused(node, sources)
        if (
            floating
            or (sources and node.op_type not in IN_INT8)
            or (node.op_type in WEIGHTED and node.input[1] not in maker)
        ):
            found.append(f"{layer_of(node)} ({node.op_type})")
    return list(dict.fromkeys(found))


def _unquantizable(graph: Any) -> list[str]:
    """Names of the transposed convolutions in groups with a bias, for which the quantizer makes too few scales."""
    sizes = {x.name: x.dims for x in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "ConvTranspose" and len(node.input) > 2
        and any(a.name == "group" and a.i > 1 for a in node.attribute) and sizes.get(node.input[1], (0, 2))[1] > 1
    ]  # fmt: skip


def _fused(node: Any, sources: Sequence[Any]) -> bool:
    """Whether the runtime makes a node part of the int8 operator before it."""
    return node.op_type in ("Relu", "Clip") and all(s.op_type in ("Conv", "Gemm", "Add", "MatMul") for s in sources)
