"""Gradients of sampled outputs at the ends of windows, and the Gauss–Newton score of an error there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from ghostsearch.graph.flow import LAYERS, Place, ancestors, descendants

Edge = tuple[fx.Node, fx.Node]
"""A value and one node that reads it."""
Loss = Callable[[Any, int], Tensor]
"""Loss of a batch's output, summed over its images; the second argument is the batch's number."""


class Cut:
    """Where a window ends: the values that what lies behind it reads, of those that a change can alter.

    layers: paths of the layers inside the window, the changed ones among them. What follows them without a layer of
    its own (norm, activation, sum, pooling) is inside too.
    """

    def __init__(
        self, graph: fx.Graph, places: Mapping[str, Place], layers: Iterable[str], changed: Iterable[str],
        modules: Mapping[str, nn.Module],
    ) -> None:  # fmt: skip
        altered = descendants(node for path in changed if (node := places[path].node) is not None)
        ends: list[Any] = [node for path in layers for node in (places[path].node, places[path].out)]
        inside = ancestors(ends)
        for node in graph.nodes:
            is_layer = node.op == "call_module" and isinstance(modules[str(node.target)], LAYERS)
            reads = set(node.all_input_nodes)
            if node in altered and node.op != "output" and not is_layer and reads & altered <= inside:
                inside.add(node)
        self.edges: list[Edge] = [
            (node, user)
            for node in graph.nodes
            if node in inside & altered
            for user in node.users
            if user not in inside
        ]

    @property
    def values(self) -> list[fx.Node]:
        """The values that cross the cut, each once."""
        return list(dict.fromkeys(node for node, _ in self.edges))


class EdgeGradients:
    """Per image the gradient of a loss along some edges of a graph, one backward per batch for all of them.

    The gradient along an edge is what reaches the value through that one reader, so those of a cut's edges add up.
    Kept in bfloat16: half the memory, and rounding is far below the noise of sampling.
    """

    def __init__(
        self, model: nn.Module, graph: fx.Graph, batches: Sequence[Tensor], edges: Iterable[Edge], loss: Loss
    ) -> None:
        self.found: list[dict[Edge, Tensor]] = []
        wanted = frozenset(edges)
        with parameters_frozen(model):
            for number, batch in enumerate(batches):
                reading = _Reading(model, graph, wanted)
                with torch.enable_grad():
                    loss(reading.run(batch.clone().requires_grad_(batch.is_floating_point())), number).backward()
                self.found.append(reading.gradients)

    def along(self, cut: Cut, batch: int) -> dict[fx.Node, Tensor]:
        """Per value that crosses a cut, the gradient of one batch by way of the readers behind the cut."""
        total: dict[fx.Node, Tensor] = {}
        for edge in cut.edges:
            if edge in self.found[batch]:
                gradient = self.found[batch][edge].float()
                total[edge[0]] = total[edge[0]] + gradient if edge[0] in total else gradient
        return total


class _Reading(fx.Interpreter):
    """A forward in which each wanted edge is a view of its own, whose gradient is kept."""

    def __init__(self, model: nn.Module, graph: fx.Graph, wanted: AbstractSet[Edge]) -> None:
        super().__init__(model, graph=graph)
        self.wanted = wanted
        self.gradients: dict[Edge, Tensor] = {}

    def map_nodes_to_values(self, args: Any, n: fx.Node) -> Any:
        """The arguments of a node, wanted ones as views."""
        return fx.node.map_arg(args, lambda source: self._read(source, n))

    def _read(self, source: fx.Node, reader: fx.Node) -> Any:
        value, edge = self.env[source], (source, reader)
        if edge not in self.wanted or not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        # Behind the embedding of whole numbers nothing asks for a gradient yet.
        view = value.view_as(value).requires_grad_()

        def keep(gradient: Tensor) -> None:
            kept = gradient.detach().to(torch.bfloat16)
            self.gradients[edge] = self.gradients[edge] + kept if edge in self.gradients else kept

        view.register_hook(keep)
        return view


@contextmanager
def parameters_frozen(model: nn.Module) -> Iterator[None]:
    """No parameter of a model asks for its gradient within."""
    required = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in required:
            parameter.requires_grad_(True)


def gauss_newton(errors: Sequence[Mapping[fx.Node, Tensor]], gradients: Sequence[Mapping[fx.Node, Tensor]]) -> float:
    """½ · mean over images of (gᵀδ)², the inner product taken per image over all values of a cut.

    errors, gradients: per batch, per value, (N, …). With labels sampled from the model's own softmax this estimates the
    KL divergence that the error causes, in nats (a Fisher-vector product).
    """
    squares, images = 0.0, 0
    for error, gradient in zip(errors, gradients, strict=True):
        products: Any = sum(
            (gradient[node] * value).flatten(1).sum(1) for node, value in error.items() if node in gradient
        )
        squares += float(products.double().square().sum())
        images += len(products)
    return 0.5 * squares / images
