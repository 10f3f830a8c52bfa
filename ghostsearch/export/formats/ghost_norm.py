"""Takes the normalisation after a ghost convolution apart in an ONNX graph, so that int8 reaches all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class _GhostNorm:
    """Nodes of a concatenation of primary maps p and cheap maps c(p) with BatchNorm and perhaps ReLU after it."""

    primary: str
    cheap: Any
    concat: Any
    norm: Any
    relu: Any | None


def split_ghost_norms(model: Any) -> int:
    """Rewrite BN([p, c(p)]) as [a·p + b, c'(p)] with BN folded into c', in place; returns how many were found.

    Exact but for rounding. A quantizer leaves BatchNorm in float, and folds it only into a convolution right
    before it, never through a concatenation; so each ghost convolution would go back to float halfway.
    The affine rest is a 1×1 depthwise convolution, and a ReLU that follows goes into both branches.
    """
    graph = model.graph
    found = _find(graph)
    values = _Initializers(graph)
    replacement = {id(ghost.norm): _rewritten(ghost, values) for ghost in found}
    gone = {id(node) for g in found for node in (g.cheap, g.concat, g.relu) if node is not None}
    nodes = []
    for node in graph.node:
        if id(node) not in gone:
            nodes += replacement.get(id(node), [node])
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    values.drop_unused()
    return len(found)


class _Initializers:
    """A graph's constant tensors by name."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph, self.helper = graph, numpy_helper
        self.arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}

    def add(self, name: str, array: np.ndarray) -> str:
        self.graph.initializer.append(self.helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def drop_unused(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        kept = [i for i in self.graph.initializer if i.name in used]
        copies = [type(i).FromString(i.SerializeToString()) for i in kept]
        del self.graph.initializer[:]
        self.graph.initializer.extend(copies)


def _find(graph: Any) -> list[_GhostNorm]:
    maker = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {o.name for o in graph.output}

    def only_user(name: str) -> Any | None:
        found = users.get(name, [])
        return found[0] if len(found) == 1 and name not in outputs else None

    ghosts = []
    for norm in graph.node:
        concat = maker.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if concat is None or concat.op_type != "Concat" or len(concat.input) != 2:
            continue
        primary, made = concat.input
        cheap = maker.get(made)
        if cheap is None or cheap.op_type != "Conv" or cheap.input[0] != primary:
            continue
        if only_user(made) is None or only_user(concat.output[0]) is None:
            continue
        after = only_user(norm.output[0])
        ghosts.append(_GhostNorm(primary, cheap, concat, norm, after if after and after.op_type == "Relu" else None))
    return ghosts


def _rewritten(ghost: _GhostNorm, values: _Initializers) -> list[Any]:
    from onnx import helper

    gamma, beta, mean, variance = (values.arrays[name] for name in ghost.norm.input[1:5])
    epsilon = next((a.f for a in ghost.norm.attribute if a.name == "epsilon"), 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    shift = beta - mean * scale
    weight = values.arrays[ghost.cheap.input[1]]
    bias = values.arrays[ghost.cheap.input[2]] if len(ghost.cheap.input) > 2 else 0.0
    m, dims = len(scale) - len(weight), weight.ndim - 2
    base = ghost.norm.output[0]
    affine = helper.make_node(
        "Conv",
        [
            ghost.primary,
            values.add(f"{base}.scale", scale[:m].reshape(m, 1, *[1] * dims)),
            values.add(f"{base}.shift", shift[:m]),
        ],
        [f"{base}.intrinsic"],
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
        [f"{base}.ghosts"],
    )
    cheap.attribute.extend(ghost.cheap.attribute)
    branches, nodes = [f"{base}.intrinsic", f"{base}.ghosts"], [affine, cheap]
    if ghost.relu is not None:
        nodes += [helper.make_node("Relu", [name], [f"{name}.relu"]) for name in branches]
        branches = [f"{name}.relu" for name in branches]
        base = ghost.relu.output[0]
    return [*nodes, helper.make_node("Concat", branches, [base], axis=1)]
