"""What a site or a group may become. A choice *is* its string: YAML, CLI, Optuna, CSV and figures share it."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from ghostsearch.errors import GhostsearchError

CHEAP_OPERATIONS = ("conv", "affine", "wavelet")
"""Cheap operations the paper tried (Han et al. 2020, section 4.1, table 2's text); `conv` is the one it kept."""


def _shown(default: Any) -> Any:
    """A field that the printed form always names, even at its default."""
    return field(default=default, metadata={"shown": True})


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Choice:
    """One option in a search space; subclasses hold only hyper-parameters and check them."""

    name: ClassVar[str]
    kinds: ClassVar[dict[str, type[Choice]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            Choice.kinds[cls.name] = cls

    def __str__(self) -> str:
        parts = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if f.metadata.get("shown") or getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(parts)})" if parts else self.name

    def _require(self, holds: bool, rule: str, value: Any, instead: str) -> None:
        if not holds:
            raise GhostsearchError(f"choice '{self.name}': {rule}, got {value!r}; try '{instead}'")


@dataclass(frozen=True)
class LayerChoice(Choice):
    """What one site (a convolution) becomes."""


@dataclass(frozen=True)
class Keep(LayerChoice):
    """The site stays the convolution it is."""

    name: ClassVar[str] = "keep"


@dataclass(frozen=True)
class Ghost(LayerChoice):
    """A ghost convolution: 1/`ratio` of the maps by convolution, the rest by a cheap operation (paper, section 3.1)."""

    name: ClassVar[str] = "ghost"
    ratio: int = _shown(2)
    kernel: int = _shown(3)
    cheap: str = "conv"

    def __post_init__(self) -> None:
        like = "ghost(ratio=2, kernel=3)"
        self._require(
            _is_int(self.ratio) and self.ratio >= 2,
            "ratio must be a whole number of at least 2",
            self.ratio,
            like,
        )
        odd = _is_int(self.kernel) and self.kernel >= 1 and self.kernel % 2 == 1
        self._require(odd, "kernel must be an odd whole number", self.kernel, like)
        known = self.cheap in CHEAP_OPERATIONS
        self._require(
            known,
            f"cheap must be one of {', '.join(CHEAP_OPERATIONS)}",
            self.cheap,
            f"{like[:-1]}, cheap=affine)",
        )


@dataclass(frozen=True)
class LowRank(LayerChoice):
    """Two convolutions of lower rank: k×k to rank·n maps, then 1×1 to n (a truncated SVD of the filters)."""

    name: ClassVar[str] = "lowrank"
    rank: float = _shown(0.5)

    def __post_init__(self) -> None:
        holds = _is_number(self.rank) and 0 < self.rank < 1
        self._require(holds, "rank must be a share between 0 and 1", self.rank, "lowrank(rank=0.5)")


@dataclass(frozen=True)
class Width(Choice):
    """The share of a coupling group's channels that stays."""

    name: ClassVar[str] = "width"
    share: float = 1.0

    def __post_init__(self) -> None:
        holds = _is_number(self.share) and 0 < self.share <= 1
        self._require(holds, "the share must lie above 0 and be at most 1", self.share, "width(0.75)")

    def __str__(self) -> str:
        return f"width({self.share:g})"


KEEP = Keep()
FULL_WIDTH = Width(1.0)


@lru_cache(maxsize=4096)
def parse_choice(text: str) -> Choice:
    """The choice a string names; `str(parse_choice(text))` is its one canonical spelling.

    Raises GhostsearchError when the text does not parse or a value breaks a rule.
    """
    name, arguments, keywords = _parse_call(text)
    kind = Choice.kinds.get(name)
    if kind is None:
        raise GhostsearchError(f"choice {text!r}: no choice is called {name!r}; there are {', '.join(Choice.kinds)}")
    names = [f.name for f in dataclasses.fields(kind)]
    if len(arguments) > len(names):
        raise GhostsearchError(f"choice {text!r}: {name} takes at most {len(names)} values ({', '.join(names)})")
    values = dict(zip(names, arguments, strict=False))
    for key, value in keywords.items():
        if key not in names or key in values:
            takes = ", ".join(names) or "no values"
            raise GhostsearchError(f"choice {text!r}: {name} takes {takes} once each, got {key!r}")
        values[key] = value
    return kind(**values)


def parse_layer_choice(text: str) -> LayerChoice:
    """Like `parse_choice`, for a site: refuses group choices such as `width(0.5)`."""
    choice = parse_choice(text)
    if not isinstance(choice, LayerChoice):
        raise GhostsearchError(
            f"choice {text!r} is for a group of channels, not for a site; try 'ghost(ratio=2, kernel=3)'"
        )
    return choice


def parse_width(text: str) -> Width:
    """Like `parse_choice`, for a group: refuses layer choices such as `keep`."""
    choice = parse_choice(text)
    if not isinstance(choice, Width):
        raise GhostsearchError(f"choice {text!r} is for a site, not for a group of channels; try 'width(0.75)'")
    return choice


def _parse_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
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
        return tree.id, [], {}
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        raise trouble
    if any(k.arg is None for k in tree.keywords):
        raise trouble
    try:
        return (
            tree.func.id,
            [_literal(a) for a in tree.args],
            {str(k.arg): _literal(k.value) for k in tree.keywords},
        )
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
