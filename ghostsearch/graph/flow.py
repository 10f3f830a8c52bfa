"""How values flow between a model's layers, by torch.fx: which norm, sum and activation follow a convolution."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostsearch.blocks.base import Block
from ghostsearch.graph.capture import call, copied, light_copy, tensors

ADDS = (operator.add, torch.add)
RELUS = (F.relu, torch.relu)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, Block)
"""Layers with filters that a fit may write; a transposed convolution is read and cut, but not fitted."""


@dataclass(frozen=True)
class Place:
    """A layer that can be fitted and what surrounds it."""

    path: str
    norm: str | None
    """The BatchNorm that alone reads it."""
    source: Any
    """Key of the value it reads."""
    out: Any
    """Key of the value the fit aims at: the layer's, the norm's, or a sum it ends in."""
    shortcut: Any = None
    """Key of the sum's other operand."""
    relu: bool = False
    """Whether a ReLU alone reads that value."""
    node: fx.Node | None = None
    """Where it stands in the graph; None when there is none."""
    tied: bool = False
    """Whether something else computes with its parameters too, so that they must stay."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, (*LAYERS, _ConvNd, _BatchNorm, nn.LayerNorm)) or super().is_leaf_module(module, path)


def trace_graph(model: nn.Module, images: Any = None) -> fx.Graph | None:
    """The model's eval-mode graph, additions and calls by keyword written in one way, nothing in place; None where
    torch.fx cannot follow its forward.

    images: (N, C, *spatial); with them the graph must give what the model gives, and each node knows its value's shape.
    """
    model = without_inplace(copied(model).eval())
    try:
        graph = _Tracer().trace(model)
    # A foreign forward raises whatever it likes under tracing; such a model is run whole, layer by layer.
    except Exception:  # noqa: BLE001
        return None
    if not all(_leaves_its_inputs_alone(node) for node in graph.nodes):
        return None
    for node in graph.nodes:
        _normalise(node)
        if node.op == "get_attr" and node.target.startswith("_tensor_constant"):
            # A tensor that the forward makes: the graph is run on models that do not have it.
            node.op, node.target = "call_function", partial(torch.as_tensor, getattr(model, node.target))
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    if sum(not n.args for n in placeholders) != 1:
        return None
    return graph if images is None or same_forward(model, graph, images, _Shapes) else None


def _leaves_its_inputs_alone(node: fx.Node) -> bool:
    """Whether a call writes into none of its arguments. One that does, `y.add_(z)`, gives way to the one that does not
    where there is one, and what reads its first argument afterwards reads its result instead.
    """
    name, twin = str(getattr(node.target, "__name__", node.target)), None
    # `&` is operator.and_, which writes into nothing.
    operates = name.endswith("__") or getattr(node.target, "__module__", "") == operator.add.__module__
    if node.op not in ("call_method", "call_function") or operates:
        return True
    if node.kwargs.get("inplace"):
        twin, node.kwargs = node.target, {**node.kwargs, "inplace": False}
    elif node.op == "call_method" and name.endswith("_"):
        twin = name[:-1] if callable(getattr(Tensor, name[:-1], None)) else None
    elif name.endswith("_"):
        twin = getattr(torch, name[:-1], getattr(F, name[:-1], None))
    elif "out" not in node.kwargs:
        return True
    written = node.args[0] if node.args else None
    if twin is None or not isinstance(written, fx.Node) or written.op == "get_attr":
        return False
    node.target = twin
    written.replace_all_uses_with(node, lambda reader: reader > node)
    return True


def _normalise(node: fx.Node) -> None:
    """One spelling for what may be written in several: `add(x, other=y)`, `layer(input=x)`."""
    keywords = dict(node.kwargs)
    if node.op == "call_module" and not node.args and list(keywords) in (["input"], ["x"]):
        node.args, node.kwargs = (keywords.popitem()[1],), {}
    if node.target in (torch.add, "add"):
        first = [keywords.pop("input")] if not node.args and "input" in keywords else []
        other = [keywords.pop("other")] if "other" in keywords else []
        if keywords.get("alpha", 1) == 1:
            keywords.pop("alpha", None)
        node.args, node.kwargs = (*node.args, *first, *other), keywords


class _Shapes(fx.Interpreter):
    """Runs a graph and writes each value's shape to its node."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
        return value


