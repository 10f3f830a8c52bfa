"""Residual branches that may be dropped: found in the graph by shape, not by class name.

A branch f stands in x + f(x), where f(x) has the shape of x, nothing inside f is read elsewhere, and every layer in it
may give way to the identity, so that a per-channel affine of x can take the place of f.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.padding import _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd
from torchvision.ops import stochastic_depth

from ghostsearch.graph.flow import ancestors, call_counts, descendants, is_add, is_batch_norm
from ghostsearch.graph.reorder import ELEMENTWISE, is_elementwise_call
from ghostsearch.space.architecture import Branch

GATES = (nn.Sigmoid, nn.Hardsigmoid)
GATE_CALLS = (torch.sigmoid, F.sigmoid, F.hardsigmoid, "sigmoid")
PADDINGS = (_ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd)
PASSED = (_ConvNd, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.Linear, *PADDINGS, *ELEMENTWISE)
"""Layers that give way to the identity when their branch is dropped."""


@dataclass(frozen=True)
class _Found:
    """The nodes of a branch: its input x, its end f(x), and what lies between."""

    source: fx.Node
    end: fx.Node
    inside: frozenset[fx.Node]


def find_branches(model: nn.Module, graph: fx.Graph) -> tuple[Branch, ...]:
    """The branches of a traced model that may be dropped, in the order of computation.

    graph: traced with example images, so that its nodes know their shapes.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    calls, made = call_counts(graph, modules), []
    for node in graph.nodes:
        found = _branch_of(node, modules) if is_add(node) else None
        branch = _described(found, modules, calls) if found else None
        if branch:
            made.append(branch)
    return tuple(made)


def _branch_of(total: fx.Node, modules: Mapping[str, nn.Module]) -> _Found | None:
    """What is added to an earlier value in a sum, where it is made of that value alone."""
    first, second = total.args
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node) or first is second:
        return None
    pairs = [(x, end) for short, end in ((first, second), (second, first)) for x in _with_identities(short, modules)]
    for source, end in pairs:
        if source.meta.get("shape") is None or source.meta.get("shape") != end.meta.get("shape"):
            continue
        inside = (ancestors([end]) & descendants([source])) - {source}
        closed = all(n in inside or n is source or _is_parameter(n) for m in inside for n in m.all_input_nodes)
        private = all(user in inside for m in inside - {end} for user in m.users) and set(end.users) == {total}
        if inside and closed and private:
            return _Found(source, end, frozenset(inside))
    return None


def _with_identities(node: fx.Node, modules: Mapping[str, nn.Module]) -> Iterator[fx.Node]:
    """A value and what it is through identities: timm's blocks have one in the place of a downsampling."""
    yield node
    while node.op == "call_module" and type(modules[str(node.target)]) is nn.Identity:
        node = node.all_input_nodes[0]
        yield node


def _described(found: _Found, modules: Mapping[str, nn.Module], calls: Mapping[int, int]) -> Branch | None:
    """The branch by its layers' paths; None when something in it cannot give way to the identity."""
    order = [n for n in found.end.graph.nodes if n in found.inside]
    gates, on_gates = _gates(order, found, modules)
    if gates is None:
        return None
    paths = []
    for node in order:
        if node.op == "call_module":
            module = modules[str(node.target)]
            own = calls[id(module)] == 1
            if own and (isinstance(module, PASSED) or node in on_gates):
                paths.append(str(node.target))
            elif not isinstance(module, ELEMENTWISE) or not _keeps_shape(node):
                # A layer that other places share stays; an activation without weights may.
                return None
        elif not (
            node in on_gates
            or _is_product(node)
            or _is_dropout(node)
            or _is_parameter(node)
            or _is_permutation(node)
            or (is_elementwise_call(node) and _keeps_shape(node))
        ):
            return None
    layers = [n for n in order if n.op == "call_module" and isinstance(modules[str(n.target)], _ConvNd | nn.Linear)]
    layers = [n for n in layers if n not in on_gates]
    if not layers or not _only_norms_behind(layers[-1], found.end, modules):
        return None
    first, last = (str(n.target) for n in (layers[0], layers[-1]))
    turned = [n for n in order if _is_permutation(n)]
    if isinstance(modules[last], _ConvNd):
        behind = paths[paths.index(last) + 1 :]
        norm = next((p for p in behind if isinstance(modules[p], _NormBase)), "")
        kept = modules[last].out_channels == int(found.source.meta["shape"][1]) and _cancel(turned)
        return Branch(last, tuple(paths[: paths.index(last)]), tuple(gates), norm) if kept else None
    # What leads to the first convolution and from there to the sum then leaves its output as it is.
    kept = isinstance(modules[first], _ConvNd) and layers[0].meta["shape"] == found.source.meta["shape"]
    if not (kept and _cancel(turned) and layers[0].all_input_nodes == [found.source]):
        return None
    return Branch(first, tuple(p for p in paths if p != first), tuple(gates), last=last)


