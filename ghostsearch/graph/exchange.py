"""Exchanges layers of a model in place, under every name that a layer has and in plain containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ghostsearch.graph.capture import like

INTERNAL = frozenset(vars(nn.Module()))
"""Where PyTorch keeps a module's children, parameters and hooks."""


def exchange(model: nn.Module, others: Mapping[int, nn.Module]) -> None:
    """Replace modules, given by identity, wherever a model holds them: registered, or in plain lists and dicts."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if id(child) in others:
                setattr(module, name, others[id(child)])
        for name, value in vars(module).items():
            if name not in INTERNAL and isinstance(value, nn.Module | list | tuple | dict):
                vars(module)[name] = _replaced(value, others, set())


def _replaced(value: Any, others: Mapping[int, nn.Module], seen: set[int]) -> Any:
    """A plain attribute with modules exchanged: lists and dicts in place, tuples made anew where they hold one.

    seen: the lists and dicts that it stands in, which may hold themselves.
    """
    if isinstance(value, nn.Module):
        return others.get(id(value), value)
    if id(value) in seen:
        return value
    if isinstance(value, list | dict):
        seen = seen | {id(value)}
    if isinstance(value, list):
        value[:] = [_replaced(item, others, seen) for item in value]
    elif isinstance(value, dict):
        value.update({key: _replaced(item, others, seen) for key, item in value.items()})
    elif isinstance(value, tuple):
        items = [_replaced(item, others, seen) for item in value]
        return like(value, items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value
