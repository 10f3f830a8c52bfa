"""Least squares for one layer where its rows are fewer than its unknowns: the rows are kept, the dual is solved."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostsearch.fits.least_squares import (
    DOUBLE_FEATURES,
    NormalEquations,
    by_channel,
    cholesky,
    gram,
    parts,
    patches,
)


class FewRows:
    """Rows of patches x and targets t; W = W₀ + (T − W₀ X)(Xᵀ X + λ I)⁻¹ Xᵀ, the rows as columns of X and T.

    Gives the weights of `NormalEquations` from a matrix of rows × rows. `solve` subtracts no nearly equal numbers, so
    that single precision is enough; `inverse_times` does, and is for directions of a search only. intercept: as there.
    """

    def __init__(self, layer: _ConvNd | nn.Linear, rows: int, *, intercept: bool) -> None:
        self.layer, self.intercept = layer, intercept
        self.groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        self.features = layer.weight[0].numel()
        self.dtype = torch.float64 if rows <= DOUBLE_FEATURES else torch.float32
        self.inputs: list[Tensor] = []
        self.factors: dict[float, tuple[Tensor, Tensor]] = {}
        self.clear_targets()

    def clear_targets(self) -> None:
        """Forget the targets, keep the inputs."""
        self.targets: list[Tensor] = []

    def add(self, x: Tensor, t: Tensor, *, inputs: bool = True) -> None:
        """Take in inputs that are padded already and targets (N, n, *spatial); `inputs=False` when these inputs are
        among the rows.
        """
        self.targets.append(by_channel(t.to(self.dtype)).reshape(self.groups, -1, t[:, 0].numel()))
        if inputs:
            taps = self.features * self.groups // x.shape[1]
            for part in parts(len(x), x[0].numel() * taps):
                self.inputs.append(patches(x[part].float(), self.layer).to(self.dtype, copy=True))

    @cached_property
    def x(self) -> Tensor:
        """(groups, features, rows), less the mean where there is an intercept."""
        found = torch.cat(self.inputs, -1)
        self.inputs.clear()
        self.mean = found.mean(-1, keepdim=True) if self.intercept else found.new_zeros(*found.shape[:2], 1)
        return found.sub_(self.mean)

    def _factor(self, ridge: float) -> tuple[Tensor, Tensor]:
        """The factor of Xᵀ X + λ I, and λ (groups,)."""
        if ridge not in self.factors:
            xx, share = gram(self.x.mT), max(ridge, 1e-6) * self.x.shape[2] / self.features
            level = xx.diagonal(dim1=-2, dim2=-1).mean(-1) * share + 1e-10
            self.factors[ridge] = cholesky(xx, share), level
        return self.factors[ridge]

    def centred(self) -> Tensor:
        """x·xᵀ of the inputs, less their means where there is an intercept: (groups, features, features)."""
        return gram(self.x)

    def explained(self, weight: Tensor) -> Tensor:
        """(n,) what each output's filter has in common with its target, summed over rows: Σ (w·x) t, less the means.

        weight: (n, C/groups, *kernel)
        """
        made = weight.to(self.dtype).reshape(self.groups, -1, self.features) @ self.x
        made = made - made.mean(-1, keepdim=True)
        return (made * torch.cat(self.targets, -1)).sum(-1).double().flatten()

    def inverse_times(self, columns: Tensor, ridge: float) -> Tensor:
        """(X Xᵀ + λ I)⁻¹ · columns = (I − X (Xᵀ X + λ I)⁻¹ Xᵀ) · columns / λ; columns: (groups, features, k)."""
        factor, level = self._factor(ridge)
        columns = columns.to(self.dtype)
        inside = self.x @ torch.cholesky_solve(self.x.mT @ columns, factor)
        return ((columns - inside) / level[:, None, None]).double()

    def solve(self, prior: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Weights shaped like the layer's and intercepts (n,) of the least-squares fit, drawn to `prior` by the
        ridge.
        """
        start, targets = prior.to(self.dtype).reshape(self.groups, -1, self.features), torch.cat(self.targets, -1)
        factor, _ = self._factor(ridge)
        missing = targets - start @ self.x
        offset = missing.new_zeros(*missing.shape[:2], 1)
        if self.intercept:
            offset = missing.mean(-1, keepdim=True)
        weight = start + torch.cholesky_solve((missing - offset).mT, factor).mT @ self.x.mT
        if self.intercept:
            offset = targets.mean(-1, keepdim=True) - weight @ self.mean
        return weight.reshape(prior.shape).to(prior.dtype), offset.flatten().to(prior.dtype)


def equations_for(layer: Any, rows: int, *, intercept: bool) -> NormalEquations | FewRows:
    """An empty problem of a layer that so many rows will come to."""
    if rows < layer.weight[0].numel():
        return FewRows(layer, rows, intercept=intercept)
    return NormalEquations(layer, intercept=intercept)
