"""Which layers an order of a layer's channels passes through, and which read it and can absorb it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostsearch.blocks.base import Block
from ghostsearch.graph.capture import output_channels
from ghostsearch.graph.flow import RELUS, Place
from ghostsearch.space.costs import passes_channels

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.Sigmoid, nn.Hardsigmoid, nn.ELU,
    nn.Mish, nn.Identity, nn.modules.dropout._DropoutNd, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd,
)  # fmt: skip
ELEMENTWISE_FUNCTIONS = (
    *RELUS, F.relu6, F.silu, F.gelu, F.hardswish, F.leaky_relu, F.dropout, F.max_pool2d, F.avg_pool2d,
    F.adaptive_avg_pool2d,
)  # fmt: skip
ELEMENTWISE_METHODS = ("relu", "sigmoid", "clamp", "contiguous")


def readers_of(place: Place, model: nn.Module) -> tuple[list[str], list[str]] | None:
    """Paths that a reordering of a layer's channels passes through, and those that read them and can absorb it.

    None when something else sees the channels too (a sum, a concatenation, a grouped convolution), or when one of
    these layers is called with other channels as well (a shared head, a shared norm): then the order must stay.
    """
    if place.node is None:
        return None
    outputs = output_channels(model.get_submodule(place.path))
    through: dict[int, str] = {}
    ends: dict[int, str] = {}
    seen: set[fx.Node] = set()
    stack = list(place.node.users)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "call_module":
            path = str(node.target)
            module = model.get_submodule(path)
            if node.meta["tied"]:
                return None
            if _norms_rows(module) or (isinstance(module, _ConvNd) and passes_channels(module)):
                if not _is_in_rows(module, outputs):
                    return None
                through[id(module)] = path
            elif isinstance(module, _ConvNd | Block) and _can_reorder_inputs(module, outputs):
                ends[id(module)] = path
                continue
            elif not isinstance(module, ELEMENTWISE):
                return None
        elif not is_elementwise_call(node):
            return None
        if not node.users:
            return None
        stack.extend(node.users)
    for other in place.node.graph.nodes:
        if other.op == "call_module" and other not in seen:
            module = model.get_submodule(str(other.target))
            if id(module) in through or id(module) in ends:
                return None
    return (list(through.values()), list(ends.values())) if ends else None


def holds_its_weights(layer: nn.Module) -> bool:
    """Whether weight and bias are a layer's own parameters, not computed from others (weight_norm, pruning)."""
    return {"weight", "bias"} <= layer._parameters.keys()


def _norms_rows(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm, perhaps with activations inside that see each value alone."""
    return isinstance(module, _BatchNorm) and all(isinstance(m, ELEMENTWISE) for m in module.children())


def _is_in_rows(module: nn.Module, channels: int) -> bool:
    """Whether all that a layer holds has a row for each channel."""
    held = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None and t.dim()]
    return holds_its_weights(module) and all(len(t) == channels for t in held)


def _can_reorder_inputs(module: Any, channels: int) -> bool:
    """Whether a layer's filters alone say in which order it reads channels; a class of its own may have a mask."""
    own = [t for name, t in module.state_dict().items() if name not in ("weight", "bias") and t.dim() > 1]
    masked = not isinstance(module, Block) and (
        any(t.shape[1] == channels for t in own) or not holds_its_weights(module)
    )
    return module.groups == 1 and input_weight(module).shape[0] == channels and not masked


def input_weight(module: Any) -> Tensor:
    """A layer's weight with the channels that it reads first: (C, n, *taps); groups of it must be 1."""
    weight: Tensor = module.weight
    return weight if getattr(module, "transposed", False) else weight.transpose(0, 1)


def is_elementwise_call(node: fx.Node) -> bool:
    """Whether a node is a function or method that leaves the channels where they are."""
    return (node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS) or (
        node.op == "call_method" and node.target in ELEMENTWISE_METHODS
    )
