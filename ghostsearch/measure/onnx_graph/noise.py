"""How much noise int8 puts into each layer by itself: its own signal-to-noise, everything before it in float."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostsearch.measure.onnx_graph.initializers import inner_graphs
from ghostsearch.measure.onnx_graph.module import cpu_session
from ghostsearch.measure.onnx_graph.names import layer_of

PREFIX, OUTPUT = "int8/", "_QuantizeLinear_Input"
"""Before the names of the quantized graph; behind that of an output of the graph before it is quantized."""
NOISIEST = 5
"""Layers named as the noisiest of a model."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class LayerNoise:
    """One layer in int8, fed with the float network's activations."""

    layer: str
    """Dotted path of its module."""
    snr_db: float
    """10·log10 of the power of its float output over that of the error; every 6 dB are one bit."""


def layer_noise(floating: Any, small: Any, feed: Mapping[str, np.ndarray]) -> tuple[LayerNoise, ...]:
    """Each quantized layer's own signal-to-noise, the noisiest first.

    floating, small: ModelProtos before and after quantization, with the same tensor names; feed: one batch by input.
    Both are joined to one graph, in which the int8 layers read the float tensors.
    """
    from onnx import compose

    joined = type(floating).FromString(floating.SerializeToString())
    made = {name: node for node in joined.graph.node for name in node.output}
    fed = {x.name for x in joined.graph.input}
    second = compose.add_prefix(small, PREFIX)
    pairs: dict[str, str] = {}
    # A layer kept in float has float weights.
    small_made = {name for node in second.graph.node for name in node.output}
    for node in second.graph.node:
        _read_float(node, fed)
        if node.op_type == "QuantizeLinear":
            _read_float(node, made)
        plain = node.output[0].removeprefix(PREFIX).removesuffix(OUTPUT)
        quantized = node.op_type in WEIGHTED and node.input[1] in small_made
        if quantized and plain in made and _weighted(made[plain], made) is not None:
            pairs[plain] = node.output[0]
    joined.graph.node.extend(second.graph.node)
    joined.graph.initializer.extend(second.graph.initializer)
    del joined.graph.output[:]
    for name in (*pairs, *pairs.values()):
        joined.graph.output.add().name = name
    values = cpu_session(joined.SerializeToString(), 1).run([*pairs, *pairs.values()], dict(feed))
    found = []
    for name, wanted, got in zip(pairs, values[: len(pairs)], values[len(pairs) :], strict=True):
        if made[name].op_type in ("Relu", "Clip"):
            # The quantizer leaves these to the ends of the range.
            got = np.clip(got, wanted.min(), wanted.max())
        node = _weighted(made[name], made)
        found.append(LayerNoise(layer_of(node), _decibels(wanted, got - wanted)))
    # Of a layer that is called again and again, the worst.
    worst = {x.layer: x for x in sorted(found, key=lambda x: -x.snr_db)}
    return tuple(sorted(worst.values(), key=lambda x: x.snr_db))


def _read_float(node: Any, floats: Container[str]) -> None:
    """Let a node of the quantized graph, and the graphs inside it, read the float tensors among these."""
    for i, name in enumerate(node.input):
        source = name.removeprefix(PREFIX)
        if source in floats:
            node.input[i] = source
    for graph in inner_graphs(node):
        for inner in graph.node:
            _read_float(inner, floats)


def _weighted(node: Any, made: Mapping[str, Any]) -> Any:
    """The layer with weights whose output, perhaps through an activation, a node gives; None where there is none."""
    while node is not None and node.op_type in ("Relu", "Clip"):
        node = made.get(node.input[0])
    return node if node is not None and node.op_type in WEIGHTED else None


def _decibels(signal: np.ndarray, error: np.ndarray) -> float:
    return float(10 * np.log10(max(np.square(signal).sum(), 1e-30) / max(np.square(error).sum(), 1e-30)))
