"""Fits a ghost convolution's weights on sampled rows: primary filters and cheap kernels alternately."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostsearch.blocks.cheap import Wavelet
from ghostsearch.fits.few_rows import FewRows
from ghostsearch.fits.least_squares import NormalEquations, by_channel, damped, parts, unfolded, weight_gradient
from ghostsearch.fits.problem import CONVOLVE, Batches, channel_means, spread
from ghostsearch.fits.sampled_rows import Samples, Sides

TRANSPOSED: dict[int, Callable[..., Tensor]] = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


def seen(maps: Tensor, taps: Sequence[int]) -> Tensor:
    """Maps with their halo as each tap of a cheap kernel sees them: (K, m, *size + halo) -> (m, taps, rows)."""
    ones = [1] * len(taps)
    return unfolded(maps, taps, ones, ones)


@dataclass
class GhostFit:
    """Weights under fit; outputs stand in block order: m intrinsic maps, then (s-1)·m ghosts, unused ones last."""

    block: Any
    """The GhostConv."""
    samples: Samples
    """Inputs with the halo that the cheap operation needs."""
    primary: Tensor
    kernels: Tensor
    """(ghosts, 1, *taps)"""
    maps: list[Tensor] = field(default_factory=list)
    """Intrinsic maps of each part at the present primary, with the halo around them."""

    @classmethod
    def of(cls, block: Any, samples: Samples) -> GhostFit:
        """From the block's present weights; no maps yet."""
        return cls(block, samples, block.primary.weight.detach().clone(), block.cheap.weight.detach().clone())

    def start(self, primary: Tensor) -> None:
        """Take the primary's filters and compute their maps."""
        self.primary, self.maps = primary, self.maps_at(primary)

    @property
    def intrinsic(self) -> int:
        return self.primary.shape[0]

    @property
    def halo(self) -> Sides:
        return self.block.halo

    def maps_at(self, primary: Tensor) -> list[Tensor]:
        """Intrinsic maps with the halo around them, zero outside the map as the cheap operation pads it."""
        return [self._mapped(part, primary) for part in range(len(self.samples.inputs))]

    def _mapped(self, part: int, primary: Tensor) -> Tensor:
        conv, x = self.block.primary, self.samples.inputs[part]
        return self.extended(CONVOLVE[x.dim()](x, primary, None, conv.stride, 0, conv.dilation, conv.groups), part)

    def extended(self, maps: Tensor, part: int) -> Tensor:
        """Maps with their halo, zero where it lies outside: whole maps have none yet."""
        if self.samples.whole:
            return F.pad(maps, [side for pair in reversed(self.halo) for side in pair])
        inside = self.samples.inside[part]
        return maps if inside is None else maps * inside

    def maps_of(self, part: int, full: Tensor, at: Tensor) -> Tensor:
        """The maps of some channels of all n filters."""
        whole = self.block.primary.groups > 1
        return self._mapped(part, full)[:, at] if whole else self._mapped(part, full[at])

    def core(self, values: Tensor) -> Tensor:
        """Values with a halo, without it."""
        cut = [slice(left, values.shape[2 + axis] - right) for axis, (left, right) in enumerate(self.halo)]
        return values[(slice(None), slice(None), *cut)]

    def outputs(self, maps: Batches) -> list[Tensor]:
        """All channels at the tiles in block order, cut to the convolution's, from intrinsic maps."""
        return [self._output(m) for m in maps]

    def _output(self, maps: Tensor) -> Tensor:
        ghosts = CONVOLVE[maps.dim()](maps, self.kernels, groups=self.intrinsic)
        return torch.cat([self.core(maps), ghosts], 1)[:, : self.block.out_channels]

    def gradient(self, part: int, residual: Tensor) -> Tensor:
        """Negative derivative of ½|residual|², residual = target − output, by the primary's filters."""
        x, conv = self.samples.inputs[part], self.block.primary
        from_ghosts = residual[:, self.intrinsic :]
        missing = len(self.kernels) - from_ghosts.shape[1]
        if missing:
            from_ghosts = F.pad(from_ghosts, [0, 0] * (x.dim() - 2) + [0, missing])
        back = TRANSPOSED[x.dim()](from_ghosts, self.kernels, groups=self.intrinsic)
        self.core(back).add_(residual[:, : self.intrinsic])
        inside = self.samples.inside[part]
        if self.samples.whole:
            back = self.core(back)
        elif inside is not None:
            back = back * inside
        return weight_gradient(x, back, self.primary, conv)

    def fit_kernels(self, targets: Batches, *, intercept: bool) -> None:
        """Least-squares cheap kernels for the present primary. targets: per part (K, n, *size) in block order."""
        m, ghosts, taps = self.intrinsic, len(self.kernels), self.kernels.shape[2:]
        q, per_map = self.kernels[0].numel(), ghosts // m
        double: Any = {"dtype": torch.float64, "device": self.primary.device}
        xx, xt = torch.zeros(m, q, q, **double), torch.zeros(m, q, per_map, **double)
        sx, st, rows = torch.zeros(m, q, **double), torch.zeros(m, per_map, **double), 0
        for maps, target in _pieces(self.maps, targets, q):
            views, flat = seen(maps, taps), by_channel(target)
            wanted = views.new_zeros(ghosts, views.shape[-1])
            wanted[: len(flat) - m] = flat[m:]
            wanted = wanted.reshape(m, per_map, -1)
            xx += views @ views.transpose(1, 2)
            xt += views @ wanted.transpose(1, 2)
            sx += views.sum(-1)
            st += wanted.sum(-1)
            rows += views.shape[-1]
        if intercept:
            xx -= sx[:, :, None] * sx[:, None] / rows
            xt -= sx[:, :, None] * st[:, None] / rows
        self.kernels = self._solved(xx, xt).reshape(self.kernels.shape).to(self.kernels.dtype)

    def _solved(self, xx: Tensor, xt: Tensor) -> Tensor:
        if not isinstance(self.block.cheap, Wavelet):
            return torch.linalg.solve(damped(xx, 1e-6), xt).transpose(1, 2)
        m, q, per_map = xt.shape
        filters = self.block.cheap.filters.flatten(1).double().reshape(m, per_map, q)
        power = torch.einsum("mgq,mqp,mgp->mg", filters, xx, filters).clamp_min(1e-12)
        return filters * (torch.einsum("mgq,mqg->mg", filters, xt) / power)[..., None]

    def write(self) -> None:
        """Put the weights into the block, biases at zero."""
        block = self.block
        with torch.no_grad():
            block.primary.weight.copy_(self.primary)
            if isinstance(block.cheap, Wavelet):
                filters = block.cheap.filters.flatten(1)
                coefficient = (self.kernels.flatten(1) * filters).sum(1) / filters.square().sum(1)
                block.cheap.scale.copy_(coefficient.reshape(block.cheap.scale.shape))
            else:
                block.cheap.weight.copy_(self.kernels)
            for bias in (block.primary.bias, block.cheap.bias):
                if bias is not None:
                    bias.zero_()

    def shift(self, offset: Tensor) -> None:
        """Set the block's biases so that the mean of each output moves by its offset (block order): a ghost sees the
        bias of its map too.
        """
        block, m, n = self.block, self.intrinsic, self.block.out_channels
        if block.primary.bias is None or block.cheap.bias is None:
            return
        moved, rows = torch.zeros(len(self.kernels), dtype=torch.float64, device=offset.device), 0
        for part, x in enumerate(self.samples.inputs):
            size = [
                s + (0 if self.samples.whole else left + right)
                for s, (left, right) in zip(self.samples.sizes[part], self.halo, strict=True)
            ]
            bias = self.extended(x.new_ones(len(x), 1, *size), part) * offset[:m].reshape(1, -1, *[1] * len(self.halo))
            shifted = by_channel(CONVOLVE[bias.dim()](bias, self.kernels, groups=m))
            moved += shifted.double().sum(1)
            rows += shifted.shape[1]
        with torch.no_grad():
            block.primary.bias.copy_(offset[:m])
            block.cheap.bias[: n - m] = offset[m:] - (moved / rows).to(offset.dtype)[: n - m]


