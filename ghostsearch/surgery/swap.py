"""Puts blocks and plain twins in the place of a model's convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.blocks.own_conv import PLAIN, is_plain, plain_twin
from ghostsearch.blocks.table import build_block
from ghostsearch.graph.capture import call, hooked, tensors
from ghostsearch.graph.exchange import exchange
from ghostsearch.space.choice import Drop, LayerChoice
from ghostsearch.surgery.sites import module_paths

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
