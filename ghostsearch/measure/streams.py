"""The sums that a layer's output feeds: what a concatenation there costs after the layer itself.

Runtimes keep activations in a blocked memory order between convolutions and fuse a residual sum and its activation into
one of them. A concatenation that ends a ghost block can bring the maps back to the plain order; then every later sum of
the same residual stream is made there too, apart from its convolution. That happens once, however many layers spoil it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.graph.flow import is_add, is_relu, trace_graph
from ghostsearch.graph.reorder import ELEMENTWISE, is_elementwise_call

SUMS = 3
"""Sums behind the layer in a cell that is timed with its stream."""
SLIM = 16
"""Channels inside a branch there: few, so that the sums' own time shows, and a whole block of the runtimes' order."""


@dataclass(frozen=True)
class Stream:
    """What becomes of one layer's output before another layer alone has it."""

    sums: tuple[str, ...] = ()
    """Names of the sums that it reaches through norms, activations, poolings and other sums."""
    relu: bool = False
    """Whether a ReLU reads the first of them."""


def find_streams(model: nn.Module) -> dict[str, Stream]:
    """Per path of a layer whose output reaches a sum, its stream; empty where torch.fx cannot follow the forward."""
    graph = trace_graph(model)
    if graph is None:
        return {}
    modules = dict(model.named_modules(remove_duplicate=False))
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and not _passes(node, modules):
            sums = [n for n in _reached(node, modules) if is_add(n)]
            if sums:
                found[str(node.target)] = Stream(
                    tuple(n.name for n in sums), any(is_relu(n, modules) for n in sums[0].users)
                )
    return found


def _reached(node: fx.Node, modules: dict[str, nn.Module]) -> Iterator[fx.Node]:
    """Nodes that a value passes through, in the graph's order."""
    seen, stack = set[fx.Node](), list(node.users)
    while stack:
        user = stack.pop()
        if user not in seen and _passes(user, modules):
            seen.add(user)
            stack.extend(user.users)
    return (n for n in node.graph.nodes if n in seen)


def _passes(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], (*ELEMENTWISE, _BatchNorm))
    return is_add(node) or is_elementwise_call(node)


SpoiledSums = Callable[[Sequence[Stream], np.ndarray], np.ndarray]
"""streams of the layers, seconds (A, layers) that each adds to one sum behind it -> seconds in all (A,)."""


def spoiled_sums(streams: Sequence[Stream], seconds: np.ndarray) -> np.ndarray:
    """Every sum costs as much more as the one layer that spoils it most."""
    reaching: dict[str, list[int]] = {}
    for i, stream in enumerate(streams):
        for name in stream.sums:
            reaching.setdefault(name, []).append(i)
    return np.asarray(sum((seconds[:, some].max(1) for some in reaching.values()), np.zeros(len(seconds))))


def one_sum_each(streams: Sequence[Stream], seconds: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Every layer spoils one sum."""
    return np.asarray(seconds.sum(1))


class WithSums(nn.Module):
    """A layer and the next sums of its stream, each of the stream and of a slim residual branch that reads it.

    Two convolutions with few channels between them make a branch: runtimes fuse a sum into the second. x: (N, C, …)
    """

    def __init__(self, layer: nn.Module, conv: Callable[..., nn.Module], channels: int, *, relu: bool) -> None:
        super().__init__()
        self.layer, self.relu = layer, nn.ReLU() if relu else nn.Identity()
        self.branches = nn.ModuleList(
            nn.Sequential(conv(channels, SLIM, 1), conv(SLIM, channels, 1)) for _ in range(SUMS)
        )

    def forward(self, x: Tensor) -> Tensor:
        stream = self.layer(x)
        for branch in self.branches:
            stream = self.relu(branch(stream) + stream)
        return stream
