"""Which block a choice becomes. A new block is one file, one choice, one row here and one formula in sitecost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from ghostsearch.blocks.conv import Conv
from ghostsearch.blocks.ghost import GhostConv
from ghostsearch.blocks.lowrank import LowRankConv
from ghostsearch.space.choice import Ghost, Keep, LayerChoice, LowRank


class BlockType(Protocol):
    """What a row holds: a module made from the convolution it replaces and the choice, weights not yet inherited."""

    def __call__(self, conv: Conv, choice: LayerChoice, *, ordered: bool = False) -> nn.Module:
        """The block; `ordered` asks for a buffer that restores the convolution's channel order."""


BLOCKS: Mapping[type[LayerChoice], BlockType] = {
    Ghost: GhostConv,  # type: ignore[dict-item]
    LowRank: LowRankConv,  # type: ignore[dict-item]
}


def build_block(conv: Conv, choice: LayerChoice, *, ordered: bool = False) -> nn.Module:
    """The block that replaces a convolution under a choice, with fresh weights; for `keep` the convolution itself.

    It has the convolution's device, dtype, memory format, training mode and frozen state.
    """
    if isinstance(choice, Keep):
        return conv
    block = BLOCKS[type(choice)](conv, choice, ordered=ordered)
    if (
        conv.weight.dim() == 4
        and conv.weight.is_contiguous(memory_format=torch.channels_last)
        and not conv.weight.is_contiguous()
    ):
        block = block.to(memory_format=torch.channels_last)
    if not conv.weight.requires_grad:
        block.requires_grad_(False)
    return block.train(conv.training)
