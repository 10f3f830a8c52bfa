"""Fits a ghost convolution to given outputs: which maps are intrinsic, who is whose ghost, and both sets of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ghostsearch.blocks.ghost import Wavelet
from ghostsearch.surgery.least_squares import NormalEquations, damped, padded, parts, unfolded
from ghostsearch.surgery.shelf import kept

CONVOLVE: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}
Batches = Sequence[Tensor]


@dataclass
class GhostFit:
    """Weights under fit; outputs stand in block order: m intrinsic maps, then (s-1)·m ghosts, unused ones last."""

    block: Any
    """The GhostConv."""
    primary: Tensor
    kernels: Tensor
    """(ghosts, 1, *taps)"""

    @classmethod
    def of(cls, block: Any) -> GhostFit:
        """From the block's present weights."""
        return cls(block, block.primary.weight.detach().clone(), block.cheap.weight.detach().clone())

    @property
    def intrinsic(self) -> int:
        return self.primary.shape[0]

    @property
    def margins(self) -> list[int]:
        """How the cheap operation pads, in F.pad's order."""
        if isinstance(self.block.cheap, Wavelet):
            return [0, 1] * (self.primary.dim() - 2)
        return [side for k in reversed(self.kernels.shape[2:]) for side in (k // 2, k // 2)]

    def maps(self, x: Tensor, primary: Tensor) -> Tensor:
        """Intrinsic maps of an input that is padded already."""
        conv = self.block.primary
        return CONVOLVE[x.dim()](x, primary, None, conv.stride, 0, conv.dilation, conv.groups)

    def outputs(self, x: Tensor, primary: Tensor) -> Tensor:
        """All maps in block order, cut to the convolution's channels."""
        maps = self.maps(x, primary)
        ghosts = CONVOLVE[x.dim()](F.pad(maps, self.margins), self.kernels, groups=self.intrinsic)
        return torch.cat([maps, ghosts], 1)[:, : self.block.out_channels]

    def gradient(self, x: Tensor, residual: Tensor) -> Tensor:
        """Derivative of ½|residual|² by the primary's filters. x is padded already."""
        back, from_ghosts = residual[:, : self.intrinsic], residual[:, self.intrinsic :]
        missing = len(self.kernels) - from_ghosts.shape[1]
        if missing:
            from_ghosts = F.pad(from_ghosts, [0, 0] * (x.dim() - 2) + [0, missing])
        spread = TRANSPOSED[x.dim()](from_ghosts, self.kernels, groups=self.intrinsic)
        inner = tuple(
            slice(left, spread.shape[2 + axis] - right) for axis, (left, right) in enumerate(_pairs(self.margins))
        )
        back = back + spread[(slice(None), slice(None), *inner)]
        conv, dims = self.block.primary, x.dim() - 2
        return torch.ops.aten.convolution_backward(
            back.contiguous(), x, self.primary, None, conv.stride, [0] * dims, conv.dilation, False, [0] * dims,
            conv.groups, [False, True, False],
        )[1]  # fmt: skip


def _pairs(margins: list[int]) -> list[tuple[int, int]]:
    return list(zip(margins[::2], margins[1::2], strict=True))[::-1]


def shifted(maps: Tensor, margins: list[int], taps: Sequence[int]) -> Tensor:
    """The maps as each tap of the cheap kernel sees them: (N, m, *spatial) -> (m, taps, N · positions)."""
    ones = [1] * len(taps)
    return unfolded(F.pad(maps, margins), taps, ones, ones)


def seen_parts(
    fit: GhostFit, primary: Tensor, inputs: Iterable[Tensor], targets: Batches
) -> Iterator[tuple[Tensor, Tensor]]:
    """What each tap of the cheap kernel sees of the primary's maps, and the targets (n, rows) there, part by part.

    inputs are padded already.
    """
    taps = fit.kernels.shape[2:]
    for x, t in zip(inputs, targets, strict=True):
        positions = t[0, 0].numel()
        for part in parts(len(x), len(primary) * positions * int(np.prod(taps))):
            yield shifted(fit.maps(x[part], primary), fit.margins, taps), t[part].flatten(2).transpose(0, 1).flatten(1)


def choose_order(block: Any, equations: NormalEquations, full: Tensor, explained: Tensor, weight: Tensor) -> Tensor:
    """Original channel at each place of the block: intrinsic ones, then their ghosts, so that the whole is best
    predicted.

    Every channel's least-squares prediction from every other's map by a cheap kernel gives an explained variance;
    facility location picks the intrinsic channels, linear assignment the ghosts' parents. full: filters that
    predict the
    targets without constraint; explained: what `explained_variance` finds for them; weight: (n,) importance of an
    output channel's squared error.
    """
    gain = (explained * weight[None]).clamp_min(0)
    own = _own_variance(equations, full) * weight
    n, m, groups = block.out_channels, block.primary.out_channels, block.groups
    chosen = _facility_location(gain.numpy(), own.numpy(), m // groups, groups)
    rest = [j for j in range(n) if j not in set(chosen)]
    seats = [i for i in chosen for _ in range(len(block.cheap.weight) // m)]
    cost = -gain.numpy()[np.ix_(seats, rest)]
    rows, columns = linear_sum_assignment(cost)
    ghost_at = {int(r): rest[int(c)] for r, c in zip(rows, columns, strict=True)}
    return _packed(chosen, seats, ghost_at, n)


def _packed(chosen: list[int], seats: list[int], ghost_at: dict[int, int], n: int) -> Tensor:
    """Where s·m > n some seats stay empty; they must be the last ones, which the block cuts off."""
    per_map = len(seats) // len(chosen)
    full = sorted(range(len(chosen)), key=lambda i: -sum(i * per_map + k in ghost_at for k in range(per_map)))
    ghosts = []
    for i in full:
        ghosts += [ghost_at[i * per_map + k] for k in range(per_map) if i * per_map + k in ghost_at]
    return torch.tensor([chosen[i] for i in full] + ghosts)[:n]


def explained_variance(block: Any, full: Tensor, inputs: Batches, targets: Batches) -> Tensor:
    """Variance of target j (columns) that the map of channel i (rows) explains through a cheap kernel, summed
    over rows.
    """
    n, fit = block.out_channels, GhostFit.of(block)
    taps = fit.kernels.shape[2:]
    q = int(np.prod(taps))
    xx = torch.zeros(n, q, q, dtype=torch.float64)
    xt = torch.zeros(n * q, n, dtype=torch.float64)
    sx, st = torch.zeros(n, q, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    rows = 0
    for views, flat in seen_parts(fit, full, (padded(x, block.primary) for x in inputs), targets):
        xx += views @ views.transpose(1, 2)
        xt += views.flatten(0, 1) @ flat.T
        sx += views.sum(-1)
        st += flat.sum(-1)
        rows += flat.shape[1]
    xx -= sx[:, :, None] * sx[:, None] / rows
    cross = xt.reshape(n, q, n) - sx[:, :, None] * st / rows
    if isinstance(block.cheap, Wavelet):
        # Which band a ghost gets depends on its seat; the best band stands for all here.
        bands = block.cheap.filters[: 2 ** len(taps)].flatten(1).double()
        power = torch.einsum("bq,nqp,bp->nb", bands, xx, bands).clamp_min(1e-12)
        explained = (torch.einsum("bq,nqj->nbj", bands, cross).square() / power[..., None]).amax(1)
    else:
        explained = (cross * torch.linalg.solve(damped(xx, 1e-6), cross)).sum(1)
    return explained


def _own_variance(equations: NormalEquations, full: Tensor) -> Tensor:
    """Variance that each channel's own filter explains."""
    filters = full.double().reshape(equations.groups, -1, equations.features)
    return (filters.transpose(1, 2) * equations.centred_xt()).sum(1).flatten()


def _facility_location(gain: np.ndarray, own: np.ndarray, per_group: int, groups: int) -> list[int]:
    """Greedy choice of the channels that explain most when each other channel leans on the best one chosen."""
    n = len(own)
    quota = np.full(groups, per_group)
    best, taken = np.zeros(n), np.zeros(n, dtype=bool)
    value = gain.copy()
    np.fill_diagonal(value, own)
    chosen: list[int] = []
    for _ in range(per_group * groups):
        gained = np.maximum(value - best[None], 0).sum(1)
        gained[taken | (quota[np.arange(n) * groups // n] == 0)] = -1
        pick = int(gained.argmax())
        chosen.append(pick)
        taken[pick] = True
        quota[pick * groups // n] -= 1
        best = np.maximum(best, value[pick])
    return sorted(chosen, key=lambda i: i * groups // n)


def fit_kernels(fit: GhostFit, inputs: Batches, targets: Batches, *, intercept: bool) -> None:
    """Least-squares cheap kernels for the present primary. inputs are padded already; targets in block order."""
    m, ghosts, taps = fit.intrinsic, len(fit.kernels), fit.kernels.shape[2:]
    q, per_map = int(np.prod(taps)), ghosts // fit.intrinsic
    xx = torch.zeros(m, q, q, dtype=torch.float64)
    xt = torch.zeros(m, q, per_map, dtype=torch.float64)
    sx, st, rows = torch.zeros(m, q, dtype=torch.float64), torch.zeros(m, per_map, dtype=torch.float64), 0
    for views, flat in seen_parts(fit, fit.primary, inputs, targets):
        wanted = torch.zeros(ghosts, views.shape[-1])
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
    if isinstance(fit.block.cheap, Wavelet):
        filters = fit.block.cheap.filters.flatten(1).double().reshape(m, per_map, q)
        power = torch.einsum("mgq,mqp,mgp->mg", filters, xx, filters).clamp_min(1e-12)
        scale = torch.einsum("mgq,mqg->mg", filters, xt) / power
        kernels = filters * scale[..., None]
    else:
        kernels = torch.linalg.solve(damped(xx, 1e-6), xt).transpose(1, 2)
    fit.kernels = kernels.reshape(fit.kernels.shape).to(fit.kernels.dtype)


class JointFit:
    """Conjugate gradients on the primary's filters with the cheap kernels held: each filter serves its map and
    its ghosts.

    For fixed kernels the outputs are linear in the primary, so each step is exact least squares in a growing
    subspace; the
    inputs' covariance preconditions it. Filters are independent problems and share every pass over the data.
    """

    def __init__(
        self, fit: GhostFit, equations: NormalEquations, weight: Tensor, *, intercept: bool, ridge: float
    ) -> None:
        self.fit, self.weight, self.intercept = fit, weight, intercept
        self.factor = equations.factor(ridge, intercept=intercept)

    def run(self, inputs: Batches, outputs: list[Tensor], targets: Batches, steps: int) -> list[Tensor]:
        """Improve the primary by some steps; returns the outputs at its new filters."""
        fit = self.fit
        direction: Any = None
        previous: Any = None
        for _ in range(steps):
            residual = self._centred([kept(t - o) for t, o in zip(targets, outputs, strict=True)])
            scale = self.weight.reshape(-1, *[1] * (residual[0].dim() - 2))
            gradient: Any = sum(fit.gradient(x, r * scale) for x, r in zip(inputs, residual, strict=True))
            step = self._preconditioned(gradient)
            slope = (step * gradient).flatten(1).sum(1)
            if direction is None:
                direction = step
            else:
                direction = step + _spread(slope / previous.clamp_min(1e-30), step) * direction
            previous = slope
            change = [kept(fit.outputs(x, direction)) for x in inputs]
            moved = self._centred(change)
            toward = self._per_filter(r * c for r, c in zip(residual, moved, strict=True))
            length = self._per_filter(c * c for c in moved)
            rate = toward / length.clamp_min(1e-30)
            fit.primary = fit.primary + _spread(rate, direction) * direction
            channel = self._of_channel(rate).reshape(-1, *[1] * (residual[0].dim() - 2))
            outputs = [kept(o + c * channel) for o, c in zip(outputs, change, strict=True)]
        return outputs

    def _preconditioned(self, gradient: Tensor) -> Tensor:
        groups = len(self.factor)
        columns = gradient.double().reshape(groups, -1, self.factor.shape[-1]).transpose(1, 2)
        return torch.cholesky_solve(columns, self.factor).transpose(1, 2).reshape(gradient.shape).to(gradient.dtype)

    def _centred(self, values: list[Tensor]) -> list[Tensor]:
        return centred(values) if self.intercept else values

    def _of_channel(self, per_filter: Tensor) -> Tensor:
        per_map = len(self.fit.kernels) // self.fit.intrinsic
        return torch.cat([per_filter, per_filter.repeat_interleave(per_map)])[: self.fit.block.out_channels]

    def _per_filter(self, values: Iterable[Tensor]) -> Tensor:
        m, ghosts = self.fit.intrinsic, len(self.fit.kernels)
        per_channel = sum(v.transpose(0, 1).flatten(1).sum(1) for v in values) * self.weight
        total = torch.zeros(m + ghosts)
        total[: len(per_channel)] = per_channel
        return total[:m] + total[m:].reshape(m, -1).sum(1)


def _spread(per_filter: Tensor, like: Tensor) -> Tensor:
    return per_filter.reshape(-1, *[1] * (like.dim() - 1))


def centred(values: list[Tensor]) -> list[Tensor]:
    """Values less their channel means over all batches."""
    mean = channel_means(values)
    return [kept(v - mean) for v in values]


def channel_means(values: Sequence[Tensor]) -> Tensor:
    """Mean of each channel over all batches and positions, shaped to broadcast: (n, 1, …)."""
    dims = [0, *range(2, values[0].dim())]
    total: Any = sum(v.sum(dims).double() for v in values)
    count = sum(v.numel() // v.shape[1] for v in values)
    return (total / count).to(values[0].dtype).reshape(-1, *[1] * (values[0].dim() - 2))
