"""Traces which channels are coupled (torch-pruning's dependency graph) and writes it down as edits of layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from math import lcm
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from ghostsearch.errors import in_a_line
from ghostsearch.graph.capture import call, copied, meta_copy, moved, output_channels
from ghostsearch.graph.plan import OUTPUT, Edit, Side, WidthPlan
from ghostsearch.space.architecture import Group
from ghostsearch.space.costs import passes_channels

MOST_PAIRS = 400_000
"""Positions one group may reach before it is given up; the widest networks need a third of it."""
TANGLED = "its channels reach too many others to trace"
MOST_TANGLED = 1
"""Groups given up before the whole network is."""
UNTRACED = "channel widths cannot be traced through this model ({}); convolutions can still be replaced"


def trace_plan(model: nn.Module, example: Any) -> WidthPlan:
    """The coupling groups of a model as the dependency graph sees them, not yet checked.

    Traced on a copy without data where that works. What cannot be traced gets an empty plan whose note says why.
    """
    trouble = ""
    has_data = not any(p.is_meta for p in model.parameters())
    for device in ("meta", "cpu") if has_data else ("meta",):
        replica = meta_copy(model) if device == "meta" else copied(model).to("cpu")
        replica.eval().requires_grad_(True)
        try:
            return _plan(replica, _dependency_graph(replica, moved(example, device)))
        except RecursionError:
            trouble = "the network is too entangled"
            break
        # torch-pruning raises whatever its walk runs into; the model stays usable without widths.
        except Exception as error:  # noqa: BLE001
            trouble = in_a_line(error, 120)
    return WidthPlan(note=UNTRACED.format(f"torch-pruning: {trouble}"))


def _dependency_graph(model: nn.Module, example: Any) -> Any:
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    with warnings.catch_warnings(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return graph.build_dependency(model, example, forward_fn=call, verbose=False)


def _plan(model: nn.Module, graph: Any) -> WidthPlan:
    names = {id(module): path for path, module in model.named_modules()}
    names |= {id(parameter): path for path, parameter in model.named_parameters()}
    owners = _owner_counts(model)
    groups, edits, tangled = [], {}, 0
    seen: set[str] = set()
    for path, root in _producers(model, graph):
        if path in seen:
            continue
        channels = output_channels(root)
        coupled, trouble = _coupled(graph, root, channels)
        tangled += trouble == TANGLED
        if tangled > MOST_TANGLED:
            raise RecursionError(path)
        found, fixed = _edits(graph, coupled, names)
        members = tuple(e.path for e in found if e.side == "out" and _is_producer(model.get_submodule(e.path)))
        fixed = trouble or fixed or _partial(model, found, channels) or _untouchable(model, found, owners)
        divisions = _divisions(model, found, channels)
        if not fixed and channels % divisions:
            fixed = "grouped convolutions on it divide its channels differently"
        elif not fixed and divisions == channels > 1:
            fixed = "the groups of a layer that reads or makes them hold one channel each, which none can lose"
        seen.update(members)
        groups.append(Group(path, channels, members, fixed, divisions))
        edits[path] = tuple(found)
    note = "" if groups else UNTRACED.format("no layer's channels reach another layer")
    return WidthPlan(tuple(groups), edits, note)


Coupled = dict[tuple[Any, Any], set[Any]]


def _coupled(graph: Any, root: nn.Module, channels: int) -> tuple[Coupled, str]:
    """(node, pruning function) -> {(position, root channel)} that a layer's outputs reach, and why not all.

    The closure of the graph's dependencies as its own get_pruning_group takes it, but each pair goes on only once and
    there is a limit: attention's reshapes make the original's lists grow without bound.
    """
    from torch_pruning._helpers import _HybridIndex

    start = graph.module2node[root]
    function = graph.get_pruner_of_module(root).prune_out_channels
    reached: Coupled = {(start, function): {_HybridIndex(i, i) for i in range(channels)}}
    stack = [(start, function, list(reached[start, function]))]
    total = 0
    while stack:
        node, function, indices = stack.pop()
        for dependency in node.dependencies:
            if not dependency.is_triggered_by(function):
                continue
            mapped = indices
            for mapping in dependency.index_mapping:
                mapped = mapping(mapped) if mapping is not None else mapped
            known = reached.setdefault((dependency.target, dependency.handler), set())
            fresh = [i for i in mapped if i not in known]
            if fresh:
                known.update(fresh)
                total += len(fresh)
                if total > MOST_PAIRS:
                    return reached, TANGLED
                if max(i.idx for i in fresh) >= _room(graph, dependency):
                    return reached, "a reshape on its way cannot be followed"
                stack.append((dependency.target, dependency.handler, fresh))
    return {key: pairs for key, pairs in reached.items() if pairs}, ""


def _room(graph: Any, dependency: Any) -> float:
    """Channels of the layer a dependency leads to, infinite where it is no layer: positions beyond are a mistake."""
    pruner = graph.get_pruner_of_module(dependency.target.module)
    # One pruner serves all bare parameters: it is told the dimension first, as the graph itself does.
    pruner.pruning_dim = dependency.target.pruning_dim
    made = graph.is_out_channel_pruning_fn(dependency.handler)
    channels = (pruner.get_out_channels if made else pruner.get_in_channels)(dependency.target.module)
    return float("inf") if channels is None else float(channels)


def _producers(model: nn.Module, graph: Any) -> Iterator[tuple[str, Any]]:
    """Layers that make channels, convolutions first, since a group is named after its first convolution."""
    layers = [(p, m) for p, m in model.named_modules() if m in graph.module2node and _is_producer(m)]
    yield from sorted(layers, key=lambda item: isinstance(item[1], nn.Linear))


def _is_producer(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and not passes_channels(layer))


def _edits(graph: Any, coupled: Coupled, names: dict[int, str]) -> tuple[list[Edit], str]:
    """The edits of a group, and why it is fixed when it reaches the model's output."""
    from torch_pruning import ops

    found, fixed = [], ""
    for (node, function), indices in coupled.items():
        module = node.module
        pairs = np.array(sorted((i.root_idx, i.idx) for i in indices), dtype=np.int64).reshape(-1, 2)
        if isinstance(module, nn.Parameter):
            found.append(Edit(names[id(module)], "parameter", pairs, node.pruning_dim % module.dim()))
        elif id(module) in names and node.type != ops.OPTYPE.ELEMENTWISE:
            side: Side = "out" if graph.is_out_channel_pruning_fn(function) else "in"
            found.append(Edit(names[id(module)], side, pairs))
            if side == "out" and not node.outputs:
                fixed = OUTPUT
        elif isinstance(module, ops._OutputOp):
            fixed = OUTPUT
    return found, fixed