def _keeps_shape(node: fx.Node) -> bool:
    """Whether what stays where a branch goes, as a pooling function, gives its input's shape."""
    return all(x.meta.get("shape") == node.meta.get("shape") for x in node.all_input_nodes)


def _is_permutation(node: fx.Node) -> bool:
    return node.target in ("permute", torch.permute)


def _cancel(turned: Sequence[fx.Node]) -> bool:
    """Whether permutations, one after the other, leave the dimensions as they were."""
    if not turned:
        return True
    order = list(range(len(turned[0].meta["shape"])))
    for node in turned:
        dims: Any = node.args[1:] if isinstance(node.args[1], int) else node.args[1]
        order = [order[d] for d in dims]
    return order == sorted(order)


def _gates(
    order: list[fx.Node], found: _Found, modules: Mapping[str, nn.Module]
) -> tuple[list[str] | None, set[fx.Node]]:
    """Paths of what opens squeeze-excite gates (the activation that ends one, or the layer before a function that
    does), and the nodes that only gates read.

    None for a product of two values of the branch that has no such activation.
    """
    gates: list[str] = []
    on_gates: set[fx.Node] = set()
    for node in order:
        if not _is_product(node) or _is_scaling(node):
            continue
        ends = [n for n in node.all_input_nodes if _opener(n, modules)]
        if len(ends) != 1:
            return None, set()
        opener = _opener(ends[0], modules)
        other = [n for n in node.all_input_nodes if n is not ends[0]]
        only_gate = (ancestors(ends) - ancestors(other)) & found.inside
        if opener not in only_gate:
            return None, set()
        gates.append(str(opener.target))
        on_gates |= only_gate
    return gates, on_gates


def _opener(end: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node | None:
    """The module whose replacement opens the gate that a node ends; None where it ends none."""
    if end.op == "call_module":
        return end if isinstance(modules[str(end.target)], GATES) else None
    before = end.all_input_nodes[0] if end.target in GATE_CALLS and end.op != "get_attr" else None
    weighted = before and before.op == "call_module" and isinstance(modules[str(before.target)], _ConvNd | nn.Linear)
    return before if weighted else None


def _is_dropout(node: fx.Node) -> bool:
    """Whether a node is torchvision's stochastic depth, which does nothing in evaluation."""
    return node.target is stochastic_depth


def _is_product(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", node.target) in ("mul", "imul", "mul_") and len(node.all_input_nodes) == 2


def _is_scaling(node: fx.Node) -> bool:
    """Whether a node multiplies a value by a parameter, as ConvNeXt's layer scale does."""
    return _is_product(node) and any(map(_is_parameter, node.all_input_nodes))


def _is_parameter(node: fx.Node) -> bool:
    """Whether a node is a parameter or a view of one."""
    viewed = node.op == "call_method" and node.target in ("reshape", "view", "unsqueeze")
    return node.op == "get_attr" or (viewed and all(map(_is_parameter, node.all_input_nodes)))


def _only_norms_behind(last: fx.Node, end: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a layer's output goes to the sum through one BatchNorm, dropout, scales and permutations alone: then it
    can be fitted, and nothing is left of a branch that is skipped.
    """
    node, norms = last, 0
    while node is not end:
        if len(node.users) != 1:
            return False
        node = next(iter(node.users))
        module = modules[str(node.target)] if node.op == "call_module" else None
        norms += isinstance(module, _NormBase)
        if norms > 1 or (isinstance(module, _NormBase) and not is_batch_norm(module)):
            return False
        harmless = isinstance(module, _NormBase | nn.Identity | nn.modules.dropout._DropoutNd)
        if not (harmless or _is_dropout(node) or _is_scaling(node) or _is_permutation(node)):
            return False
    return True
