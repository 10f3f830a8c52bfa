"""Runs a model's graph on calibration batches as far as it is asked, keeping only the values that are still needed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ghostsearch.graph.flow import is_add, is_relu


class Liveness:
    """Which values are held on the way through a graph, and what the next one needs."""

    def __init__(self, graph: fx.Graph) -> None:
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.held = {node for node in graph.nodes if node.op == "placeholder"}
        self.readers = {node: len(node.users) for node in graph.nodes}

    def fork(self) -> Liveness:
        """The same state, to go on from."""
        other = copy.copy(self)
        other.held, other.readers = set(self.held), dict(self.readers)
        return other

    def until(self, node: fx.Node) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
        """Nodes to compute, in order, until a node's value is there, and after each the values that nobody reads."""
        needed, stack = set(), [node]
        while stack:
            current = stack.pop()
            if current not in needed and current not in self.held:
                needed.add(current)
                stack.extend(current.all_input_nodes)
        for current in sorted(needed, key=self.order.__getitem__):
            self.held.add(current)
            dropped = []
            for source in current.all_input_nodes:
                self.readers[source] -= 1
                if self.readers[source] == 0 and source is not node:
                    self.held.discard(source)
                    dropped.append(source)
            yield current, dropped


class Replay:
    """Values of a model's graph on some batches, computed when asked for and dropped after their last reader.

    A layer that changes between two questions is seen by all values computed after it: this is how every fit sees the
    converted net's own inputs at the price of one forward in all. A batch is begun when it is first asked for.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, batches: Sequence[Tensor]) -> None:
        self.model, self.graph = model, graph
        self.interpreter = fx.Interpreter(model, garbage_collect_values=False, graph=graph)
        fresh = Liveness(graph)
        self.batches = batches
        self.values: list[dict[fx.Node, Any]] = [{} for _ in range(len(batches))]
        self.live = [fresh.fork() for _ in self.values]

    def fork(self, model: nn.Module) -> Replay:
        """The same for a model of the same graph that agrees with this one in all that was computed so far."""
        other = copy.copy(self)
        other.model = model
        other.values = [dict(values) for values in self.values]
        # What this pass holds is read again by the next fork.
        shared = {node for values in self.values for node in values}
        other.interpreter = FrugalInterpreter(model, self.graph, shared)
        other.live = [live.fork() for live in self.live]
        return other

    def get(self, node: fx.Node) -> list[Any]:
        """The node's value on each batch."""
        return [self.value(node, i) for i in range(len(self.values))]

    @torch.no_grad()
    def value(self, node: fx.Node, batch: int) -> Any:
        """The node's value on one batch."""
        if node.op == "placeholder":
            return self._given(node, batch)
        values = self.values[batch]
        # Images are asked for when they are read, and not held between two questions.
        given: dict[fx.Node, Any] = {}
        self.interpreter.env = values
        for current, dropped in self.live[batch].until(node):
            for source in current.all_input_nodes:
                if source.op == "placeholder" and source not in given:
                    given[source] = values[source] = self._given(source, batch)
            values[current] = self.interpreter.run_node(current)
            for source in dropped:
                values.pop(source, None)
        for source in given:
            values.pop(source, None)
        return values[node]

    def _given(self, holder: fx.Node, batch: int) -> Any:
        return holder.args[0] if holder.args else self.batches[batch]

    def held_bytes(self) -> int:
        """Bytes of the values held for all batches, inputs of the model aside."""
        return sum(v.nbytes for values in self.values for v in values.values() if isinstance(v, Tensor))


class FrugalInterpreter(fx.Interpreter):
    """Lets a sum or a ReLU write into a value that nothing else reads: new memory costs as much as the arithmetic.

    shared: nodes whose values others hold too.
    """

    def __init__(
        self, model: nn.Module, graph: fx.Graph, shared: set[fx.Node] | None = None, *, garbage: bool = False
    ) -> None:
        super().__init__(model, garbage_collect_values=garbage, graph=graph)
        modules = dict(model.named_modules(remove_duplicate=False))
        fresh = {n for n in graph.nodes if len(n.users) == 1 and n not in (shared or ()) and _is_fresh(n, modules)}
        after = [n for n in graph.nodes if not n.kwargs and n.args and n.args[0] in fresh]
        self.sums = {n for n in after if is_add(n)}
        self.relus = {n for n in after if is_relu(n, modules) and not isinstance(modules.get(str(n.target)), nn.ReLU6)}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, in the memory of the first one that it reads where that may be."""
        values: Any = self.map_nodes_to_values(n.args, n) if n in self.relus or n in self.sums else ()
        if n in self.relus:
            return values[0].relu_()
        if n in self.sums and isinstance(values[1], Tensor):
            first, second = values
            if (first.shape, first.dtype) == (second.shape, second.dtype):
                return first.add_(second)
        return super().run_node(n)


def _is_fresh(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node's value is new memory that no other value shares."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, nn.Identity):
            source = node.all_input_nodes[0]
            return len(source.users) == 1 and _is_fresh(source, modules)
        return isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.modules.batchnorm._BatchNorm)
    return is_add(node)
