"""Finds the convolutions that may be replaced, and why each other one may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ghostsearch.blocks.own_conv import PLAIN, is_plain, needs_bias, trouble_of
from ghostsearch.errors import GhostsearchError
from ghostsearch.fits.sampled_rows import per_dimension
from ghostsearch.graph.branches import find_branches
from ghostsearch.graph.calls import trace_calls
from ghostsearch.graph.capture import HOOKS, Shape, batch_size, copied, is_image_list, tensors, unwrapped
from ghostsearch.graph.flow import overwrites_what_is_read, trace_graph
from ghostsearch.graph.widths import find_groups
from ghostsearch.space.architecture import Anatomy, Branch, Site, Skipped, nearest_names
from ghostsearch.space.choice import intrinsic_channels
from ghostsearch.space.costs import is_depthwise

IMAGE_CHANNELS = 4
"""A convolution that reads no more channels than this (RGBA) mostly reads the image: a site only on request."""
Calls = list[tuple[Shape, Shape]]


def find_sites(model: nn.Module, example: Any, *, include_first: bool = False, widths: bool = True) -> Anatomy:
    """Sites, skipped convolutions and coupling groups of a model; the model is left untouched.

    example: (N, C, H, W), a tuple of positional arguments, a dict of keywords or a list of images.
    Shapes and MACs come from one forward of a copy in eval mode. `widths=False` leaves the groups out: quicker.
    Raises GhostsearchError when the forward fails.
    """
    model = unwrapped(model)
    paths = module_paths(model)
    shared = _shared_parameters(model)
    traced = trace_calls(model, example, (_ConvNd,))
    calls = traced.shapes
    large, image = _is_large(example), _image_channels(example)
    sites, skipped, branches = [], [], droppable_branches(model, example)
    depthwise = {b.end for b in branches if b.last}
    for module, names in paths.values():
        if not _is_convolution(module):
            continue
        path, seen = names[0], calls.get(names[0], [])
        reason = (
            _unsuitable(module)
            or _shares(module, shared, path)
            or ("" if path in depthwise else _hopeless(module))
            or _placement(module, seen, include_first, large, image)
            or traced.read_elsewhere.get(path, "")
            or _own_class(module, seen)
        )
        if reason:
            skipped.append(Skipped(names[0], reason))
        else:
            sites.append(_site(module, names, calls[names[0]], batch_size(example)))
    branches = tuple(b for b in branches if b.end in {s.path for s in sites})
    if not widths:
        return Anatomy(tuple(sites), tuple(skipped), branches=branches)
    if len(sites) + len(skipped) < 2:
        note = "widths were not traced: there are no two convolutions"
        return Anatomy(tuple(sites), tuple(skipped), (), note, branches)
    groups, note = find_groups(model, example)
    return Anatomy(tuple(sites), tuple(skipped), groups, note, branches)


def droppable_branches(model: nn.Module, example: Any) -> tuple[Branch, ...]:
    """The residual branches that may be dropped; none where the model cannot be traced, or where an activation in place
    changes what a shortcut reads: it would go with its branch.
    """
    graph = trace_graph(model, example) if isinstance(example, torch.Tensor) else None
    if graph is None or overwrites_what_is_read(copied(model).eval(), example):
        return ()
    return find_branches(model, graph)


def module_paths(model: nn.Module) -> dict[int, tuple[nn.Module, tuple[str, ...]]]:
    """Every module once, by identity, with all the paths it is registered under."""
    found: dict[int, tuple[nn.Module, tuple[str, ...]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found[id(module)] = (module, (*found.get(id(module), (module, ()))[1], path))
    return found


def require_sites(anatomy: Anatomy, paths: Iterable[str]) -> None:
    """Raises GhostsearchError, with the reason, unless every path is a site of the model."""
    sites = {name for site in anatomy.sites for name in (site.path, *site.aliases)}
    reasons = {s.path: s.reason for s in anatomy.skipped}
    for path in paths:
        if path in sites:
            continue
        if path in reasons:
            raise GhostsearchError(f"{path!r} cannot be replaced: {reasons[path]}; leave it at 'keep'")
        if not sites:
            counts = Counter(s.reason.split(":")[0] for s in anatomy.skipped)
            why = ", ".join(f"{n}× {reason}" for reason, n in counts.most_common(3)) or "it has no convolution"
            raise GhostsearchError(f"no convolution of this model can be replaced ({why})")
        raise GhostsearchError(f"no convolution is called {path!r}; nearest: {nearest_names(path, sorted(sites))}")


def _is_convolution(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return str(getattr(module, "original_name", "")).startswith("Conv") and hasattr(module, "weight")
    return isinstance(module, _ConvNd)


def _unsuitable(module: nn.Module) -> str:
    """Why a convolution's code or state forbids replacing it; empty when nothing does."""
    if isinstance(module, torch.jit.ScriptModule):
        return "inside TorchScript: its code is compiled; convert the model before scripting it"
    if not isinstance(module, PLAIN):
        return f"{type(module).__name__}: a transposed convolution"
    if "forward" in module.__dict__:
        return f"{type(module).__name__}: a convolution whose forward was replaced on the instance"
    if "weight" not in module._parameters:
        return "parametrized: its weight is computed (weight_norm, spectral_norm, a mask); make it permanent first"
    if any(getattr(module, name, None) for name in HOOKS):
        return "hooks: it carries hooks, which a replacement would lose; remove them first"
    return ""


