"""What a block is: built from the convolution that it replaces, it takes over its weights and its looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ghostsearch.space.choice import LayerChoice

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS: dict[int, Callable[..., Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
LOOKS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def place(conv: Conv) -> dict[str, Any]:
    """Device and dtype of a convolution, as factory arguments."""
    return {"device": conv.weight.device, "dtype": conv.weight.dtype}


class Block(nn.Module, ABC):
    """Base of all blocks: gives code that asks (timm's does) shape, device and dtype of the convolution it replaced.

    What a choice costs and looks like stands in the choice, which needs no torch; all else about a block stands here.
    """

    in_channels: int
    out_channels: int
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

    def fit(self, problem: Any) -> Any:  # noqa: ARG002
        """Weights fitted in closed form to a `surgery.fit_block.Problem`; None keeps the copied ones.

        Ghosts and low rank have their fits in `surgery.fit_block`, with the numerical work that they share.
        """
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
