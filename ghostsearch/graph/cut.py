"""Takes channels out of a model's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ghostsearch.graph.plan import Side, WidthPlan


def cut_channels(model: nn.Module, keep: Mapping[str, Sequence[int]], plan: WidthPlan) -> None:
    """Remove in place what `keep` leaves out, each side of each layer once, with torch-pruning's own layer functions.

    Raises GhostsearchError for a group that the plan does not have or that is fixed.
    """
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox

    removals: dict[tuple[str, Side, int], set[int]] = {}
    for name, kept in keep.items():
        gone = sorted(set(range(plan.group(name).channels)) - set(kept))
        for edit in plan.edits[name] if gone else ():
            removals.setdefault((edit.path, edit.side, edit.dim), set()).update(edit.positions(gone))
    # Looked up before any cut: a grouped convolution may end with as many outputs as groups and pass for depthwise.
    layers = {path: model.get_submodule(path) for path, side, _ in removals if side != "parameter"}
    pruners = {path: PrunerBox[ops.module2type(layer)] for path, layer in layers.items()}
    for (path, side, dim), positions in removals.items():
        if side == "parameter":
            _cut_parameter(model, path, dim, positions)
            continue
        layer, pruner = layers[path], pruners[path]
        before = {name: (p.requires_grad, _format(p)) for name, p in layer.named_parameters(recurse=False)}
        with torch.no_grad():
            (pruner.prune_out_channels if side == "out" else pruner.prune_in_channels)(layer, sorted(positions))
        for name, p in layer.named_parameters(recurse=False):
            requires_grad, memory_format = before[name]
            p.data = p.data.contiguous(memory_format=memory_format)
            p.requires_grad_(requires_grad)


def _format(weight: Tensor) -> torch.memory_format:
    last = weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _cut_parameter(model: nn.Module, path: str, dim: int, gone: set[int]) -> None:
    parent, _, leaf = path.rpartition(".")
    owner = model.get_submodule(parent)
    old = getattr(owner, leaf)
    kept = torch.tensor([i for i in range(old.shape[dim]) if i not in gone], device=old.device)
    setattr(owner, leaf, nn.Parameter(old.detach().index_select(dim, kept), old.requires_grad))
