"""Exchanges layers of a model in place, under every name that a layer has and in plain containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.blocks.own_conv import PLAIN, is_plain, plain_twin
from ghostsearch.blocks.table import build_block
from ghostsearch.graph.capture import call, hooked, like, tensors
from ghostsearch.space.choice import Drop, LayerChoice
from ghostsearch.surgery.sites import module_paths

INTERNAL = frozenset(vars(nn.Module()))
"""Where PyTorch keeps a module's children, parameters and hooks."""
Swapped = dict[str, tuple[Any, Any]]


def swap_sites(model: nn.Module, choices: Mapping[str, LayerChoice]) -> Swapped:
    """Replace convolutions of a model in place, aliases together; returns path -> (convolution, block).

    The blocks' weights are fresh; inheriting them is the caller's next step. Raises KeyError for an unknown path.
    """
    by_path = {path: module for module, names in module_paths(model).values() for path in names}
    swapped: Swapped = {}
    blocks: dict[int, nn.Module] = {}
    for path, choice in choices.items():
        if isinstance(choice, Drop):
            # The whole branch has gone already (surgery.drop).
            continue
        conv: Any = by_path[path]
        blocks.setdefault(id(conv), build_block(conv, choice))
        swapped[path] = (conv, blocks[id(conv)])
    exchange(model, blocks)
    return swapped


def swap_twins(model: nn.Module, batch: Any) -> None:
    """Put a plain convolution that shares its parameters in the place of every convolution class of its own, in place.

    What a fit needs to know of such a class, its padding for one size of images, a plain one shows. Classes that have
    no twin stay, as do layers that are called on several sizes.
    """
    own: dict[int, Any] = {id(m): m for m in model.modules() if isinstance(m, PLAIN) and not is_plain(m)}
    if not own:
        return
    shapes: dict[int, set[tuple[int, ...]]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        shapes.setdefault(id(module), set()).add(tuple(next(tensors((args, kwargs))).shape[1:]))

    with torch.no_grad(), hooked(((module, note) for module in own.values()), with_kwargs=True):
        call(model, batch[:1] if isinstance(batch, Tensor) else batch)
    twins: dict[int, nn.Module] = {}
    for key, found in shapes.items():
        if len(found) == 1:
            weight = own[key].weight
            twin = plain_twin(own[key], torch.randn(1, *found.pop(), device=weight.device, dtype=weight.dtype))
            if twin is not None:
                twins[key] = twin
    exchange(model, twins)


def exchange(model: nn.Module, others: Mapping[int, nn.Module]) -> None:
    """Replace modules, given by identity, wherever a model holds them: registered, or in plain lists and dicts."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if id(child) in others:
                setattr(module, name, others[id(child)])
        for name, value in vars(module).items():
            if name not in INTERNAL and isinstance(value, nn.Module | list | tuple | dict):
                vars(module)[name] = _replaced(value, others)


def _replaced(value: Any, others: Mapping[int, nn.Module]) -> Any:
    """A plain attribute with modules exchanged: lists and dicts in place, tuples made anew where they hold one."""
    if isinstance(value, nn.Module):
        return others.get(id(value), value)
    if isinstance(value, list):
        value[:] = [_replaced(item, others) for item in value]
    elif isinstance(value, dict):
        value.update({key: _replaced(item, others) for key, item in value.items()})
    elif isinstance(value, tuple):
        items = [_replaced(item, others) for item in value]
        return like(value, items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value
