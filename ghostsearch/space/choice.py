"""What a site or a group may become: its string, its rules, its exact cost and its look, all without torch.

A choice *is* its string: YAML, CLI, Optuna, CSV and figures share it. What a choice builds is a block (`blocks.table`).
"""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, prod
from typing import Any, ClassVar

from ghostsearch.errors import GhostsearchError
from ghostsearch.usercode import brought_along

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
class Filters:
    """What the cost of a convolution depends on."""

    in_channels: int
    """Channels that it reads, all groups together."""
    out_channels: int
    kernel: tuple[int, ...]
    groups: int = 1
    bias: bool = False
    extra: int = 0
    """Further parameters of each output channel, such as a gain."""

    @property
    def taps(self) -> int:
        """Weights of one filter: channels of a group times kernel positions."""
        return self.in_channels // self.groups * prod(self.kernel)


@dataclass(frozen=True)
class Look:
    """How a choice is shown: a few letters for a cell of a picture, a place in lists, a colour."""

    short: str
    order: tuple[float, ...] = (9,)
    hue: str | None = None
    """`#rrggbb`; None leaves the colour to the picture."""
    shade: float = 0.0
    """Share of white mixed in, of black where negative."""


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

    @property
    def look(self) -> Look:
        """How it is shown."""
        return Look(self.name[:3])


@dataclass(frozen=True)
class LayerChoice(Choice):
    """What one site (a convolution) becomes, and what that costs."""

    def position_macs(self, filters: Filters) -> int:
        """Multiply-adds per output position."""
        raise NotImplementedError(f"{type(self).__name__}.position_macs")

    def params(self, filters: Filters) -> int:
        """Parameters, biases included."""
        raise NotImplementedError(f"{type(self).__name__}.params")

    def buffers(self, filters: Filters) -> int:  # noqa: ARG002
        """Elements that are stored and not trained."""
        return 0

    def suits(self, filters: Filters) -> bool:  # noqa: ARG002
        """Whether it divides the channels as it must."""
        return True


@dataclass(frozen=True)
class Keep(LayerChoice):
    """The site stays the convolution it is."""

    name: ClassVar[str] = "keep"

    def position_macs(self, filters: Filters) -> int:
        return filters.out_channels * filters.taps

    def params(self, filters: Filters) -> int:
        return filters.out_channels * (filters.taps + filters.extra + filters.bias)

    @property
    def look(self) -> Look:
        return Look("", (0,), "#a8b0b9")


RATIO_COLOURS = {2: "#4477aa", 3: "#44aa99", 4: "#ee8833", 5: "#bb4433"}
"""Hue of a ghost by ratio, from Paul Tol's and Okabe and Ito's sets; above 5 the last."""
CHEAP_COLOURS = {"affine": "#88ccee", "wavelet": "#999933"}


def intrinsic_channels(out_channels: int, ratio: int, groups: int = 1) -> int:
    """m = ceil(n/s) intrinsic maps (Han et al. 2020, section 3.1), rounded up to a multiple of the channel groups."""
    return groups * ceil(out_channels / (ratio * groups))


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

    def position_macs(self, filters: Filters) -> int:
        m, dims = intrinsic_channels(filters.out_channels, self.ratio, filters.groups), len(filters.kernel)
        cheap = {"conv": self.kernel**dims, "affine": 1, "wavelet": 2**dims}[self.cheap]
        return m * filters.taps + (self.ratio - 1) * m * cheap

    def params(self, filters: Filters) -> int:
        m, dims = intrinsic_channels(filters.out_channels, self.ratio, filters.groups), len(filters.kernel)
        # An affine map is its scale and its shift; a wavelet map has a fixed filter and a scale.
        cheap = {"conv": self.kernel**dims + filters.bias, "affine": 2, "wavelet": 1 + filters.bias}[self.cheap]
        return m * (filters.taps + filters.extra + filters.bias) + (self.ratio - 1) * m * cheap

    def buffers(self, filters: Filters) -> int:
        if self.cheap != "wavelet":
            return 0
        m = intrinsic_channels(filters.out_channels, self.ratio, filters.groups)
        return (self.ratio - 1) * m * 2 ** len(filters.kernel)

    def suits(self, filters: Filters) -> bool:
        return ceil(filters.out_channels / self.ratio) % filters.groups == 0

    @property
    def look(self) -> Look:
        # A larger cheap kernel is darker.
        shade = {1: 0.42, 3: 0.0, 5: -0.25}.get(self.kernel, -0.45)
        order = (1, self.ratio, self.kernel)
        if self.cheap != "conv":
            return Look(f"g{self.ratio}{self.cheap[0]}", order, CHEAP_COLOURS[self.cheap], shade)
        return Look(f"g{self.ratio}·{self.kernel}", order, RATIO_COLOURS[min(self.ratio, max(RATIO_COLOURS))], shade)


@dataclass(frozen=True)
class LowRank(LayerChoice):
    """Two convolutions of lower rank: k×k to rank·n maps, then 1×1 to n (a truncated SVD of the filters)."""

    name: ClassVar[str] = "lowrank"
    rank: float = _shown(0.5)

    def __post_init__(self) -> None:
        holds = _is_number(self.rank) and 0 < self.rank < 1
        self._require(holds, "rank must be a share between 0 and 1", self.rank, "lowrank(rank=0.5)")

    def maps(self, filters: Filters) -> int:
        """Maps between the two convolutions: rank·n, from one to full rank per channel group."""
        n = filters.out_channels // filters.groups
        return filters.groups * min(max(1, round(self.rank * n)), n, filters.taps)

    def position_macs(self, filters: Filters) -> int:
        r = self.maps(filters)
        return r * filters.taps + filters.out_channels * (r // filters.groups)

    def params(self, filters: Filters) -> int:
        return self.position_macs(filters) + self.maps(filters) * filters.extra + filters.out_channels * filters.bias

    @property
    def look(self) -> Look:
        return Look(f"r{self.rank:g}", (2, -self.rank), "#aa3377", 0.7 * (self.rank - 0.5))


@dataclass(frozen=True)
class Drop(LayerChoice):
    """The residual branch that ends in this site goes: a per-channel affine of its input takes its place."""

    name: ClassVar[str] = "drop"
    affine: ClassVar[bool] = True

    def position_macs(self, filters: Filters) -> int:
        return filters.out_channels * self.affine

    def params(self, filters: Filters) -> int:
        return self.position_macs(filters) * (1 + filters.bias)

    @property
    def look(self) -> Look:
        return Look("–" if self.affine else "·", (4 - self.affine,), "#bbbbbb")


@dataclass(frozen=True)
class Skip(Drop):
    """The residual branch that ends in this site goes and nothing takes its place: the sum keeps the shortcut alone."""

    name: ClassVar[str] = "skip"
    affine: ClassVar[bool] = False


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


KEEP, DROP, SKIP = Keep(), Drop(), Skip()
GONE = (str(DROP), str(SKIP))  # what takes a residual branch away
FULL_WIDTH = Width(1.0)
WIDTH_MULTIPLE = 8  # what the channels that stay are rounded to, where nobody says otherwise


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
    for key, value in keywords.items():
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
        keywords = {str(k.arg): _literal(k.value) for k in tree.keywords}
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