class JointFit:
    """Conjugate gradients on the primary's filters with the cheap kernels held: each filter serves its map and
    its ghosts.

    For fixed kernels the outputs are linear in the primary, so each step is exact least squares in a growing
    subspace; the inputs' covariance preconditions it. Filters are independent problems and share every pass over the
    rows.
    """

    def __init__(
        self, fit: GhostFit, equations: NormalEquations | FewRows, weight: Tensor, *, intercept: bool, ridge: float
    ) -> None:
        self.fit, self.weight, self.intercept = fit, weight, intercept
        self.equations, self.ridge = equations, ridge

    def run(self, outputs: list[Tensor], targets: Batches, steps: int) -> list[Tensor]:
        """Improve the primary by some steps; returns the outputs at its new filters, in the memory of the given."""
        fit = self.fit
        direction: Any = None
        previous: Any = None
        for _ in range(steps):
            residual = self._centred([t - o for t, o in zip(targets, outputs, strict=True)])
            scale = spread(self.weight, residual[0])
            gradient: Any = sum(fit.gradient(part, r * scale) for part, r in enumerate(residual))
            step = self._preconditioned(gradient)
            slope = (step * gradient).flatten(1).sum(1)
            if direction is None:
                direction = step
            else:
                direction = step + _of_filter(slope / previous.clamp_min(1e-30), step) * direction
            previous = slope
            maps = fit.maps_at(direction)
            change = fit.outputs(maps)
            moved = self._centred(change)
            toward = self._per_filter(r * c for r, c in zip(residual, moved, strict=True))
            length = self._per_filter(c * c for c in moved)
            rate = toward / length.clamp_min(1e-30)
            fit.primary = fit.primary + _of_filter(rate, direction) * direction
            for before, step_maps in zip(fit.maps, maps, strict=True):
                before.addcmul_(step_maps, spread(rate, before))
            for before, step_outputs in zip(outputs, change, strict=True):
                before.addcmul_(step_outputs, spread(self._of_channel(rate), before))
        return outputs

    def _preconditioned(self, gradient: Tensor) -> Tensor:
        equations = self.equations
        columns = gradient.double().reshape(equations.groups, -1, equations.features).transpose(1, 2)
        found = equations.inverse_times(columns, self.ridge)
        return found.transpose(1, 2).reshape(gradient.shape).to(gradient.dtype)

    def _centred(self, values: list[Tensor]) -> list[Tensor]:
        if not self.intercept:
            return values
        mean = spread(channel_means(values), values[0])
        return [v - mean for v in values]

    def _of_channel(self, per_filter: Tensor) -> Tensor:
        per_map = len(self.fit.kernels) // self.fit.intrinsic
        return torch.cat([per_filter, per_filter.repeat_interleave(per_map)])[: self.fit.block.out_channels]

    def _per_filter(self, values: Iterable[Tensor]) -> Tensor:
        m, ghosts = self.fit.intrinsic, len(self.fit.kernels)
        per_channel: Any = sum(by_channel(v).sum(1) for v in values) * self.weight
        total = per_channel.new_zeros(m + ghosts)
        total[: len(per_channel)] = per_channel
        return total[:m] + total[m:].reshape(m, -1).sum(1)


def _pieces(maps: Batches, targets: Batches, taps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts cut further, so that what all taps of a kernel see stays small."""
    for some, wanted in zip(maps, targets, strict=True):
        for piece in parts(len(some), some[0].numel() * taps):
            yield some[piece], wanted[piece]


def _of_filter(per_filter: Tensor, like: Tensor) -> Tensor:
    return per_filter.reshape(-1, *[1] * (like.dim() - 1))
