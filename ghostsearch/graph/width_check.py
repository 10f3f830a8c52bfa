"""Checks traced groups by really cutting a copy: the cut net must equal the whole one with those channels at zero."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ghostsearch.errors import text_of
from ghostsearch.graph.capture import call, copied, is_image_list, light_copy, like, moved, tensors
from ghostsearch.graph.cut import cut_channels
from ghostsearch.graph.plan import OUTPUT, Edit, WidthPlan, best_channels

TOLERANCE = 1e-4
"""Largest difference, relative to the largest output; float32 stays a hundred times below it, a wrong channel above."""
NO_DATA = "the model has no data (meta device), so a cut cannot be checked"
MIXING = (nn.LayerNorm, nn.GroupNorm, _InstanceNorm)
"""Norms whose statistics change with the number of channels: both nets are compared with these taken out."""


def checked_plan(model: nn.Module, plan: WidthPlan, example: Any) -> WidthPlan:
    """The plan with every group fixed that does not survive being cut; the model is left untouched."""
    if any(p.is_meta for p in model.parameters()):
        groups = tuple(replace(g, fixed=g.fixed or NO_DATA) for g in plan.groups)
        return replace(plan, groups=groups, note=f"no width can change: {NO_DATA}")
    open_groups = [g.name for g in plan.groups if not g.fixed]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe, example = _probe(model, example)
        cuts = _Cuts(probe, plan, example)
        if open_groups:
            cuts.accepted([], open_groups)
    groups = tuple(replace(g, fixed=g.fixed or cuts.failures.get(g.name, "")) for g in plan.groups)
    stuck = [g.name for g in groups if g.fixed and g.fixed != OUTPUT]
    if stuck:
        shown = ", ".join(stuck[:3]) + (", …" if len(stuck) > 3 else "")
        note = f"{len(stuck)} of {len(groups)} groups of channels cannot change width ({shown}); each says why"
        return replace(plan, groups=groups, note=note)
    return replace(plan, groups=groups)


@dataclass
class _Cuts:
    """Cuts of a probe to half of the channels of some groups, each judged beside the probe with those at zero."""

    probe: nn.Module
    plan: WidthPlan
    example: Any
    failures: dict[str, str] = field(default_factory=dict)
    """Why a group cannot be cut."""

    @cached_property
    def trains(self) -> bool:
        """Whether the whole probe runs in training mode."""
        return _runs_in_training(self.probe, self.example)

    def accepted(self, sure: list[str], names: list[str]) -> list[str]:
        """`sure` and those of `names` that can be cut together with them; the others go to `failures`. Bisects."""
        trouble = self.difference(sure + names)
        if not trouble:
            return sure + names
        if len(names) == 1:
            self.failures[names[0]] = trouble
            return sure
        half = len(names) // 2
        return self.accepted(self.accepted(sure, names[:half]), names[half:])

    def difference(self, names: Sequence[str]) -> str:
        """Why cutting half of each group's channels fails on the probe; empty when the result is exact."""
        keep = {}
        for name in names:
            group = self.plan.group(name)
            run = group.channels // group.divisions
            keep[name] = best_channels(torch.rand(group.channels), max(1, run // 2) * group.divisions, group.divisions)
        narrow, zeroed = light_copy(self.probe), copied(self.probe)
        try:
            for name, kept in keep.items():
                gone = sorted(set(range(self.plan.group(name).channels)) - set(kept))
                for edit in self.plan.edits[name]:
                    _zero(zeroed, edit, gone)
            cut_channels(narrow, keep, self.plan)
            found, wanted = _outputs(narrow, self.example), _outputs(zeroed, self.example)
        # A wrong coupling shows as any error of the cut net's forward.
        except Exception as error:  # noqa: BLE001
            return f"the net fails when it is cut ({text_of(error, 100)})"
        for a, b in zip(found, wanted, strict=True):
            if a.shape != b.shape:
                return f"cutting it changes the output's shape from {tuple(b.shape)} to {tuple(a.shape)}"
            # Some outputs may be infinite by design, as masked ones.
            fine = b.isfinite()
            if b.numel() and not fine.any():
                return "the net's outputs on noise overflow, so that a cut cannot be checked"
            largest = float(b[fine].abs().max()) if b.numel() else 0.0
            if not torch.allclose(a, b, rtol=0, atol=TOLERANCE * largest, equal_nan=True):
                return "its channels are coupled in a way that the dependency graph gets wrong"
        if not _runs_in_training(narrow, self.example) and self.trains:
            return "what runs in training alone, as an auxiliary head, reads its channels"
        return ""


def _runs_in_training(model: nn.Module, example: Any) -> bool:
    try:
        with torch.no_grad():
            call(copied(model).train(), example)
    # A wrong coupling shows as any error; a detector wants targets.
    except Exception:  # noqa: BLE001
        return False
    return True


def _outputs(model: nn.Module, example: Any) -> list[Tensor]:
    with torch.no_grad():
        return [t for t in tensors(call(model, example)) if t.is_floating_point()]


def _zero(model: nn.Module, edit: Edit, channels: Sequence[int]) -> None:
    """Silence channels in one layer, with everything that reads or makes them."""
    at = torch.tensor(edit.positions(channels), dtype=torch.long)
    with torch.no_grad():
        if edit.side == "parameter":
            model.get_parameter(edit.path).index_fill_(edit.dim, at, 0)
            return
        layer: Any = model.get_submodule(edit.path)
        transposed = isinstance(layer, _ConvNd) and layer.transposed
        if edit.side == "out":
            for weight in layer.parameters(recurse=False):
                # A transposed convolution's outputs lie along the second axis of its weight.
                if transposed and weight is layer.weight:
                    weight[:, at] = 0
                elif weight.dim() > 0 and weight.shape[0] > int(at.max()):
                    weight[at] = 0
        elif transposed:
            layer.weight[at] = 0
        elif isinstance(layer, _ConvNd) and layer.groups > 1:
            rows, columns = layer.out_channels // layer.groups, layer.in_channels // layer.groups
            for position in at.tolist():
                run = position // columns
                layer.weight[run * rows : (run + 1) * rows, position % columns] = 0
        else:
            layer.weight[:, at] = 0


def _probe(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """A float copy on the CPU whose every weight matters, and random input: zeros and ones would prove nothing."""
    probe = copied(model).to("cpu").float().eval().requires_grad_(False)
    example = _noise(moved(example, "cpu"))
    norms = [m for m in probe.modules() if isinstance(m, _BatchNorm)]
    for module in probe.modules():
        for weight in module.parameters(recurse=False):
            if weight.numel() and (weight.std(correction=0) < 1e-3 or isinstance(module, _BatchNorm)):
                weight.uniform_(0.5, 1.5).mul_(torch.rand_like(weight).sub_(0.1).sign_())
        if isinstance(module, MIXING):
            module.register_forward_hook(lambda _, args, __: args[0])
    _set_statistics(probe, norms, example)
    return probe, example


def _set_statistics(probe: nn.Module, norms: list[Any], example: Any) -> None:
    """BatchNorm statistics of the noise, so that no layer's signal dies out before the output."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    # One value per channel (a 1x1 map of one image) has no variance: then the statistics stay as they came.
    with contextlib.suppress(ValueError):
        _outputs(probe, example)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _noise(example: Any) -> Any:
    if isinstance(example, Tensor):
        if not example.is_floating_point():
            return example
        shape = (max(2, example.shape[0]), *example.shape[1:]) if example.dim() > 2 else example.shape
        return torch.randn(shape, dtype=torch.float32)
    if isinstance(example, dict):
        return {key: _noise(item) for key, item in example.items()}
    if is_image_list(example):
        return [torch.rand(x.shape, dtype=torch.float32) for x in example]
    if isinstance(example, list | tuple):
        return like(example, [_noise(item) for item in example])
    return example
