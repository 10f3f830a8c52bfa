"""What a layer is fitted to: sampled inputs, the baseline's targets there, and the best filters without constraint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.fits.few_rows import FewRows, equations_for
from ghostsearch.fits.least_squares import NormalEquations
from ghostsearch.fits.sampled_rows import Samples

CONVOLVE: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
Batches = Sequence[Tensor]
LEAST_RIDGE = 1e-3


@dataclass(frozen=True)
class FitSettings:
    """Hyper-parameters of the closed-form fit."""

    ridge: float = 0.04
    """Pull towards the trained filters, relative to the inputs' mean variance, for each layer of the network and each
    unknown of a filter over the rows that it is fitted to: rows of one image repeat each other, and what a layer learns
    of them by heart adds up over the layers. At least LEAST_RIDGE."""
    relu_rounds: int = 2
    """Times the targets behind a ReLU are relaxed to what passes it, and the fit repeated; once less for ghosts, whose
    joint rounds relax them too."""
    joint_rounds: int = 2
    """Alternations between the primary's filters and the cheap kernels."""
    joint_steps: int = 2
    """Conjugate-gradient steps on the primary in each."""
    gather: bool = True
    """Whether channels whose order cannot be folded into their readers (a sum reads them) may be reordered by an
    index buffer; results/inheritance.md has the effect."""
    reach: int | None = None
    """Layers refitted behind the last changed one; None for all. A few show most of what a change costs, sooner."""
    rows_per_unknown: float = 57.0
    """Output positions, over all images, that a layer is fitted to for each unknown of one of its filters."""
    rows: tuple[int, int] = (8192, 32768)
    """The smallest and the largest number of positions, where the images have so many."""
    row_values: int = 2**24
    """Outputs of a layer at all positions that it is fitted to: with many channels fewer than the largest number of
    positions are taken, since a fit holds some seven times so many values."""
    tile: int = 5
    """Edge of the tiles in which positions are taken from large maps."""
    metric_images: int = 64
    """Images whose sampled labels give the output metric of low-rank fits; 0 leaves it out."""
    memory_bytes: int = 2**30
    """Values of the calibration images held between two layers; early, large maps then come from fewer images."""
    compute_device: str = "auto"
    """Where a fit runs: a PyTorch device, or "auto" for CUDA where there is one and the CPU elsewhere."""
    seed: int = 0
    """Of the sampled positions and labels."""

    @property
    def device(self) -> torch.device:
        """The device that `compute_device` stands for."""
        found = self.compute_device
        if found == "auto":
            found = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(found)

    def rows_for(self, layer: Any) -> int:
        """Positions that a layer is fitted to."""
        least, most = self.rows
        most = max(least, min(most, self.row_values // len(layer.weight)))
        return int(min(most, max(least, self.rows_per_unknown * layer.weight[0].numel())))


@dataclass
class Target:
    """What a layer's output, plus the shortcut where there is one, should be at the tiles: per part (K, n, *size)."""

    totals: list[Tensor]
    shortcuts: list[Tensor] | None
    relu: bool
    weight: Tensor
    """(n,) importance of each output channel's squared error."""

    def permuted(self, order: Tensor) -> Target:
        """The same with channels in another order."""
        shortcuts = None if self.shortcuts is None else [s[:, order] for s in self.shortcuts]
        return Target([t[:, order] for t in self.totals], shortcuts, self.relu, self.weight[order])

    def first(self) -> list[Tensor]:
        """The layer's own share before anything is predicted."""
        if self.shortcuts is None:
            return self.totals
        return [t - s for t, s in zip(self.totals, self.shortcuts, strict=True)]

    def relaxed(self, outputs: Batches) -> list[Tensor]:
        """The layer's share, nothing asked of values that a ReLU hides in both nets.

        This is the majorising step for the squared error behind the ReLU: where the baseline's value is negative, any
        negative prediction is its own target (compare Zhang et al. 2016, section 3.2).
        """
        if not self.relu:
            return self.first()
        found = []
        for i, (total, output) in enumerate(zip(self.totals, outputs, strict=True)):
            shortcut = 0 if self.shortcuts is None else self.shortcuts[i]
            found.append(torch.where(total > 0, total, (output + shortcut).clamp_max(0)) - shortcut)
        return found


@dataclass(frozen=True)
class FreeFit:
    """The best filters for a target when nothing constrains them."""

    weight: Tensor
    equations: NormalEquations | FewRows
    wanted: list[Tensor]
    """The target as it was last relaxed."""
    explained: dict[Any, Tensor] = field(default_factory=dict)
    """`explained_variance` by kind of cheap operation: blocks of several ratios share it."""


@dataclass
class Problem:
    """One layer's fit. Channels stand as in the narrow baseline."""

    layer: Any
    """The convolution or linear layer that is fitted or replaced."""
    prior: Tensor
    """Its trained filters, the norm's scale in them."""
    samples: Samples
    target: Target
    settings: FitSettings
    intercept: bool
    """Whether a constant per channel may be added: a norm or a bias takes it."""
    reorder: bool = True
    """Whether the block may make the channels in an order of its own."""
    layers: int = 1
    """Of the network."""
    metric: Tensor | None = None
    """(n, n) E[g gᵀ] of the gradients at the output, where it is known."""
    relu_rounds: int = 0
    """Times the targets are relaxed in the unconstrained fit."""
    known: FreeFit | None = None
    """The unconstrained fit, where another choice of this layer has made it in as many rounds."""

    @cached_property
    def rows(self) -> int:
        """Output positions that the layer is fitted to."""
        return sum(t[:, 0].numel() for t in self.target.totals)

    @property
    def ridge(self) -> float:
        """Pull towards the prior relative to the inputs' mean variance."""
        return max(LEAST_RIDGE, self.settings.ridge * self.layers * self.layer.weight[0].numel() / self.rows)

    @cached_property
    def free(self) -> FreeFit:
        """Unconstrained filters for the target, drawn to the prior."""
        if self.known is None:
            return self._fit_freely()
        sizes = [len(t) for t in self.target.totals]
        if sizes == [len(w) for w in self.known.wanted]:
            return self.known
        # The halo of another choice cut the rows into other parts.
        return replace(self.known, wanted=list(torch.cat(self.known.wanted).split(sizes)))

    def _fit_freely(self) -> FreeFit:
        equations, wanted = equations_for(self.layer, self.rows, intercept=self.intercept), self.target.first()
        weight, offset = self.prior, self.prior.new_zeros(len(self.prior))
        for turn in range(1 + self.relu_rounds * self.target.relu):
            if turn:
                wanted = self.target.relaxed([o + spread(offset, o) for o in self.outputs(weight)])
                equations.clear_targets()
            for x, t in zip(self.samples.inner, wanted, strict=True):
                equations.add(x, t, inputs=turn == 0)
            weight, offset = equations.solve(self.prior, self.ridge)
        return FreeFit(weight, equations, wanted)

    def outputs(self, weight: Tensor) -> list[Tensor]:
        """What filters give at the tiles, without constants: per part (K, n, *size)."""
        layer, found = self.layer, []
        for x in self.samples.inner:
            if isinstance(layer, nn.Linear):
                found.append(CONVOLVE[3](x, weight.unsqueeze(-1)))
            else:
                found.append(CONVOLVE[x.dim()](x, weight, None, layer.stride, 0, layer.dilation, layer.groups))
        return found

    def offset(self, outputs: Batches, wanted: Batches) -> Tensor:
        """(n,) constants that make the means exact."""
        if not self.intercept:
            return self.prior.new_zeros(wanted[0].shape[1])
        return channel_means(wanted) - channel_means(outputs)


@dataclass(frozen=True)
class Fitted:
    """A layer's weights are in place, its biases at zero; this is what they give."""

    outputs: list[Tensor]
    """Per part (K, n, *size), channels as the layer makes them, without constants."""
    wanted: list[Tensor]
    """The targets that they were fitted to."""
    shift: Callable[[Tensor], None]
    """Sets biases to constants (n,), where the layer has any."""
    order: Tensor | None = None
    """The original channel at each place; None when nothing is moved."""

    @classmethod
    def of(cls, layer: Any, outputs: list[Tensor], wanted: list[Tensor]) -> Fitted:
        """Of a layer whose constants are its bias, where it has one."""
        if layer.bias is not None:
            layer.bias.zero_()

        def shift(offset: Tensor) -> None:
            if layer.bias is not None:
                layer.bias.copy_(offset)

        return cls(outputs, wanted, shift)


def spread(per_channel: Tensor, like: Tensor) -> Tensor:
    """(n,) so that it broadcasts over (K, n, *spatial)."""
    return per_channel.reshape(-1, *[1] * (like.dim() - 2))


def channel_means(values: Sequence[Tensor]) -> Tensor:
    """Mean of each channel over all parts and positions: (n,)."""
    dims = [0, *range(2, values[0].dim())]
    total: Any = sum(v.sum(dims).double() for v in values)
    return (total / sum(v.numel() // v.shape[1] for v in values)).to(values[0].dtype)
