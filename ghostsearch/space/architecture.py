"""What a model offers (anatomy), what it may become (search space) and one choice of it (architecture)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import read_json
from ghostsearch.shown import Shown, Table
from ghostsearch.space.choice import FULL_WIDTH, GONE, KEEP, WIDTH_MULTIPLE, Filters, LayerChoice, Width
from ghostsearch.space.choice_text import parse_layer_choice, parse_width

ARCHITECTURE_FORMAT = "ghostsearch.architecture"
ARCHITECTURE_VERSION = 1


@dataclass(frozen=True)
class Site:
    """A convolution that may be replaced. Shapes are of the example image: (C, *spatial), no batch."""

    path: str
    kind: str
    """Type and kernel, such as `Conv2d 3x3` or `Conv2d 1x1`."""
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    macs: int
    params: int
    aliases: tuple[str, ...] = ()
    """Further paths under which the very same module is registered; all are swapped together."""
    extra: int = 0
    """Parameters of each output channel beside its filter and bias, such as a gain."""
    plain: bool = True
    """Whether it is a class of `torch.nn` itself."""
    needs_bias: bool = False
    """Whether its class does not run without a bias."""

    def filters(self, in_channels: int | None = None, out_channels: int | None = None) -> Filters:
        """What its cost depends on, optionally at other channel counts."""
        own = Filters(self.in_channels, self.out_channels, self.kernel, self.groups, extra=self.extra, plain=self.plain,
                      needs_bias=self.needs_bias)  # fmt: skip
        bias = self.params > own.out_channels * (own.taps + own.extra)
        return replace(own, in_channels=in_channels or own.in_channels, out_channels=out_channels or own.out_channels,
                       bias=bias)  # fmt: skip


@dataclass(frozen=True)
class Skipped:
    """A convolution that is no site, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Group:
    """Channels that must change width together; named after the first convolution that makes them."""

    name: str
    channels: int
    members: tuple[str, ...]
    """Paths of the layers that produce these channels."""
    fixed: str = ""
    """Why the width cannot change; empty when it can."""
    divisions: int = 1
    """Equal runs of channels that must lose the same positions each (a grouped convolution reads or makes them)."""


@dataclass(frozen=True)
class Branch:
    """A residual branch f of x + f(x) that may be dropped: replaced by a per-channel affine of x."""

    end: str
    """Path of the convolution that the affine takes the place of, the site that offers `drop`: the last one, or the
    first where linear layers come behind it (ConvNeXt)."""
    inside: tuple[str, ...]
    """Paths of its other layers, in the order of computation: they give way to the identity."""
    gates: tuple[str, ...] = ()
    """Those of `inside` that end a squeeze-excite gate: they give way to what opens it."""
    norm: str = ""
    """Path of the BatchNorm between `end` and the sum, which stays; empty when there is none."""
    skipped: bool = False
    """Whether nothing takes its place, where it goes."""
    last: str = ""
    """Path of the linear layer, among `inside`, whose output the affine is fitted to; empty where that is `end`'s."""


@dataclass(frozen=True)
class Anatomy(Shown):
    """Everything that `inspect` reports of a model's convolutions."""

    sites: tuple[Site, ...]
    skipped: tuple[Skipped, ...]
    groups: tuple[Group, ...] = ()
    width_note: str = ""
    """What the user should know when widths could not be traced, in whole or in part."""
    branches: tuple[Branch, ...] = ()
    """Residual branches that may be dropped."""

    def table(self) -> Table:
        """A row per site, then the convolutions that stay as they are."""
        rows = [[s.path, s.kind, f"{s.in_channels}→{s.out_channels}", "may change"] for s in self.sites]
        rows += [[s.path, "", "", s.reason] for s in self.skipped]
        title = f"{len(self.sites)} sites, {len(self.groups)} groups, {len(self.branches)} branches"
        return title, ["convolution", "kind", "channels", ""], rows


