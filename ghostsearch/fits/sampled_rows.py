"""Which output positions of a layer enter its least squares, and what they read: seeded tiles of the maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Sides = tuple[tuple[int, int], ...]
"""Positions before and behind, per spatial dimension."""


def per_dimension(layer: _ConvNd, name: str) -> tuple[int, ...]:
    """A convolution's stride, dilation or padding for each spatial dimension; set later it may be one number."""
    value = getattr(layer, name)
    return (value,) * (layer.weight.dim() - 2) if isinstance(value, int) else value


@dataclass(frozen=True)
class Window:
    """The input positions that an output position of a layer reads, per spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    """Padding in front of the first input position."""
    mode: str = "zeros"

    @classmethod
    def of(cls, layer: _ConvNd | nn.Linear) -> Window:
        """The window of a convolution, or of a linear layer on the last dimension of its input."""
        if isinstance(layer, nn.Linear):
            return cls.point(1)
        stride, dilation, padding = (per_dimension(layer, name) for name in ("stride", "dilation", "padding"))
        # Another mode than zeros pads beforehand, by what the constructor noted.
        noted = layer.padding_mode != "zeros" or isinstance(layer.padding, str)
        before = tuple(layer._reversed_padding_repeated_twice[::2][::-1]) if noted else padding
        return cls(layer.kernel_size, stride, dilation, before, layer.padding_mode)

    @classmethod
    def point(cls, dims: int) -> Window:
        """Each output position reads its own input position."""
        ones = (1,) * dims
        return cls(ones, ones, ones, (0,) * dims)

    def span(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Input positions under so many neighbouring output positions."""
        return tuple(
            (p - 1) * s + (k - 1) * d + 1
            for p, s, k, d in zip(positions, self.stride, self.kernel, self.dilation, strict=True)
        )


@dataclass(frozen=True)
class Tiles:
    """Tiles of output positions of a batch: which entry each one lies in, and where it begins."""

    entries: Tensor
    """(K,) index along the batch."""
    origins: Tensor
    """(K, dims) first output position."""
    size: tuple[int, ...]
    whole: bool
    """Whether each entry's map is one tile."""
    sizes: tuple[int, ...]
    """Output positions of the whole maps."""

    def inside(self, halo: Sides) -> Tensor:
        """(K, 1, *size + halo): whether a position of a tile and its halo lies in the map."""
        kept = torch.ones(len(self.entries), 1, *[1] * len(self.size), dtype=torch.bool)
        for axis, (length, (left, right)) in enumerate(zip(self.sizes, halo, strict=True)):
            at = self.origins[:, axis, None] + torch.arange(-left, self.size[axis] + right)
            kept = kept & _along(axis, len(self.size), (at >= 0) & (at < length)).unsqueeze(1)
        return kept


def _along(axis: int, dims: int, values: Tensor) -> Tensor:
    """(K, L) as (K, 1, …, L, …, 1) with L at a spatial axis."""
    shape = [len(values)] + [1] * dims
    shape[1 + axis] = values.shape[1]
    return values.reshape(shape)


@dataclass(frozen=True)
class Sampling:
    """How many output positions of a layer are taken, and in tiles of which edge."""

    rows: int
    edge: int
    seed: int
    images: int
    """Images that the rows are spread over."""

    def tiles(self, batch: int, images: int, entries: int, sizes: Sequence[int]) -> Tiles:
        """The tiles of one batch, the same ones for the same seed: whole maps where nearly all positions are wanted.

        batch: its number; images: in it; entries, sizes: length and spatial size of the layer's output.
        """
        rows = ceil(self.rows * images / self.images)
        dims = len(sizes)
        edges = tuple(min(self.edge, s) for s in sizes)
        if 4 * rows >= 3 * entries * prod(sizes):
            return Tiles(
                torch.arange(entries), torch.zeros(entries, dims, dtype=torch.long), tuple(sizes), True, tuple(sizes)
            )
        # A grid of tiles that covers the map, its last ones moved inwards; then some of them at random.
        grid = [self._starts(s, e) for s, e in zip(sizes, edges, strict=True)]
        total = entries * prod(len(g) for g in grid)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + batch)
        count = min(total, max(1, ceil(rows / prod(edges))))
        left = torch.randperm(total, generator=generator)[:count].sort().values
        origins = []
        for g in reversed(grid):
            origins.append(g[left % len(g)])
            left = left // len(g)
        at = torch.stack(origins[::-1], 1) if origins else torch.zeros(count, 0, dtype=torch.long)
        return Tiles(left, at, edges, False, tuple(sizes))

    @staticmethod
    def _starts(size: int, edge: int) -> Tensor:
        count = ceil(size / edge)
        return torch.linspace(0, size - edge, count).round().long() if count > 1 else torch.zeros(1, dtype=torch.long)


