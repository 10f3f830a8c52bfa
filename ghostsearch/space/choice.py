"""What a site or a group may become: its string, its rules, its exact cost and its look, all without torch.

A choice *is* its string: YAML, CLI, Optuna, CSV and figures share it. What a choice builds is a block (`blocks.table`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from math import ceil, prod
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
    plain: bool = True
    """Whether it is a class of `torch.nn`; others pad, or make their filters, in a way of their own."""
    needs_bias: bool = False
    """Whether its class does not run without a bias."""

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

    def places(self, filters: Filters) -> int:  # noqa: ARG002
        """Whole numbers of eight bytes that are stored: where each channel stands, where they are moved."""
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

    def places(self, filters: Filters) -> int:
        """Each channel group's ghosts stand behind all intrinsic maps."""
        return filters.out_channels if 1 < filters.groups < filters.out_channels else 0

    def suits(self, filters: Filters) -> bool:
        # Where the ghosts of a channel group do not come out even, some have their intrinsic map in another group.
        return filters.groups == 1 or filters.out_channels // filters.groups % self.ratio == 0

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

    def suits(self, filters: Filters) -> bool:
        """The first of its two convolutions has no bias."""
        return not filters.needs_bias

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
class Separable(LayerChoice):
    """A depthwise convolution that makes `multiplier` maps of each input channel, then 1×1 to all outputs.

    A depthwise-separable convolution (Howard et al. 2017, section 3.1) in the place of a dense one; Guo et al. 2018
    ("Network decoupling", section 3) show that enough depthwise kernels a channel make the dense convolution exactly.
    """

    name: ClassVar[str] = "separable"
    multiplier: int = _shown(1)

    def __post_init__(self) -> None:
        self._require(
            _is_int(self.multiplier) and self.multiplier >= 1,
            "multiplier must be a whole number of at least 1",
            self.multiplier,
            "separable(multiplier=1)",
        )

    def position_macs(self, filters: Filters) -> int:
        return self.multiplier * filters.in_channels * (prod(filters.kernel) + filters.out_channels)

    def params(self, filters: Filters) -> int:
        return self.position_macs(filters) + filters.out_channels * filters.bias

    def suits(self, filters: Filters) -> bool:
        return filters.groups == 1 and filters.plain and prod(filters.kernel) > 1

    @property
    def look(self) -> Look:
        return Look(f"s{self.multiplier}", (3, self.multiplier), "#117733", 0.25 * (self.multiplier - 1))


@dataclass(frozen=True)
class Crop(LayerChoice):
    """Kernels are cropped to their middle: 3×3 to 1×1, 5×5 to 3×3."""

    name: ClassVar[str] = "crop"
    kernel: int = _shown(1)

    def __post_init__(self) -> None:
        odd = _is_int(self.kernel) and self.kernel >= 1 and self.kernel % 2 == 1
        self._require(odd, "kernel must be an odd whole number", self.kernel, "crop(kernel=1)")

    def cropped(self, kernel: tuple[int, ...]) -> tuple[int, ...]:
        """What is left of a kernel; a dimension that is smaller stays."""
        return tuple(min(k, self.kernel) for k in kernel)

    def position_macs(self, filters: Filters) -> int:
        return filters.out_channels * (filters.in_channels // filters.groups) * prod(self.cropped(filters.kernel))

    def params(self, filters: Filters) -> int:
        return self.position_macs(filters) + filters.out_channels * filters.bias

    def suits(self, filters: Filters) -> bool:
        return filters.plain and all(k % 2 for k in filters.kernel)

    @property
    def look(self) -> Look:
        return Look(f"c{self.kernel}", (3.5, self.kernel), "#ddaa33")


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
        # The second is the page's ink: its dark palette makes it light.
        return Look("–", (4,), "#7744dd") if self.affine else Look("·", (5,), "#1c2430")


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