def _partial(model: nn.Module, edits: list[Edit], channels: int) -> str:
    """Why a group whose channels are only part of some layer's cannot be cut on its own; empty when none is."""
    for edit in edits:
        if edit.side == "parameter":
            continue
        layer = model.get_submodule(edit.path)
        if edit.side == "out" and _is_producer(layer):
            have, reached = output_channels(layer), len(np.unique(edit.pairs[:, 1]))
            if reached == have and len(edit.pairs) > have:
                return f"the channels of {edit.path} are coupled to one another (split and joined again?)"
            if not reached == have == channels:
                return f"of the {have} channels of {edit.path} {reached} are coupled to it (padded, sliced or joined?)"
        grouped = isinstance(layer, _ConvNd) and layer.groups > 1 and edit.side == "in"
        if grouped and len(edit.pairs) != layer.in_channels:
            return f"the grouped convolution {edit.path} reads it together with other channels"
        if _part(edit, channels) is None:
            return f"{edit.path} reads a part of it that no equal division gives"
    return ""


def _part(edit: Edit, channels: int) -> int | None:
    """How many equal, consecutive parts of a group's channels there are if each is like the one that a layer reads."""
    read = np.unique(edit.pairs[:, 0])
    count = len(read)
    whole = count and channels % count == 0 and read[0] % count == 0 and read[-1] - read[0] == count - 1
    return channels // count if whole else None


def _untouchable(model: nn.Module, edits: list[Edit], owners: dict[int, int]) -> str:
    """Why a layer of the group must keep its weights' shape; empty when none must."""
    for edit in edits:
        if edit.side == "parameter":
            continue
        layer = model.get_submodule(edit.path)
        if isinstance(layer, torch.jit.ScriptModule):
            return f"{edit.path} is inside TorchScript"
        if isinstance(layer, nn.MultiheadAttention | nn.LSTM | nn.Embedding):
            return f"{edit.path} is a {type(layer).__name__}"
        if is_parametrized(layer) or (hasattr(layer, "weight") and "weight" not in layer._parameters):
            return f"the weight of {edit.path} is computed (weight_norm, spectral_norm, a mask)"
        if any(owners.get(id(p), 1) > 1 for p in layer.parameters(recurse=False)):
            return f"{edit.path} shares its parameters with another layer"
    return ""


def _owner_counts(model: nn.Module) -> dict[int, int]:
    counts: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    return counts


def _divisions(model: nn.Module, edits: list[Edit], channels: int) -> int:
    """In how many runs the same positions must stay: those of grouped layers, and parts that layers read apart."""
    runs = [1]
    for edit in edits:
        runs.append(_part(edit, channels) or 1)
        layer = None if edit.side == "parameter" else model.get_submodule(edit.path)
        if isinstance(layer, _ConvNd) and not passes_channels(layer):
            runs.append(layer.groups)
        elif isinstance(layer, nn.GroupNorm):
            runs.append(layer.num_groups)
    return lcm(*runs)
