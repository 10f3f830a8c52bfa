"""The text of a choice: YAML, CLI, Optuna, CSV and figures write it, and this reads it."""

from __future__ import annotations

import ast
import dataclasses
from functools import lru_cache
from typing import Any

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.choice import Choice, LayerChoice, Width
from ghostsearch.usercode import brought_along


@lru_cache(maxsize=4096)
def parse_choice(text: str) -> Choice:
    """The choice a string names; `str(parse_choice(text))` is its one canonical spelling.

    Raises GhostsearchError when the text does not parse or a value breaks a rule.
    """
    name, arguments, keywords = _parse_call(text)
    if name not in Choice.kinds:
        brought_along("ghostsearch.blocks", name, "choice")
    if (kind := Choice.kinds.get(name)) is None:
        raise GhostsearchError(f"choice {text!r}: no choice is called {name!r}; there are {', '.join(Choice.kinds)}")
    names = [f.name for f in dataclasses.fields(kind)]
    if len(arguments) > len(names):
        raise GhostsearchError(f"choice {text!r}: {name} takes at most {len(names)} values ({', '.join(names)})")
    values = dict(zip(names, arguments, strict=False))
    for key, value in keywords:
        if key not in names or key in values:
            takes = ", ".join(names) or "no values"
            raise GhostsearchError(f"choice {text!r}: {name} takes {takes} once each, got {key!r}")
        values[key] = value
    return kind(**values)


def parse_layer_choice(text: str) -> LayerChoice:
    """Like `parse_choice`, for a site: raises GhostsearchError for group choices, such as `width(0.5)`, too."""
    choice = parse_choice(text)
    if not isinstance(choice, LayerChoice):
        raise GhostsearchError(
            f"choice {text!r} is for a group of channels, not for a site; try 'ghost(ratio=2, kernel=3)'"
        )
    return choice


def parse_width(text: str) -> Width:
    """Like `parse_choice`, for a group: raises GhostsearchError for layer choices, such as `keep`, too."""
    choice = parse_choice(text)
    if not isinstance(choice, Width):
        raise GhostsearchError(f"choice {text!r} is for a site, not for a group of channels; try 'width(0.75)'")
    return choice


def _parse_call(text: str) -> tuple[str, list[Any], list[tuple[str, Any]]]:
    """Name, positional and keyword values of `name` or `name(value, key=value)`; bare words are strings."""
    trouble = GhostsearchError(
        f"choice {text!r} does not parse; write it like 'keep', 'ghost(ratio=2, kernel=3)' or 'width(0.75)'"
    )
    if len(text) > 200:
        raise GhostsearchError(f"a choice is at most 200 characters long, got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise trouble from None
    if isinstance(tree, ast.Name):
        return tree.id, [], []
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        raise trouble
    if any(k.arg is None for k in tree.keywords):
        raise trouble
    try:
        keywords = [(str(k.arg), _literal(k.value)) for k in tree.keywords]
        return tree.func.id, [_literal(a) for a in tree.args], keywords
    except ValueError:
        raise trouble from None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        if isinstance(value, int | float):
            return -value
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    raise ValueError
