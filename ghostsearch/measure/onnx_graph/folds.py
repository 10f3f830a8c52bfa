"""Takes the normalisation after a ghost convolution apart in an ONNX graph, so that int8 reaches all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostsearch.measure.onnx_graph.initializers import Initializers, Wiring, unshare_constants


@dataclass(frozen=True)
class _GhostNorm:
    """Nodes of a concatenation of primary maps p and cheap maps c(p), perhaps reordered, with BatchNorm and perhaps
    ReLU after it.
    """

    primary: str
    cheap: Any
    concat: Any
    gather: Any | None
    norm: Any
    relu: Any | None


def split_ghost_norms(model: Any) -> int:
    """Rewrite BN([p, c(p)]) as [a·p + b, c'(p)] with BN folded into c', in place; returns how many were found.

    Exact but for rounding. A quantizer leaves BatchNorm in float, and folds it only into a convolution right
    before it, never through a concatenation; so each ghost convolution would go back to float halfway.
    The affine rest is a 1×1 depthwise convolution, and a ReLU that follows goes into both branches. A Gather that
    reorders the channels between concatenation and BatchNorm comes last, where it moves bytes and no floats.
    """
    graph = model.graph
    unshare_constants(graph)
    values = Initializers(graph)
    found = _find(graph, values)
    replacement = {id(ghost.norm): _rewritten(ghost, values) for ghost in found}
    gone = {id(node) for g in found for node in (g.cheap, g.concat, g.gather, g.relu) if node is not None}
    nodes = []
    for node in graph.node:
        if id(node) not in gone:
            nodes += replacement.get(id(node), [node])
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    values.drop_unused()
    return len(found)


def _find(graph: Any, values: Initializers) -> list[_GhostNorm]:
    wiring = Wiring(graph)
    ghosts = []
    for norm in graph.node:
        before = wiring.maker.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        gather = before if before is not None and before.op_type == "Gather" else None
        if gather is not None:
            axis = next((a.i for a in gather.attribute if a.name == "axis"), 0)
            if axis != 1 or gather.input[1] not in values.arrays or wiring.only_reader(gather.output[0]) is None:
                continue
            order = values.arrays[gather.input[1]].reshape(-1)
            if len(set(order.tolist())) < order.size:
                continue
            before = wiring.maker.get(gather.input[0])
        if before is None or before.op_type != "Concat" or len(before.input) != 2 or before.attribute[0].i != 1:
            continue
        primary, made = before.input
        cheap = wiring.maker.get(made)
        if cheap is None or cheap.op_type != "Conv" or cheap.input[0] != primary:
            continue
        # A graph may compute them: standardized weights, a norm without factors of its own.
        if not all(name in values.arrays for name in (*cheap.input[1:], *norm.input[1:5])):
            continue
        if wiring.only_reader(made) is None or wiring.only_reader(before.output[0]) is None:
            continue
        after = wiring.only_reader(norm.output[0])
        relu = after if after is not None and after.op_type == "Relu" else None
        ghosts.append(_GhostNorm(primary, cheap, before, gather, norm, relu))
    return ghosts


def _rewritten(ghost: _GhostNorm, values: Initializers) -> list[Any]:
    from onnx import helper

    weight = values.arrays[ghost.cheap.input[1]]
    bias = values.arrays[ghost.cheap.input[2]] if len(ghost.cheap.input) > 2 else 0.0
    scale, shift = _affine(ghost, values, weight)
    m, dims = len(scale) - len(weight), weight.ndim - 2
    base = (ghost.relu or ghost.norm).output[0]
    parts = f"{base}.intrinsic", f"{base}.ghosts"
    affine = helper.make_node(
        "Conv",
        [
            ghost.primary,
            values.add(f"{base}.scale", scale[:m].reshape(m, 1, *[1] * dims)),
            values.add(f"{base}.shift", shift[:m]),
        ],
        [parts[0]],
        name=f"{ghost.cheap.name}.intrinsic",
        group=m,
        kernel_shape=[1] * dims,
    )
    cheap = helper.make_node(
        "Conv",
        [
            ghost.primary,
            values.add(f"{base}.weight", weight * scale[m:].reshape(-1, 1, *[1] * dims)),
            values.add(f"{base}.bias", bias * scale[m:] + shift[m:]),
        ],
        [parts[1]],
        name=ghost.cheap.name,
    )
    cheap.attribute.extend(ghost.cheap.attribute)
    nodes, branches = [affine, cheap], list(parts)
    if ghost.relu is not None:
        nodes += [
            helper.make_node("Relu", [name], [f"{name}.relu"], f"{ghost.relu.name}.{i}")
            for i, name in enumerate(branches)
        ]
        branches = [f"{name}.relu" for name in branches]
    if ghost.gather is None:
        return [*nodes, helper.make_node("Concat", branches, [base], ghost.concat.name, axis=1)]
    joined = helper.make_node("Concat", branches, [f"{base}.joined"], ghost.concat.name, axis=1)
    order = [joined.output[0], ghost.gather.input[1]]
    return [*nodes, joined, helper.make_node("Gather", order, [base], ghost.gather.name, axis=1)]


def _affine(ghost: _GhostNorm, values: Initializers, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """BatchNorm's scale and shift of each concatenated channel; 1 and 0 for those that the Gather drops."""
    gamma, beta, mean, variance = (values.arrays[name] for name in ghost.norm.input[1:5])
    epsilon = next((a.f for a in ghost.norm.attribute if a.name == "epsilon"), 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    shift = beta - mean * scale
    if ghost.gather is None:
        return scale, shift
    order = values.arrays[ghost.gather.input[1]].reshape(-1)
    total = _concatenated(ghost, weight)
    whole, moved = np.ones(total, np.float32), np.zeros(total, np.float32)
    whole[order], moved[order] = scale, shift
    return whole, moved


def _concatenated(ghost: _GhostNorm, weight: np.ndarray) -> int:
    """Channels of the concatenation: those that the convolution reads, and those that it makes."""
    group = next((a.i for a in ghost.cheap.attribute if a.name == "group"), 1)
    return int(group) * weight.shape[1] + len(weight)