@dataclass(frozen=True)
class Architecture:
    """One choice per site and group; immutable. What is not named stays as in the baseline.

    `keep` and `width(1)` are dropped on construction, so equal models have equal architectures and digests.
    """

    sites: Mapping[str, LayerChoice] = field(default_factory=dict)
    groups: Mapping[str, Width] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", {k: v for k, v in sorted(self.sites.items()) if v != KEEP})
        object.__setattr__(self, "groups", {k: v for k, v in sorted(self.groups.items()) if v != FULL_WIDTH})

    def __hash__(self) -> int:
        return hash(self._canonical)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._canonical == other._canonical

    @cached_property
    def _canonical(self) -> str:
        return json.dumps([_texts(self.sites), _texts(self.groups)], sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """The architecture's name: ten hexadecimal digits of its content; `baseline` for the unchanged model."""
        if self.is_baseline:
            return "baseline"
        return hashlib.sha256(self._canonical.encode()).hexdigest()[:10]

    @property
    def is_baseline(self) -> bool:
        """Whether this is the unchanged model."""
        return not self.sites and not self.groups

    @classmethod
    def of(cls, sites: Mapping[str, str] | None = None, groups: Mapping[str, str] | None = None) -> Architecture:
        """An architecture from choice strings; raises GhostsearchError when one does not parse."""
        return cls(
            {path: parse_layer_choice(text) for path, text in (sites or {}).items()},
            {name: parse_width(text) for name, text in (groups or {}).items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: format, version, sites and groups with their choice strings."""
        return {
            "format": ARCHITECTURE_FORMAT,
            "version": ARCHITECTURE_VERSION,
            "sites": _texts(self.sites),
            "groups": _texts(self.groups),
        }

    @classmethod
    def from_dict(cls, data: object, source: str = "architecture") -> Architecture:
        """The architecture of `to_dict`'s form; raises GhostsearchError on anything else or a newer version."""
        if not isinstance(data, dict) or data.get("format") != ARCHITECTURE_FORMAT:
            raise GhostsearchError(f"{source}: not an architecture file (its 'format' must be {ARCHITECTURE_FORMAT!r})")
        version = data.get("version")
        if version != ARCHITECTURE_VERSION:
            raise GhostsearchError(
                f"{source}: architecture version {version!r} is unknown here (known: {ARCHITECTURE_VERSION}); "
                "upgrade with 'pip install -U ghostsearch'"
            )
        parts = [data.get(key, {}) for key in ("sites", "groups")]
        for part in parts:
            if not isinstance(part, dict) or not all(isinstance(x, str) for kv in part.items() for x in kv):
                raise GhostsearchError(f"{source}: 'sites' and 'groups' must map names to choice strings")
        return cls.of(*parts)

    @classmethod
    def read(cls, path: Path) -> Architecture:
        """The architecture in a JSON file; raises GhostsearchError when it is missing, broken or foreign."""
        return cls.from_dict(read_json(path), str(path))


@dataclass(frozen=True)
class SearchSpace:
    """Per site and per group, the choices allowed, as strings; the first of each is what the baseline has."""

    sites: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    width_multiple: int = WIDTH_MULTIPLE
    branches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Per site that offers `drop`, the sites and groups of this space inside its branch: they stay when it goes."""

    @cached_property
    def digest(self) -> str:
        """Ten hexadecimal digits of the space's content; part of the study's name, so that spaces never mix."""
        parts = [dict(self.sites), dict(self.groups), self.width_multiple]
        text = json.dumps([*parts, dict(self.branches)] if self.branches else parts)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def size(self) -> int:
        """How many architectures the space holds."""
        total = 1
        for options in [*self.sites.values(), *self.groups.values()]:
            total *= len(options)
        return total

    def decode(self, code: Sequence[int]) -> Architecture:
        """The architecture of choice numbers, sites first, in the space's order."""
        names = [*self.sites.items(), *self.groups.items()]
        chosen = [(name, texts[i]) for (name, texts), i in zip(names, code, strict=True)]
        return Architecture.of(dict(chosen[: len(self.sites)]), dict(chosen[len(self.sites) :]))

    def architecture(self, sites: Mapping[str, str], groups: Mapping[str, str] | None = None) -> Architecture:
        """The architecture of some choice strings; what lies inside a dropped branch is left out.

        Raises GhostsearchError for a name or choice that is not in the space.
        """
        for table, chosen in ((self.sites, sites), (self.groups, groups or {})):
            for name, text in chosen.items():
                if name not in table:
                    raise GhostsearchError(
                        f"{name!r} is not in the search space; 'ghostsearch inspect' lists its sites"
                    )
                if text not in table[name]:
                    raise GhostsearchError(
                        f"{name!r}: {text!r} is not offered there; choose from {', '.join(table[name])}"
                    )
        gone = {name for end in self.branches if sites.get(end) in GONE for name in self.branches[end]}
        return Architecture.of(
            {path: text for path, text in sites.items() if path not in gone},
            {name: text for name, text in (groups or {}).items() if name not in gone},
        )

    def offers(self, architecture: Architecture) -> bool:
        """Whether every choice of an architecture is one of the space."""
        try:
            self.architecture(_texts(architecture.sites), _texts(architecture.groups))
        except GhostsearchError:
            return False
        return True

    def narrowed(self, sites: Mapping[str, tuple[str, ...]], groups: Mapping[str, tuple[str, ...]]) -> SearchSpace:
        """The space with these choices left of its own; branches that may still be dropped keep what lies inside."""
        branches = {
            end: tuple(name for name in inside if name in sites or name in groups)
            for end, inside in self.branches.items()
            if set(GONE).intersection(sites.get(end, ()))
        }
        return replace(self, sites=sites, groups=groups, branches=branches)

    def uniform(self, choice: str) -> Architecture:
        """Every site that offers `choice` takes it, the rest stays.

        Of a width every group takes the nearest it offers: it may lack one that rounds to another's number of channels.
        """
        sites = {path: choice for path, options in self.sites.items() if choice in options}
        widths = choice.startswith("width(")
        return self.architecture(sites, {n: _nearest(choice, o) for n, o in self.groups.items()} if widths else {})


def _nearest(width: str, offered: Sequence[str]) -> str:
    """The offered width whose share is nearest; of two the wider."""
    share = parse_width(width).share
    return min(offered, key=lambda t: (abs(parse_width(t).share - share), -parse_width(t).share))


def _texts(choices: Mapping[str, object]) -> dict[str, str]:
    return {name: str(choice) for name, choice in choices.items()}


def nearest_names(name: str, names: Sequence[str]) -> str:
    """Up to three known names that look like `name`, for an error message."""
    import difflib

    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return ", ".join(close or list(names)[:3])