def _own_class(module: Any, calls: Calls) -> str:
    """Why a convolution class with a forward of its own forbids replacing it; empty when it computes as one does."""
    return "" if is_plain(module) or not calls else trouble_of(module, calls[0][0])


def _shared_parameters(model: nn.Module) -> dict[int, list[str]]:
    """Paths of the modules that own each parameter, aliases of one module counted once."""
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(path)
    return owners


def _shares(module: nn.Module, owners: dict[int, list[str]], path: str) -> str:
    others = {p for w in module._parameters.values() if w is not None for p in owners[id(w)]} - {path}
    return f"shared parameters: the same as those of {', '.join(sorted(others))}" if others else ""


def _hopeless(module: Any) -> str:
    """Why no ghost can gain anything here; empty when one can."""
    n, c, groups = module.out_channels, module.in_channels, module.groups
    if is_depthwise(module):
        return "depthwise: it is the cheap operation already"
    if groups > 1 and intrinsic_channels(n, 2, groups) >= n:
        return f"grouped: {n} outputs in {groups} groups leave no channel for a ghost in each"
    if n < 2 or c // groups * prod(module.kernel_size) < 2:
        return f"too few channels for a gain: {c} to {n}"
    return ""


def _placement(module: Any, calls: Calls, include_first: bool, large: bool, image: set[int]) -> str:
    """Why a convolution is left alone for where it stands in the forward; empty when it is not."""
    if not calls:
        return "never called: the forward of the example does not reach it (an auxiliary head in eval mode?)"
    if large and prod(module.kernel_size) == 1 and all(prod(shape[2:]) == 1 for shape, _ in calls):
        return "1x1 maps: it acts on pooled maps (squeeze-excite or head)"
    if module.in_channels <= IMAGE_CHANNELS and not include_first:
        if module.in_channels in image:
            return "first layer: it reads the image, where a swap costs most accuracy; include_first makes it a site"
        return f"few inputs: {module.in_channels} channels leave little to gain; include_first makes it a site"
    return ""


def _image_channels(example: Any) -> set[int]:
    """Channels of the example's images, single ones (C, H, W) in a list or batches."""
    single = is_image_list(example)
    return {t.shape[0 if single else 1] for t in tensors(example) if t.dim() > 2}


def _is_large(example: Any) -> bool:
    """Whether the example holds more than single values, so that maps of 1×1 are pooled ones."""
    return max((prod(t.shape[1:]) for t in tensors(example) if t.dim() > 2), default=1) > 1


def _site(module: Any, names: tuple[str, ...], calls: Calls, batch: int) -> Site:
    outputs = sum(prod(out) for _, out in calls)
    per_output = module.in_channels // module.groups * prod(module.kernel_size)
    base = next(t for t in PLAIN if isinstance(module, t))
    params = sum(p.numel() for p in module._parameters.values() if p is not None)
    return Site(
        path=names[0],
        kind=f"{base.__name__} {'x'.join(map(str, module.kernel_size))}",
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        kernel=tuple(module.kernel_size),
        stride=per_dimension(module, "stride"),
        groups=module.groups,
        in_shape=calls[0][0][1:],
        out_shape=calls[0][1][1:],
        macs=outputs * per_output // batch,
        params=params,
        aliases=names[1:],
        extra=(params - module.weight.numel() - (0 if module.bias is None else len(module.bias)))
        // module.out_channels,
        plain=is_plain(module),
        needs_bias=needs_bias(module, calls[0][0]),
    )
