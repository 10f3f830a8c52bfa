"""Cost of any architecture of a model by formula, without building it; equal to the unit to the count of the
built model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.calls import trace_calls
from ghostsearch.graph.capture import Shape, batch_size
from ghostsearch.graph.widths import width_plan
from ghostsearch.measure.cost import measure_cost
from ghostsearch.records import Cost
from ghostsearch.space.architecture import Anatomy, Architecture, SearchSpace, Site
from ghostsearch.space.choice import GONE, KEEP, WIDTH_MULTIPLE, LayerChoice
from ghostsearch.space.choice_text import parse_layer_choice, parse_width
from ghostsearch.space.costs import kept_width, passes_channels, site_macs, site_params

INSIDE, BEHIND, INSTEAD = (1, 0, 0), (1, 1, 0), (0, 1, 0)
"""Layers inside a branch, the norm between its end and the sum, and the affine of a dropped one."""
Kept = Mapping[int, np.ndarray]
"""Channels that each group keeps, by the group's number: (A,) for A architectures."""


@dataclass(frozen=True)
class Channels:
    """A number of channels as the groups decide it: `total` less `times` for every channel that a group
    loses.
    """

    total: int
    groups: tuple[tuple[int, int], ...] = ()
    """Pairs (group number, times): how often each of the group's channels is found here (a flattened map:
    often).
    """

    def at(self, lost: Kept) -> np.ndarray | int:
        """How many there are when each group has lost so many: (A,)."""
        return self.total - sum(times * lost[g] for g, times in self.groups)


