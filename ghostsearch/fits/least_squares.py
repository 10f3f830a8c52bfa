"""Least squares for one layer from sampled rows, by normal equations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostsearch.fits.sampled_rows import per_dimension

PART_ELEMENTS = 2**22
"""Numbers in one matrix of patches; more are taken in parts, whose memory is used again: from 32 MiB on it would come
anew from the system each time.
"""

DOUBLE_ELEMENTS = 2**18

GRAM_BLOCK = 512
"""Features whose products with themselves and all later ones are computed at once."""

DOUBLE_FEATURES = 512
"""Up to so many unknowns, x·xᵀ is summed and solved in double precision; beyond, in single and in place: it takes half
of the time and a third of the memory, and what it rounds off is far below the ridge.
"""


def unfolded(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """What each tap of a kernel reads of an input that is padded already: (N, C, *spatial) -> (C, taps, N · positions).

    A 1×1 kernel's is a view where the memory order allows it.
    """
    sizes = [
        (length - d * (k - 1) - 1) // s + 1
        for length, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    spans = [
        [
            slice(o * d, o * d + s * (size - 1) + 1, s)
            for o, d, s, size in zip(offsets, dilation, stride, sizes, strict=True)
        ]
        for offsets in product(*[range(k) for k in kernel])
    ]
    by_channel = x.transpose(0, 1)
    if len(spans) == 1:
        return by_channel[(slice(None), slice(None), *spans[0])].flatten(1).unsqueeze(1)
    # Put in order once, and each tap then copied straight to its place: memory is what this costs.
    by_channel = by_channel.contiguous()
    columns = x.new_empty(x.shape[1], len(spans), x.shape[0], *sizes)
    for tap, span in enumerate(spans):
        columns[:, tap] = by_channel[(slice(None), slice(None), *span)]
    return columns.flatten(2)


def patches(x: Tensor, layer: Any) -> Tensor:
    """What each output position reads of an input that is padded already: (groups, C/groups · taps, N · positions).

    x: (N, C, *spatial); a linear layer's as `sampled_rows.as_maps` gives it.
    """
    if isinstance(layer, nn.Linear):
        return x.transpose(0, 1).flatten(1).unsqueeze(0)
    columns = unfolded(x, layer.kernel_size, per_dimension(layer, "stride"), per_dimension(layer, "dilation"))
    return columns.reshape(layer.groups, -1, columns.shape[-1])


def by_channel(values: Tensor) -> Tensor:
    """(N, n, *spatial) -> (n, N · positions)"""
    return values.transpose(0, 1).flatten(1)


def parts(entries: int, values: int) -> Iterator[slice]:
    """Slices of a batch that stay below PART_ELEMENTS when each of its entries makes so many values."""
    step = max(1, PART_ELEMENTS // max(1, values))
    for start in range(0, entries, step):
        yield slice(start, start + step)


def gram(columns: Tensor) -> Tensor:
    """columns · columnsᵀ from half of its blocks, symmetric to the bit: (groups, f, r) -> (groups, f, f)."""
    features = columns.shape[1]
    product = columns.new_zeros(len(columns), features, features)
    add_upper(product, columns)
    mirror(product)
    return product


def add_upper(total: Tensor, columns: Tensor) -> None:
    """Add columns · columnsᵀ to a matrix in place, the blocks below its diagonal left out."""
    for start in range(0, columns.shape[1], GRAM_BLOCK):
        rows = slice(start, start + GRAM_BLOCK)
        total[:, rows, start:].baddbmm_(columns[:, rows], columns[:, start:].mT)


def mirror(total: Tensor) -> None:
    """Fill the blocks below the diagonal in place, so that the matrix is symmetric to the bit."""
    for start in range(0, total.shape[1], GRAM_BLOCK):
        end = start + GRAM_BLOCK
        total[:, end:, start:end] = total[:, start:end, end:].mT
        square = total[:, start:end, start:end]
        # Not every processor gives both halves of a product with itself the same bits.
        square.copy_((square + square.mT) / 2)


def weight_gradient(x: Tensor, residual: Tensor, weight: Tensor, layer: Any) -> Tensor:
    """Products of what a convolution's filters read with a residual at its outputs, summed: shaped like `weight`.

    x: (N, C, *spatial), padded already; layer: gives stride, dilation, groups.
    """
    none = [0] * (x.dim() - 2)
    backward = torch.ops.aten.convolution_backward
    sides = (per_dimension(layer, "stride"), none, per_dimension(layer, "dilation"), False, none, layer.groups)
    found: Tensor = backward(residual.contiguous(), x, weight, None, *sides, [False, True, False])[1]
    return found


class NormalEquations:
    """Sums of x·xᵀ and x·tᵀ over rows, for a convolution or a linear layer; x are patches, t targets.

    intercept: whether a constant per output is fitted too.
    """

    def __init__(self, layer: _ConvNd | nn.Linear, *, intercept: bool = True) -> None:
        self.layer, self.intercept = layer, intercept
        self.groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        self.features, self.outputs = layer.weight[0].numel(), layer.weight.shape[0]
        self.double: Any = {"dtype": torch.float64, "device": layer.weight.device}
        dtype = torch.float64 if self.features <= DOUBLE_FEATURES else torch.float32
        self.xx = torch.zeros(self.groups, self.features, self.features, dtype=dtype, device=layer.weight.device)
        self.mirrored = True
        self.x = torch.zeros(self.groups, self.features, **self.double)
        self.rows = 0
        self.factors: dict[float, Tensor] = {}
        self.clear_targets()

    def clear_targets(self) -> None:
        """Forget the targets, keep the inputs."""
        per_group = self.outputs // self.groups
        self.xt = torch.zeros(self.groups, self.features, per_group, **self.double)
        self.t = torch.zeros(self.groups, per_group, **self.double)

    def add(self, x: Tensor, t: Tensor | None, *, inputs: bool = True) -> None:
        """Take in inputs that are padded already and targets (N, n, *spatial); `inputs=False` when these inputs are
        in the sums.
        """
        if t is not None and not inputs and not isinstance(self.layer, nn.Linear):
            found = weight_gradient(x, t, self.layer.weight, self.layer)
            self.xt += found.reshape(self.groups, -1, self.features).mT
            self.t += t.transpose(0, 1).flatten(1).sum(1).reshape(self.groups, -1)
            return
        taps = self.features * self.groups // x.shape[1]
        for part in parts(len(x), x[0].numel() * taps):
            columns = patches(x[part].float(), self.layer)
            # Few rows are cheap to add in double precision, and few rows are where rounding would hurt.
            few = columns.numel() <= DOUBLE_ELEMENTS and self.xx.dtype == torch.float64
            columns = columns.double() if few else columns
            if t is not None:
                targets = by_channel(t[part].to(columns.dtype)).reshape(self.groups, -1, columns.shape[-1])
                self.xt += columns @ targets.transpose(1, 2)
                self.t += targets.sum(-1)
            if inputs:
                self._add_inputs(columns)

    def _add_inputs(self, columns: Tensor) -> None:
        if self.xx.dtype == torch.float64:
            self.xx += gram(columns)
        else:
            add_upper(self.xx, columns)
            self.mirrored = False
        self.x += columns.sum(-1)
        self.rows += columns.shape[-1]

    def centred(self) -> Tensor:
        """x·xᵀ of the inputs, less their means where there is an intercept to take them up."""
        xx = self._moments()
        if not self.intercept:
            return xx
        mean = (self.x / self.rows**0.5).to(xx.dtype)
        return torch.baddbmm(xx, mean[:, :, None], mean[:, None, :], alpha=-1)

    def _moments(self) -> Tensor:
        if not self.mirrored:
            mirror(self.xx)
            self.mirrored = True
        return self.xx

    def _centred_xt(self) -> Tensor:
        return torch.baddbmm(self.xt, self.x[:, :, None], self.t[:, None, :], alpha=-1 / self.rows)

    def explained(self, weight: Tensor) -> Tensor:
        """(n,) what each output's filter has in common with its target, summed over rows: Σ (w·x)(t), less the means.

        weight: (n, C/groups, *kernel)
        """
        filters = weight.double().reshape(self.groups, -1, self.features)
        return (filters.transpose(1, 2) * self._centred_xt()).sum(1).flatten()

    def inverse_times(self, columns: Tensor, ridge: float) -> Tensor:
        """(x·xᵀ + ridge · its mean diagonal)⁻¹ · columns, the factor kept: only the targets change between fits.

        columns: (groups, features, k)
        """
        if ridge not in self.factors:
            xx = self.centred()
            # What float32 products lose of the raw moments must not outweigh the damping.
            floor = 3e-6 * self.xx.diagonal(dim1=-2, dim2=-1).mean(-1)
            self.factors[ridge] = cholesky(raised(xx, floor), ridge)
        factor = self.factors[ridge]
        return torch.cholesky_solve(columns.to(factor.dtype), factor).double()

    def solve(self, prior: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Weights shaped like the layer's and intercepts (n,) of the least-squares fit, drawn to `prior` by the
        ridge.
        """
        start = prior.double().reshape(self.groups, -1, self.features).transpose(1, 2)
        product = (self._moments() @ start.to(self.xx.dtype)).double()
        missing = (self._centred_xt() if self.intercept else self.xt) - product
        if self.intercept:
            missing += self.x[:, :, None] * (self.x[:, None, :] @ start) / self.rows
        weight = start + self.inverse_times(missing, ridge)
        offset = (self.t - (self.x[:, None, :] @ weight)[:, 0]) / self.rows
        if not self.intercept:
            offset = torch.zeros_like(offset)
        return weight.transpose(1, 2).reshape(prior.shape).to(prior.dtype), offset.flatten().to(prior.dtype)


