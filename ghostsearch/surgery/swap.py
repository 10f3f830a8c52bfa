"""Puts blocks in the place of convolutions, under every name a convolution has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ghostsearch.blocks.table import build_block
from ghostsearch.space.choice import LayerChoice
from ghostsearch.surgery.sites import module_paths

Swapped = dict[str, tuple[Any, Any]]


def swap_sites(model: nn.Module, choices: Mapping[str, LayerChoice]) -> Swapped:
    """Replace convolutions of a model in place, aliases together; returns path -> (convolution, block).

    The blocks' weights are fresh; inheriting them is the caller's next step. Raises KeyError for an unknown path.
    """
    by_path: dict[str, tuple[Any, tuple[str, ...]]] = {
        path: (module, names) for module, names in module_paths(model).values() for path in names
    }
    swapped: Swapped = {}
    for path, choice in choices.items():
        conv, names = by_path[path]
        block = build_block(conv, choice)
        for name in names:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, block)
        swapped[path] = (conv, block)
    return swapped