@dataclass(frozen=True)
class MatrixLayer:
    """A convolution or linear layer (written as a 1-tap convolution): its cost is a product of its
    channels.
    """

    site: Site
    inputs: Channels
    outputs: Channels
    weight_bytes: int
    branch: str = ""
    """The site whose `drop` takes this layer away; empty when there is none."""

    def costs(self, options: Sequence[LayerChoice], code: np.ndarray, lost: Kept) -> np.ndarray:
        """Params, MACs and bytes under each row's choice: (3, A). The formulas run once for each distinct
        case.
        """
        n = np.broadcast_to(self.outputs.at(lost), code.shape)
        c = np.broadcast_to(self.inputs.at(lost), code.shape)
        # One number a case: sorting numbers is ten times quicker than sorting triples.
        wide, deep = self.outputs.total + 1, self.inputs.total + 1
        cases, inverse = np.unique((code * wide + n) * deep + c, return_inverse=True)
        values = [self._case(options[x // deep // wide], x // deep % wide, x % deep) for x in cases.tolist()]
        result: np.ndarray = np.array(values, dtype=np.int64).T[:, inverse]
        return result

    def _case(self, choice: LayerChoice, outputs: int, inputs: int) -> tuple[int, int, int]:
        params = site_params(self.site, choice, inputs, outputs)
        filters = self.site.filters(inputs, outputs)
        stored = (params + choice.buffers(filters)) * self.weight_bytes + 8 * choice.places(filters)
        return params, site_macs(self.site, choice, inputs, outputs), stored


@dataclass(frozen=True)
class ChannelLayer:
    """A layer whose cost is proportional to its channels: norms, depthwise convolutions, bare parameters."""

    outputs: Channels
    each: tuple[int, int, int]
    """Params, MACs and bytes of one channel."""
    branch: str = ""
    under: tuple[int, int, int] = INSIDE
    """Whether it is there where its branch is kept, dropped, skipped."""

    def share(self, fates: Mapping[str, np.ndarray]) -> np.ndarray:
        """1 for every architecture that has the layer, else 0: (A,) or ()."""
        return np.array(self.under)[fates.get(self.branch, 0)]

    def costs(self, lost: Kept) -> np.ndarray:
        """Params, MACs and bytes: (3, A), or (3, 1) when no group reaches the layer."""
        return np.array(self.each, dtype=np.int64)[:, None] * np.atleast_1d(self.outputs.at(lost))


class CostTable:
    """Formulas for one model's layers, traced once.

    example: (N, C, H, W) or any forward input. Groups of the anatomy are followed through torch-pruning's
    edits, so an anatomy without groups predicts site choices only. Peak memory is not predicted: it is None.
    """

    def __init__(
        self, model: nn.Module, example: Any, anatomy: Anatomy, *, width_multiple: int = WIDTH_MULTIPLE
    ) -> None:
        self.baseline = measure_cost(model, example)
        self.groups = {group.name: i for i, group in enumerate(anatomy.groups)}
        self.multiple = width_multiple
        self._group_list = anatomy.groups
        self._sites = {name: site.path for site in anatomy.sites for name in (site.path, *site.aliases)}
        self._matrices, self._channels = _layers(model, example, anatomy)
        self._constants = self._rest()

    def predict(self, architecture: Architecture) -> Cost:
        """Params, MACs and bytes of one architecture; raises GhostsearchError for an unknown site or
        group.
        """
        sites = {path: (str(choice),) for path, choice in architecture.sites.items()}
        groups = {name: (str(width),) for name, width in architecture.groups.items()}
        space = SearchSpace(sites, groups, self.multiple)
        params, macs, size = self.predict_codes(space, np.zeros((1, len(sites) + len(groups)), dtype=np.int64))
        return Cost(params=int(params[0]), macs=int(macs[0]), size_bytes=int(size[0]))

    def predict_codes(self, space: SearchSpace, codes: np.ndarray) -> np.ndarray:
        """Params, MACs and bytes, each (A,), stacked to (3, A).

        codes: (A, sites + groups), the number of the choice that each site, then each group, of the space
        takes. Raises GhostsearchError for a site or group that the model does not have.
        """
        columns = self._columns(space)
        lost, fates = self.lost_channels(space, codes), _fates(space, codes)
        totals = np.repeat(np.array(self._constants, dtype=np.int64)[:, None], len(codes), axis=1)
        for layer in self._matrices:
            name, j = columns.get(layer.site.path, ("", -1))
            options = [parse_layer_choice(text) for text in space.sites[name]] if name else [KEEP]
            code = codes[:, j] if name else np.zeros(len(codes), dtype=np.int64)
            totals += layer.costs(options, code, lost) * np.array(INSIDE)[fates.get(layer.branch, 0)]
        return sum((layer.costs(lost) * layer.share(fates) for layer in self._channels), totals)

    def _columns(self, space: SearchSpace) -> dict[str, tuple[str, int]]:
        """Layer path -> its name in the space and column of the codes."""
        columns = {}
        for i, name in enumerate(space.sites):
            if name not in self._sites:
                raise GhostsearchError(f"{name!r} is no site of this model; 'ghostsearch inspect' lists them")
            columns[self._sites[name]] = (name, i)
        return columns

    def lost_channels(self, space: SearchSpace, codes: np.ndarray) -> dict[int, np.ndarray]:
        """Channels that each group loses, by its number: (A,) each; raises GhostsearchError for an unknown group."""
        lost = {i: np.zeros(len(codes), dtype=np.int64) for i in self.groups.values()}
        for j, (name, texts) in enumerate(space.groups.items()):
            if name not in self.groups:
                raise GhostsearchError(f"{name!r} is no group of this model; 'ghostsearch inspect' lists them")
            group = self._group_list[self.groups[name]]
            kept = [kept_width(group.channels, parse_width(t).share, self.multiple, group.divisions) for t in texts]
            lost[self.groups[name]] = group.channels - np.array(kept)[codes[:, len(space.sites) + j]]
        return lost

    def _rest(self) -> tuple[int, int, int]:
        """What the layers in the table do not hold: params, MACs, bytes."""
        nothing = {i: np.zeros(1, dtype=np.int64) for i in self.groups.values()}
        code = np.zeros(1, dtype=np.int64)
        known = np.zeros((3, 1), dtype=np.int64)
        for matrix in self._matrices:
            known = known + matrix.costs([KEEP], code, nothing)
        for layer in self._channels:
            known = known + layer.costs(nothing) * layer.share({})
        params, macs, size = known[:, 0].tolist()
        return self.baseline.params - params, self.baseline.macs - macs, self.baseline.size_bytes - size


def _fates(space: SearchSpace, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Per site that may take its branch away, 0 for each architecture that keeps it, 1 dropped, 2 skipped: (A,)."""
    return {
        path: np.array([1 + GONE.index(text) if text in GONE else 0 for text in options])[codes[:, j]]
        for j, (path, options) in enumerate(space.sites.items())
    }


def encode(space: SearchSpace, architectures: Sequence[Architecture]) -> np.ndarray:
    """Choice numbers: (A, sites + groups), sites first, in the space's order.

    Raises GhostsearchError for a choice that the space does not offer.
    """
    codes = np.zeros((len(architectures), len(space.sites) + len(space.groups)), dtype=np.int64)
    numbers = [
        (name, {text: i for i, text in enumerate(options)}, kind)
        for kind, table in (("sites", space.sites), ("groups", space.groups))
        for name, options in table.items()
    ]
    for row, architecture in zip(codes, architectures, strict=True):
        chosen = {"sites": architecture.sites, "groups": architecture.groups}
        for j, (name, number, kind) in enumerate(numbers):
            choice = chosen[kind].get(name)
            if choice is None:
                continue
            code = number.get(str(choice))
            if code is None:
                raise GhostsearchError(
                    f"{name!r}: {str(choice)!r} is not offered there; choose from {', '.join(number)}"
                )
            row[j] = code
    return codes


def _layers(model: nn.Module, example: Any, anatomy: Anatomy) -> tuple[list[MatrixLayer], list[ChannelLayer]]:
    """Every layer that a site or a group reaches."""
    reached = reached_layers(model, example, anatomy)
    calls = trace_calls(model, example, (_ConvNd, nn.Linear)).shapes
    sites, images = {s.path for s in anatomy.sites}, batch_size(example)
    within = {path: branch.end for branch in anatomy.branches for path in branch.inside}
    # Depthwise convolutions that may be dropped with all that is behind them.
    within |= {branch.end: branch.end for branch in anatomy.branches if branch.last}
    norms = {branch.norm: branch.end for branch in anatomy.branches if branch.norm}
    matrices, channels = [], []
    for path, module in model.named_modules():
        ins, outs = (reached.get((path, side), ()) for side in ("in", "out"))
        if not (ins or outs or path in sites or path in within or path in norms):
            continue
        end, under = within.get(path) or norms.get(path, ""), BEHIND if path in norms else INSIDE
        if end and (scalars := [t for t in (*module._parameters.values(), *module._buffers.values())
                                if t is not None and not t.dim()]):  # fmt: skip
            stored = sum(t.element_size() for t in scalars)
            channels.append(
                ChannelLayer(Channels(1), (sum(isinstance(t, nn.Parameter) for t in scalars), 0, stored), end, under)
            )
        if isinstance(module, _ConvNd | nn.Linear):
            site = _as_site(path, module, calls.get(path, []), images)
            if passes_channels(site):
                width = Channels(site.out_channels, outs or ins)
                channels.append(ChannelLayer(width, _shares(site.out_channels, site.macs, module), end))
                if end == path:
                    positions, biased = site.macs // module.weight.numel(), module.bias is not None
                    affine = (1 + biased, positions, (1 + biased) * module.weight.element_size())
                    channels.append(ChannelLayer(width, affine, end, INSTEAD))
                continue
            inputs, outputs = Channels(site.in_channels, ins), Channels(site.out_channels, outs)
            matrices.append(MatrixLayer(site, inputs, outputs, module.weight.element_size(), end))
        else:
            total = max((t.shape[0] for t in (*module._parameters.values(), *module._buffers.values())
                         if t is not None and t.dim()), default=0)  # fmt: skip
            if total:
                # A PReLU's single slope is of all channels, however many are left.
                terms = () if isinstance(module, nn.PReLU) and total == 1 else outs or ins
                channels.append(ChannelLayer(Channels(total, terms), _shares(total, 0, module), end, under))
    channels += [
        ChannelLayer(Channels(total, terms), (each, 0, each * model.get_parameter(path).element_size()))
        for (path, side), terms in reached.items()
        if side == "parameter"
        for total, each in [_bare(model, path, example)]
    ]
    return matrices, channels


def reached_layers(
    model: nn.Module, example: Any, anatomy: Anatomy
) -> dict[tuple[str, str], tuple[tuple[int, int], ...]]:
    """(path, side) of every layer that a group of changeable width reaches -> pairs (group number, times)."""
    reached: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {}
    if all(group.fixed for group in anatomy.groups):
        return reached
    plan = width_plan(model, example)
    for number, group in enumerate(anatomy.groups):
        for edit in () if group.fixed else plan.edits[group.name]:
            times = len(edit.pairs) // group.channels
            key = (edit.path, edit.side)
            reached[key] = (*reached.get(key, ()), (number, times))
    return reached


def _as_site(path: str, module: Any, calls: list[tuple[Shape, Shape]], images: int) -> Site:
    """A convolution or linear layer as a Site: what the formulas want to know."""
    weight = module.weight
    if isinstance(module, nn.Linear):
        shape: dict[str, Any] = {"in_channels": module.in_features, "out_channels": module.out_features}
        kernel, stride, groups = (1,), (1,), 1
    else:
        shape = {"in_channels": module.in_channels, "out_channels": module.out_channels}
        kernel, stride, groups = tuple(module.kernel_size), tuple(module.stride), module.groups
    # A transposed convolution multiplies once for every input position, the others for every output position.
    scattered = isinstance(module, _ConvTransposeNd)
    counted = sum(prod(x if scattered else y) for x, y in calls) // images
    per_channel = weight.numel() // shape["in_channels" if scattered else "out_channels"]
    params = sum(p.numel() for p in module.parameters(recurse=False))
    biased = 0 if module.bias is None else module.bias.numel()
    extra = 0 if scattered else (params - weight.numel() - biased) // shape["out_channels"]
    return Site(path, "", kernel=kernel, stride=stride, groups=groups, in_shape=(), out_shape=(),
                macs=counted * per_channel, params=params, extra=extra, **shape)  # fmt: skip


def _shares(channels: int, macs: int, module: nn.Module) -> tuple[int, int, int]:
    """Params, MACs and bytes of one of a layer's channels; scalars such as a step counter are no
    channel's.
    """
    weights = [p for p in module.parameters(recurse=False) if p.dim()]
    buffers = [b for b in module.buffers(recurse=False) if b.dim()]
    params = sum(p.numel() for p in weights) // channels
    size = sum(t.numel() * t.element_size() for t in (*weights, *buffers)) // channels
    return params, macs // channels, size


def _bare(model: nn.Module, path: str, example: Any) -> tuple[int, int]:
    """Channels of a bare parameter, which may be of several groups, and elements of each."""
    edits = width_plan(model, example).edits.values()
    dim = next(edit.dim for of_group in edits for edit in of_group if (edit.path, edit.side) == (path, "parameter"))
    parameter = model.get_parameter(path)
    return parameter.shape[dim], parameter.numel() // parameter.shape[dim]
