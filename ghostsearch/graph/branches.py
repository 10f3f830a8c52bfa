"""Residual branches that may be dropped: found in the graph by shape, not by class name.

A branch f stands in x + f(x), where f(x) has the shape of x, nothing inside f is read elsewhere, and every layer in it
may give way to the identity, so that a per-channel affine of x can take the place of f.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torchvision.ops import stochastic_depth

from ghostsearch.graph.flow import ELEMENTWISE, ancestors, is_add, is_elementwise_call
from ghostsearch.space.architecture import Branch

GATES = (nn.Sigmoid, nn.Hardsigmoid)
PASSED = (_ConvNd, _NormBase, nn.GroupNorm, nn.Linear, *ELEMENTWISE)
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
    calls: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[id(modules[str(node.target)])] = calls.get(id(modules[str(node.target)]), 0) + 1
    made = []
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
    for shortcut, end in ((first, second), (second, first)):
        source = _before_identities(shortcut, modules)
        if source.meta.get("shape") is None or source.meta.get("shape") != end.meta.get("shape"):
            continue
        above, behind = ancestors([end]), _descendants(source)
        inside = (above & behind) - {source}
        closed = all(n in inside or n is source or n.op == "get_attr" for m in inside for n in m.all_input_nodes)
        private = all(user in inside for m in inside - {end} for user in m.users) and set(end.users) == {total}
        if inside and closed and private:
            return _Found(source, end, frozenset(inside))
    return None


def _before_identities(node: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node:
    """The value that reaches a node through identities: timm's blocks have one in the place of a downsampling."""
    while node.op == "call_module" and type(modules[str(node.target)]) is nn.Identity:
        node = node.all_input_nodes[0]
    return node


def _descendants(node: fx.Node) -> set[fx.Node]:
    found, stack = set[fx.Node](), [node]
    while stack:
        for user in stack.pop().users:
            if user not in found:
                found.add(user)
                stack.append(user)
    return found


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
            elif not isinstance(module, ELEMENTWISE):
                # A layer that other places share stays; an activation without weights may.
                return None
        elif not (node in on_gates or _is_product(node) or _is_dropout(node) or is_elementwise_call(node)):
            return None
    ends = [n for n in order if n.op == "call_module" and isinstance(modules[str(n.target)], _ConvNd)]
    last = next((n for n in reversed(ends) if n not in on_gates), None)
    if last is None or not _only_norms_behind(last, found.end, modules):
        return None
    path = str(last.target)
    behind = paths[paths.index(path) + 1 :]
    norm = next((p for p in behind if isinstance(modules[p], _BatchNorm)), "")
    channels = int(found.source.meta["shape"][1])
    if getattr(modules[str(last.target)], "out_channels", None) != channels:
        return None
    return Branch(path, tuple(paths[: paths.index(path)]), tuple(gates), norm)


def _gates(
    order: list[fx.Node], found: _Found, modules: Mapping[str, nn.Module]
) -> tuple[list[str] | None, set[fx.Node]]:
    """Paths of the activations that end squeeze-excite gates, and the nodes that only gates read.

    None for a product of two values of the branch that has no such activation.
    """
    gates: list[str] = []
    on_gates: set[fx.Node] = set()
    for node in order:
        if not _is_product(node) or any(n.op == "get_attr" for n in node.all_input_nodes):
            continue
        ends = [n for n in node.all_input_nodes if n.op == "call_module" and isinstance(modules[str(n.target)], GATES)]
        if len(ends) != 1:
            return None, set()
        gates.append(str(ends[0].target))
        other = [n for n in node.all_input_nodes if n is not ends[0]]
        on_gates |= (ancestors(ends) - ancestors(other)) & found.inside
    return gates, on_gates


def _is_dropout(node: fx.Node) -> bool:
    """Whether a node is torchvision's stochastic depth, which does nothing in evaluation."""
    return node.target is stochastic_depth


def _is_product(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", node.target) in ("mul", "imul", "mul_") and len(node.all_input_nodes) == 2


def _only_norms_behind(last: fx.Node, end: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a convolution's output goes to the sum through a norm or dropout at most, so that it can be fitted."""
    node = last
    while node is not end:
        if len(node.users) != 1:
            return False
        node = next(iter(node.users))
        harmless = node.op == "call_module" and isinstance(
            modules[str(node.target)], _NormBase | nn.Identity | nn.modules.dropout._DropoutNd
        )
        if not harmless and not _is_dropout(node):
            return False
    return True
