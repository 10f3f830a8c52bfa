"""Runs a model node by node over calibration batches, keeping only the values that are still needed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.graph.capture import call, copied, tensors
from ghostsearch.graph.flow import LAYERS, Place
from ghostsearch.surgery.shelf import kept


class Values(Protocol):
    """Where a fit gets a model's values from."""

    def get(self, key: Any) -> list[Any]:
        """The value of a key of `Place` on each batch, as the model is now."""


class Replay:
    """Values of a model's graph on some batches, computed when asked for and dropped after their last reader.

    A layer that changes between two questions is seen by all values computed after it: this is how every fit sees the
    converted net's own inputs at the price of one forward in all.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, batches: Sequence[Tensor]) -> None:
        self.model, self.graph = model, graph
        self.interpreter = fx.Interpreter(model, garbage_collect_values=False, graph=graph)
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.values: list[dict[fx.Node, Any]] = []
        readers = {node: len(node.users) for node in graph.nodes}
        self.readers = [dict(readers) for _ in batches]
        for batch in batches:
            holders = [n for n in graph.nodes if n.op == "placeholder"]
            self.values.append({n: n.args[0] if n.args else batch for n in holders})

    def fork(self, model: nn.Module) -> Replay:
        """The same for a model of the same graph that agrees with this one in all that was computed so far."""
        other = copy.copy(self)
        other.model = model
        other.interpreter = fx.Interpreter(model, garbage_collect_values=False, graph=self.graph)
        other.values = [dict(values) for values in self.values]
        other.readers = [dict(readers) for readers in self.readers]
        return other

    def get(self, node: fx.Node) -> list[Any]:
        """The node's value on each batch."""
        with torch.no_grad():
            return [self._value(node, i) for i in range(len(self.values))]

    def _value(self, node: fx.Node, batch: int) -> Any:
        values = self.values[batch]
        if node in values:
            return values[node]
        needed, stack = set(), [node]
        while stack:
            current = stack.pop()
            if current not in needed and current not in values:
                needed.add(current)
                stack.extend(current.all_input_nodes)
        self.interpreter.env = values
        for current in sorted(needed, key=self.order.__getitem__):
            values[current] = _kept(self.interpreter.run_node(current))
            for source in current.all_input_nodes:
                self.readers[batch][source] -= 1
                if self.readers[batch][source] == 0 and source is not node:
                    values.pop(source, None)
        return values[node]


def _kept(value: Any) -> Any:
    return kept(value) if isinstance(value, Tensor) else value


def same_forward(model: nn.Module, graph: fx.Graph, batch: Tensor) -> bool:
    """Whether the graph computes what the model computes on a batch."""
    model = copied(model).eval()
    with torch.no_grad():
        try:
            wanted = model(batch)
            got = fx.Interpreter(model, graph=graph).run(batch)
        # A graph traced from another structure may not fit this one at all.
        except Exception:  # noqa: BLE001
            return False
    return isinstance(wanted, Tensor) and isinstance(got, Tensor) and torch.allclose(wanted, got, rtol=1e-3, atol=1e-4)


class Rerun:
    """Values of a model that cannot be traced: it runs again, up to the layer, for each question.

    A key is ("in" or "out", path of the layer or norm).
    """

    def __init__(self, model: nn.Module, batches: Sequence[Any]) -> None:
        self.model, self.batches = model, batches

    def get(self, key: tuple[str, str]) -> list[Any]:
        """The input or output of a module on each batch."""
        side, path = key
        found: list[Tensor] = []

        def take(_: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
            found.append(kept((args[0] if side == "in" else output).clone()))
            raise _Reached

        module = self.model.get_submodule(path)
        handle = module.register_forward_pre_hook(take) if side == "in" else module.register_forward_hook(take)
        try:
            with torch.no_grad():
                for batch in self.batches:
                    try:
                        call(self.model, batch)
                    except _Reached:
                        continue
        finally:
            handle.remove()
        return found


class _Reached(Exception):  # noqa: N818
    """The value asked for is there; the rest of the forward is not needed."""


def watched_places(model: nn.Module, batch: Any) -> dict[str, Place]:
    """Places of an untraceable model's layers, in the order they run: only a BatchNorm right behind a layer is seen.

    Sums and activations stay unseen, so each layer is fitted to the baseline's value at its own (or its
    norm's) output.
    """
    seen: list[tuple[str, nn.Module, Any, Any]] = []
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, (*LAYERS, _BatchNorm)):

            def note(module: nn.Module, args: tuple[Any, ...], output: Any, path: str = path) -> None:
                seen.append((path, module, next(tensors(args), None), output))

            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    counts: dict[str, int] = {}
    for path, *_ in seen:
        counts[path] = counts.get(path, 0) + 1
    norms = {id(x): path for path, module, x, _ in seen if isinstance(module, _BatchNorm) and counts[path] == 1}
    places = {}
    for path, module, _, output in seen:
        if isinstance(module, LAYERS) and counts[path] == 1:
            norm = norms.get(id(output))
            places[path] = Place(path, norm, ("in", path), ("out", norm or path))
    return places