def crops(x: Tensor, tiles: Tiles, window: Window, halo: Sides | None = None) -> Tensor:
    """What a window reads under each tile and its halo, padding included: (N, C, *spatial) -> (K, C, *extent).

    Only the positions asked for are copied; in memory the channels stand last.
    """
    dims, device = len(tiles.size), x.device
    halo = halo or ((0, 0),) * dims
    extent = window.span([s + left + right for s, (left, right) in zip(tiles.size, halo, strict=True)])
    index: list[Any] = [tiles.entries.reshape(-1, *[1] * dims).to(device), slice(None)]
    known = torch.ones(1, *[1] * dims, dtype=torch.bool)
    for axis in range(dims):
        first = (tiles.origins[:, axis] - halo[axis][0]) * window.stride[axis] - window.before[axis]
        at = first[:, None] + torch.arange(extent[axis])
        at, inside = _source(at, x.shape[2 + axis], window.mode)
        known = known & _along(axis, dims, inside)
        index.append(_along(axis, dims, at).to(device))
    # An index on both sides of a slice puts the indexed dimensions first: (K, *extent, C).
    found = x[tuple(index)]
    found = found.movedim(-1, 1) if dims else found
    return found if bool(known.all()) else found.mul_(known.unsqueeze(1).to(device))


def _source(at: Tensor, length: int, mode: str) -> tuple[Tensor, Tensor]:
    """Input positions that positions of the padded input come from, and whether they hold a value at all."""
    inside = (at >= 0) & (at < length)
    if mode == "circular":
        return at.remainder(length), torch.ones_like(inside)
    if mode == "reflect":
        # What lies beyond a mirrored half is outside any map and masked by the caller.
        at = at.abs()
        at = torch.where(at >= length, 2 * (length - 1) - at, at)
        return at.clamp(0, length - 1), torch.ones_like(inside)
    return at.clamp(0, length - 1), inside if mode in ("zeros", "constant") else torch.ones_like(inside)


def as_maps(value: Tensor, layer: Any) -> Tensor:
    """A layer's input or output with its channels second: a linear layer's (N, …, C) -> (N, C, L)."""
    return value.reshape(len(value), -1, value.shape[-1]).transpose(1, 2) if isinstance(layer, nn.Linear) else value


@dataclass
class Samples:
    """A layer's inputs at the tiles of all batches, in parts of one size each."""

    window: Window
    halo: Sides
    """Output positions around each tile whose inputs are there too."""
    inputs: list[Tensor]
    """(K, C, *extent)"""
    inside: list[Tensor | None]
    """(K, 1, *size + halo): where a tile's halo lies in the map; None when everywhere."""
    sizes: list[tuple[int, ...]]
    """Output positions of a part's tiles, per spatial dimension."""
    whole: bool
    """Whether tiles are whole maps; then there is no halo."""

    def thinned(self, step: int) -> Samples:
        """Every step-th tile."""
        inside = [None if t is None else t[::step] for t in self.inside]
        return Samples(self.window, self.halo, [x[::step] for x in self.inputs], inside, self.sizes, self.whole)

    @cached_property
    def inner(self) -> list[Tensor]:
        """What the tiles alone read."""
        found = []
        for x in self.inputs:
            cut: list[Any] = [slice(None), slice(None)]
            for axis, (left, right) in enumerate(self.halo):
                s = self.window.stride[axis]
                cut.append(slice(left * s, x.shape[2 + axis] - right * s))
            found.append(x[tuple(cut)])
        return found