def same_forward(model: nn.Module, graph: fx.Graph, images: Any, runner: type[fx.Interpreter] = fx.Interpreter) -> bool:
    """Whether a graph, perhaps of a wider copy, computes what the model computes."""
    with torch.no_grad():
        try:
            wanted, got = list(tensors(model(images.clone()))), list(tensors(runner(model, graph=graph).run(images)))
        # What was traced may not run on other images.
        except Exception:  # noqa: BLE001
            return False
    return len(wanted) == len(got) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(wanted, got, strict=True)
    )


def without_inplace(model: nn.Module) -> nn.Module:
    """The model itself, its activations set to leave their inputs alone."""
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return model


def overwrites_what_is_read(model: nn.Module, batch: Any) -> bool:
    """Whether in-place activations change values that other layers read: without them the model computes another thing.

    model: in eval mode.
    """
    if not any(getattr(module, "inplace", False) is True for module in model.modules()):
        return False
    images = batch[:2] if isinstance(batch, Tensor) else batch
    with torch.no_grad():
        pairs = zip(
            tensors(call(model, images)), tensors(call(without_inplace(light_copy(model)), images)), strict=False
        )
        return any(a.shape != b.shape or not torch.allclose(a, b, 1e-3, 1e-4, equal_nan=True) for a, b in pairs)


