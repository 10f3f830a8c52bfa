"""What a block is: built from the convolution that it replaces, it takes over its weights and its looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ghostsearch.fits.problem import Fitted, Problem
from ghostsearch.fits.sampled_rows import Sides
from ghostsearch.space.choice import LayerChoice

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS: dict[int, Callable[..., Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
LOOKS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def place(conv: Conv) -> dict[str, Any]:
    """Device and dtype of a convolution, as factory arguments."""
    return {"device": conv.weight.device, "dtype": conv.weight.dtype}


def scale_filters(conv: Conv, factors: Tensor) -> None:
    """Multiply output channel j of a convolution by factors[j]: (n,)."""
    with torch.no_grad():
        conv.weight.mul_(factors.reshape(-1, *[1] * (conv.weight.dim() - 1)))
        if conv.bias is not None:
            conv.bias.mul_(factors)


def copy_bias(conv: Conv, new: Conv) -> None:
    """Give a convolution the bias of another one, where both have one."""
    with torch.no_grad():
        if new.bias is not None and conv.bias is not None:
            new.bias.copy_(conv.bias)


class Block(nn.Module, ABC):
    """Base of all blocks: gives code that asks (timm's does) shape, device and dtype of the convolution it replaced.

    What a choice costs and looks like stands in the choice, which needs no torch; all else about it is the block's.
    """

    in_channels: int
    out_channels: int
    relaxes_targets: ClassVar[bool] = False
    """Whether its fit relaxes targets behind a ReLU: the unconstrained fit before it then does so once less."""
    reads_metric: ClassVar[bool] = False
    """Whether its fit asks for the metric of the outputs."""
    order: Tensor | None
    """Where each of the convolution's output channels stands among the block's; None when nothing is moved, so that an
    exported graph has no gather."""

    def __init__(self, conv: Conv, choice: LayerChoice) -> None:
        super().__init__()
        self.choice = choice
        self.register_buffer("order", None)
        for name in LOOKS:
            setattr(self, name, getattr(conv, name))

    @property
    @abstractmethod
    def first(self) -> Conv:
        """The convolution inside that reads the block's input."""

    @abstractmethod
    def copy_weights(self, conv: Conv) -> None:
        """Take over the weights of the convolution that it replaces without looking at images."""

    @abstractmethod
    def scale_outputs(self, factors: Tensor) -> None:
        """Multiply output channel j by factors[j]: (n,), channels as the block makes them, before any reordering."""

    @property
    def halo(self) -> Sides:
        """Positions around an output that its fit reads, before and behind, per spatial dimension."""
        return ((0, 0),) * (self.first.weight.dim() - 2)

    def fit(self, problem: Problem) -> Fitted | None:  # noqa: ARG002
        """Fit the weights in closed form, in place, but for constants and scale; None where the copied ones stay."""
        return None

    @property
    def weight(self) -> Tensor:
        """The filters of the convolution that reads the input; what the replaced convolution's filters became."""
        return self.first.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the convolution that reads the input."""
        return self.first.bias

    def extra_repr(self) -> str:
        """The choice this block stands for."""
        return str(self.choice)
