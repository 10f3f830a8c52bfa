"""Ghost convolutions: a few intrinsic maps by convolution, the rest by a cheap operation on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.blocks.base import Block, Conv
from ghostsearch.blocks.cheap import CHEAP, Wavelet
from ghostsearch.blocks.ghost_fit import GhostFit, JointFit
from ghostsearch.blocks.ghost_order import choose_order, explained_variance, seated
from ghostsearch.blocks.own_conv import copy_filters, effective_weight, resized
from ghostsearch.fits.problem import Fitted, Problem, spread
from ghostsearch.fits.sampled_rows import Sides
from ghostsearch.space.choice import Ghost, intrinsic_channels


class GhostConv(Block):
    """Drop-in for a convolution: primary conv to m = ceil(n/s) maps, a cheap operation to (s-1)·m ghosts, concatenated.

    The swap is linear (no BN or activation inside): the converted net's own follow it, and a least-squares fit of the
    weights is exact. Dilation, stride, padding and its mode belong to the primary alone (Han et al. 2020, section 3.1;
    the dilation by the authors' word on conversion). Channels are cut to n only when s·m > n.

    x: (N, C, *spatial) -> (N, n, *spatial'), as the convolution it replaces.
    """

    relaxes_targets = True

    def __init__(self, conv: Conv, choice: Ghost) -> None:
        super().__init__(conv, choice)
        m = intrinsic_channels(conv.out_channels, choice.ratio, conv.groups)
        self.primary = resized(conv, m)
        self.cheap: Any = CHEAP[choice.cheap](conv, m, choice)

    @property
    def first(self) -> Conv:
        return self.primary

    def copy_weights(self, conv: Conv) -> None:
        """The first filters of each channel group become the primary's, and each ghost is its intrinsic map scaled to
        fit its filter best."""
        n, m, ghosts = self.out_channels, self.primary.out_channels, len(self.cheap.weight)
        channels = torch.tensor(seated(n, m, conv.groups, ghosts // m))
        natural = torch.equal(channels, torch.arange(n))
        self.order = None if natural else torch.argsort(channels).to(conv.weight.device)
        filters = effective_weight(conv).float().flatten(1)[channels]
        parents = torch.arange(ghosts, device=filters.device) // (ghosts // m)
        wanted = torch.zeros(ghosts, filters.shape[1], device=filters.device)
        wanted[: n - m] = filters[m:]
        have = filters[parents]
        scale = (wanted * have).sum(1) / have.square().sum(1).clamp_min(1e-12)
        with torch.no_grad():
            copy_filters(conv, self.primary, channels[:m])
            if isinstance(self.cheap, Wavelet):
                self.cheap.scale.copy_(scale.reshape(self.cheap.scale.shape))
            else:
                self.cheap.weight.zero_()
                centre = tuple(d // 2 for d in self.cheap.kernel_size)
                self.cheap.weight[(slice(None), 0, *centre)] = scale.to(self.cheap.weight.dtype)
            if self.cheap.bias is not None:
                self.cheap.bias.zero_()
            if self.primary.bias is not None and self.cheap.bias is not None and conv.bias is not None:
                bias = conv.bias[channels]
                self.cheap.bias[: n - m] = bias[m:] - (scale * bias[parents])[: n - m]

    @property
    def halo(self) -> Sides:
        if isinstance(self.cheap, Wavelet):
            return ((0, 1),) * (self.primary.weight.dim() - 2)
        return tuple((k // 2, k // 2) for k in self.cheap.weight.shape[2:])

    def fit(self, problem: Problem) -> Fitted:
        """Choose the intrinsic channels, then fit primary and cheap operation in turns, relaxing the targets too."""
        free, target, settings = problem.free, problem.target, problem.settings
        n, self.order = self.out_channels, None
        order = torch.arange(n)
        if problem.reorder:
            key = type(self.cheap), tuple(self.cheap.weight.shape[2:])
            if key not in free.explained:
                free.explained[key] = explained_variance(self, free.weight, problem.samples, free.wanted)
            if "own" not in free.explained:
                free.explained["own"] = free.equations.explained(free.weight)
            order = choose_order(self, free.explained["own"], free.explained[key], target.weight)
        moved = order.to(free.weight.device)
        target, wanted = target.permuted(moved), [w[:, moved] for w in free.wanted]
        fit = GhostFit.of(self, problem.samples)
        fit.start(free.weight[moved[: fit.intrinsic]])
        fit.fit_kernels(wanted, intercept=problem.intercept)
        outputs = fit.outputs(fit.maps)
        joint = JointFit(fit, free.equations, target.weight, intercept=problem.intercept, ridge=problem.ridge)
        for _ in range(settings.joint_rounds):
            wanted = target.relaxed(_shifted(problem, outputs, wanted))
            outputs = joint.run(outputs, wanted, settings.joint_steps)
            wanted = target.relaxed(_shifted(problem, outputs, wanted))
            fit.fit_kernels(wanted, intercept=problem.intercept)
            outputs = fit.outputs(fit.maps)
        fit.write()
        natural = bool((order == torch.arange(n)).all())
        return Fitted(outputs, wanted, fit.shift, None if natural else moved)

    def scale_outputs(self, factors: Tensor) -> None:
        m, n = self.primary.out_channels, self.out_channels
        ghosts = torch.ones(len(self.cheap.weight), dtype=factors.dtype, device=factors.device)
        ghosts[: n - m] = factors[m:]
        # A ghost reads the scaled map.
        relative = (ghosts.reshape(m, -1) / factors[:m, None]).flatten()
        scaled = self.cheap.scale if isinstance(self.cheap, Wavelet) else self.cheap.weight
        with torch.no_grad():
            self.primary.weight.mul_(factors[:m].reshape(-1, *[1] * (self.primary.weight.dim() - 1)))
            scaled.mul_(relative.reshape(-1, *[1] * (scaled.dim() - 1)))
            if self.primary.bias is not None:
                self.primary.bias.mul_(factors[:m])
            if self.cheap.bias is not None:
                self.cheap.bias.mul_(ghosts)

    def forward(self, input: Tensor) -> Tensor:
        intrinsic = self.primary(input)
        y = torch.cat([intrinsic, self.cheap(intrinsic)], dim=1)
        if self.order is not None:
            return y.index_select(1, self.order)
        return y if y.shape[1] == self.out_channels else y[:, : self.out_channels]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Whether a fit needed an order is known from the weights alone.
        saved = state_dict.get(f"{prefix}order")
        if saved is None:
            # A state of other layers alone, as a new head's, says nothing of this one.
            if f"{prefix}primary.weight" in state_dict:
                self.order = None
        elif self.order is None:
            self.order = torch.arange(self.out_channels, device=self.primary.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


class GhostConv2d(GhostConv):
    """`nn.Conv2d`'s arguments plus `ratio`, `cheap_kernel`, `cheap`: for networks written with ghosts from the start.

    x: (N, C, H, W) -> (N, n, H', W'). Raises GhostsearchError for a ratio below 2 or an even kernel.
    """

    def __init__(
        self, *arguments: Any, ratio: int = 2, cheap_kernel: int = 3, cheap: str = "conv", **keywords: Any
    ) -> None:
        super().__init__(nn.Conv2d(*arguments, **keywords), Ghost(ratio, cheap_kernel, cheap))


def _shifted(problem: Problem, outputs: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
    offset = spread(problem.offset(outputs, wanted), outputs[0])
    return [o + offset for o in outputs]