def call_counts(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> Counter[int]:
    """How often each module is called, by its identity."""
    return Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")


def find_places(model: nn.Module, graph: fx.Graph) -> dict[str, Place]:
    """Per path of a layer that runs once, its place; in the order of execution."""
    modules = dict(model.named_modules(remove_duplicate=False))
    calls, places = call_counts(graph, modules), {}
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    owners.update(id(_attribute(model, node.target)) for node in graph.nodes if node.op == "get_attr")
    for node in graph.nodes:
        if node.op == "call_module":
            own = modules[str(node.target)]._parameters.values()
            node.meta["tied"] = any(owners[id(p)] > 1 for p in own if p is not None)
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1:
            continue
        module = modules[str(node.target)]
        if isinstance(module, LAYERS) and calls[id(module)] == 1:
            places[str(node.target)] = _place(node, modules, calls)
    return _one_claim_per_sum(places)


def _one_claim_per_sum(places: dict[str, Place]) -> dict[str, Place]:
    """Of two layers that end in the same sum the one with more behind it makes up for the other, which aims at
    its own value.
    """
    depth = {
        path: len(ancestors([place.out]) - ancestors([place.shortcut]))
        for path, place in places.items()
        if place.shortcut
    }
    best: dict[fx.Node, str] = {}
    for path in depth:
        total = places[path].out
        if total not in best or depth[path] > depth[best[total]]:
            best[total] = path
    resolved = {}
    for path, place in places.items():
        if place.shortcut is not None and best[place.out] != path:
            own = next(n for n in place.out.all_input_nodes if n is not place.shortcut)
            place = replace(place, out=own, shortcut=None, relu=False)
        resolved[path] = place
    return resolved


def _place(node: fx.Node, modules: dict[str, nn.Module], calls: dict[int, int]) -> Place:
    norm, out = None, node
    reader = _sole_reader(node)
    if reader is not None and reader.op == "call_module":
        module = modules[str(reader.target)]
        own = is_fitted_norm(module) and calls[id(module)] == 1 and not reader.meta["tied"]
        if own and is_over_channels(modules[str(node.target)], node.meta.get("shape")):
            norm, out = str(reader.target), reader
    shortcut = None
    total = _sole_reader(out)
    if total is not None and is_add(total):
        others = [a for a in total.args if a is not out]
        # A context that is broadcast over the positions, or a parameter, is not a value to aim past.
        if len(others) == 1 and isinstance(others[0], fx.Node) and _same_shape(out, others[0], total):
            shortcut, out = others[0], total
    last = _sole_reader(out)
    relu = last is not None and is_relu(last, modules)
    return Place(str(node.target), norm, node.args[0], out, shortcut, relu, node, node.meta["tied"])


def is_batch_norm(module: nn.Module | None) -> bool:
    """Whether a module is a BatchNorm and nothing else: timm's has an activation inside, which may do nothing."""
    if not isinstance(module, _BatchNorm):
        return False
    kind, inside = type(module), list(module.children())
    idle = kind.__module__.startswith("timm.") and bool(inside) and all(type(m) is nn.Identity for m in inside)
    return idle or kind.forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def is_fitted_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm whose statistics and weights a fit can set."""
    return is_batch_norm(module) and bool(module.track_running_stats and module.affine)


def is_over_channels(layer: nn.Module, shape: Sequence[int] | None) -> bool:
    """Whether a layer's outputs, of a shape if that is known, have their channels where a BatchNorm looks for them."""
    return not isinstance(layer, nn.Linear) or len(shape or ()) <= 2


def _attribute(model: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(model.get_submodule(owner), name)


def _same_shape(*nodes: fx.Node) -> bool:
    """Whether values have one shape, as far as the graph was run."""
    shapes = {node.meta.get("shape") for node in nodes}
    return len(shapes) == 1 and not any(node.op == "get_attr" for node in nodes)


def _sole_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node is a ReLU, as a module, a function or a method."""
    return (
        (node.op == "call_module" and isinstance(modules[str(node.target)], nn.ReLU | nn.ReLU6))
        or (node.op == "call_function" and node.target in RELUS)
        or (node.op == "call_method" and node.target == "relu")
    )


def is_add(node: fx.Node) -> bool:
    """Whether a node is the sum of two values."""
    function = node.op == "call_function" and node.target in ADDS
    found = function or (node.op == "call_method" and node.target == "add")
    return found and len(node.args) == 2 and not node.kwargs


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """All nodes that some nodes are computed from, themselves included."""
    return _reached(nodes, lambda node: node.all_input_nodes)


def descendants(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """All nodes computed from some nodes, themselves included."""
    return _reached(nodes, lambda node: node.users)


def _reached(nodes: Iterable[fx.Node], nexts: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(nexts(node))
    return found


def fit_order(places: dict[str, Place], changed: Iterable[str]) -> list[str]:
    """Layers downstream of a change (the changed ones included), each after all that its input and its shortcut
    need.
    """
    starts = set(changed)
    if any(place.node is None for place in places.values()):
        paths = list(places)
        return paths[min((paths.index(path) for path in starts if path in places), default=len(paths)) :]
    nodes = {place.node: path for path, place in places.items()}
    order: list[str] = []
    positions = {n: i for i, n in enumerate(next(iter(places.values())).node.graph.nodes)} if places else {}  # type: ignore[union-attr]
    # A layer called several times has no place, but what it changes is made up for behind it.
    behind = descendants(n for n in positions if n.op == "call_module" and str(n.target) in starts)
    affected = {path for path, place in places.items() if place.node in behind}

    def visit(path: str) -> None:
        place = places[path]
        needed = [place.source] + ([place.shortcut] if place.shortcut is not None else [])
        for node in sorted(ancestors(n for n in needed if isinstance(n, fx.Node)), key=positions.__getitem__):
            if node in nodes and nodes[node] not in order and nodes[node] in affected and nodes[node] != path:
                visit(nodes[node])
        if path not in order:
            order.append(path)

    for path in places:
        if path in affected and path not in order:
            visit(path)
    return order