def cholesky(xx: Tensor, ridge: float) -> Tensor:
    """Factor of the damped x·xᵀ; with thousands of features and few rows, rounding may ask for more damping."""
    for times in (1.0, 10.0, 100.0, 1000.0):
        factor, failed = torch.linalg.cholesky_ex(damped(xx, max(ridge, 1e-6) * times if times > 1 else ridge))
        if not failed.any():
            return factor
        if xx.dtype == torch.float32:
            return cholesky(xx.double(), ridge).float()
    return torch.linalg.cholesky(damped(xx, 0.1))


def damped(xx: Tensor, ridge: float) -> Tensor:
    """x·xᵀ with `ridge` times its mean diagonal added, so that it can be inverted. xx: (…, f, f)"""
    return raised(xx, xx.diagonal(dim1=-2, dim2=-1).mean(-1) * ridge + 1e-10)


def floored(metric: Tensor) -> Tensor:
    """An output metric with a hundredth of its mean diagonal added: some outputs have hardly any gradient. (…, n, n)"""
    return raised(metric, 1e-2 * metric.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-30)


def raised(xx: Tensor, level: Tensor) -> Tensor:
    """A copy with a level added to each diagonal. xx: (…, f, f), level: (…)"""
    copy = xx.clone()
    copy.diagonal(dim1=-2, dim2=-1).add_(level[..., None])
    return copy
