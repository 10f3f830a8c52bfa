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

from ghostsearch.convert.width import OUTPUT, Edit, Side, WidthPlan
from ghostsearch.space import Group
from ghostsearch.tracing import call, copied, meta_copy, moved

UNTRACED = "channel widths cannot be traced through this model ({}); convolutions can still be replaced"


def trace_plan(model: nn.Module, example: Any) -> WidthPlan:
    """The coupling groups of a model as the dependency graph sees them, not yet checked.

    Traced on a copy without data where that works. A model that cannot be traced gets an empty plan whose note says why.
    """
    trouble = ""
    for replica, device in ((meta_copy(model), "meta"), (None, "cpu")):
        traced = replica if replica is not None else copied(model).to("cpu")
        traced.eval().requires_grad_(True)
        try:
            graph = _dependency_graph(traced, moved(example, device))
            return _plan(traced, graph)
        # torch-pruning raises whatever its walk runs into; the model stays usable without widths.
        except Exception as error:  # noqa: BLE001
            trouble = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return WidthPlan(note=UNTRACED.format(f"torch-pruning: {trouble}"))


def _dependency_graph(model: nn.Module, example: Any) -> Any:
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    with warnings.catch_warnings(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return graph.build_dependency(model, example, forward_fn=call, verbose=False)


def _plan(model: nn.Module, graph: Any) -> WidthPlan:
    names = {id(module): path for path, module in model.named_modules()}
    parameters = {id(p): path for path, p in model.named_parameters()}
    owners = _owner_counts(model)
    groups, edits, seen = [], {}, set()
    for path, root in _producers(model, graph):
        if path in seen:
            continue
        traced = graph.get_pruning_group(
            root, graph.get_pruner_of_module(root).prune_out_channels, range(_outputs(root))
        )
        found, fixed = _edits(graph, traced, names, parameters)
        members = tuple(
            e.path for e in found if e.side == "out" and _is_producer(model.get_submodule(e.path))
        )
        fixed = fixed or _partial(model, found, _outputs(root)) or _untouchable(model, found, owners)
        divisions = _divisions(model, found)
        if not fixed and _outputs(root) % divisions:
            fixed = "grouped convolutions on it divide its channels differently"
        seen.update(members)
        groups.append(Group(path, _outputs(root), members, fixed, divisions))
        edits[path] = tuple(found)
    note = "" if groups else UNTRACED.format("no layer's channels reach another layer")
    return WidthPlan(tuple(groups), edits, note)


def _producers(model: nn.Module, graph: Any) -> Iterator[tuple[str, Any]]:
    """Layers that make channels, convolutions first, since a group is named after its first convolution."""
    layers = [(p, m) for p, m in model.named_modules() if m in graph.module2node and _is_producer(m)]
    yield from sorted(layers, key=lambda item: isinstance(item[1], nn.Linear))


def _is_producer(layer: nn.Module) -> bool:
    depthwise = isinstance(layer, _ConvNd) and layer.groups == layer.out_channels and layer.out_channels > 1
    return isinstance(layer, _ConvNd | nn.Linear) and not depthwise


def _outputs(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _edits(
    graph: Any, traced: Any, names: dict[int, str], parameters: dict[int, str]
) -> tuple[list[Edit], str]:
    """The edits of a traced group, and why it is fixed when it reaches the model's output or an unknown layer."""
    from torch_pruning import ops

    found, fixed = [], ""
    for item in traced:
        node, module = item.dep.target, item.dep.target.module
        pairs = np.array(sorted(zip(item.root_idxs, item.idxs, strict=True)), dtype=np.int64).reshape(-1, 2)
        if isinstance(module, nn.Parameter):
            found.append(Edit(parameters[id(module)], "parameter", pairs, node.pruning_dim % module.dim()))
        elif id(module) in names and node.type != ops.OPTYPE.ELEMENTWISE:
            side: Side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
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
            whole = (
                len(edit.pairs) == channels == _outputs(layer)
                and len(np.unique(edit.pairs[:, 1])) == channels
            )
            if not whole:
                have = _outputs(layer)
                return f"of the {have} channels of {edit.path} only some are coupled to it (a padded or sliced shortcut?)"
        if (
            isinstance(layer, _ConvNd)
            and layer.groups > 1
            and edit.side == "in"
            and len(edit.pairs) != layer.in_channels
        ):
            return f"the grouped convolution {edit.path} reads it together with other channels"
    return ""


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


def _divisions(model: nn.Module, edits: list[Edit]) -> int:
    runs = [1]
    for edit in edits:
        layer = None if edit.side == "parameter" else model.get_submodule(edit.path)
        if isinstance(layer, _ConvNd) and not (layer.groups == layer.out_channels and layer.groups > 1):
            runs.append(layer.groups)
        elif isinstance(layer, nn.GroupNorm):
            runs.append(layer.num_groups)
    return lcm(*runs)
