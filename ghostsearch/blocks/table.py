"""Which block a choice becomes. A new block is one file with its choice and its `Block`, and one row here."""

from __future__ import annotations

from typing import Any

import torch

from ghostsearch.blocks.base import Block, Conv
from ghostsearch.blocks.cropped import CroppedConv
from ghostsearch.blocks.ghost import GhostConv
from ghostsearch.blocks.lowrank import LowRankConv
from ghostsearch.blocks.separable import SeparableConv
from ghostsearch.errors import GhostsearchError
from ghostsearch.space.choice import Crop, Ghost, Keep, LayerChoice, LowRank, Separable

BLOCKS: dict[type[LayerChoice], type[Block]] = {
    Ghost: GhostConv,
    LowRank: LowRankConv,
    Separable: SeparableConv,
    Crop: CroppedConv,
}


def build_block(conv: Conv, choice: LayerChoice) -> Any:
    """The block that replaces a convolution under a choice, with fresh weights; for `keep` the convolution itself.

    It has the convolution's device, dtype, memory format and training mode; its weights and its biases are frozen where
    the convolution's are. Raises GhostsearchError for a choice that no block belongs to.
    """
    if isinstance(choice, Keep):
        return conv
    if type(choice) not in BLOCKS:
        known = ", ".join(kind.name for kind in BLOCKS)
        raise GhostsearchError(f"choice '{choice}': blocks/table.py has no block for it; known: {known}")
    block = BLOCKS[type(choice)](conv, choice)
    if (
        conv.weight.dim() == 4
        and conv.weight.is_contiguous(memory_format=torch.channels_last)
        and not conv.weight.is_contiguous()
    ):
        block = block.to(memory_format=torch.channels_last)
    for name, parameter in block.named_parameters():
        kind = conv.bias if name.endswith("bias") and conv.bias is not None else conv.weight
        if not kind.requires_grad:
            parameter.requires_grad_(False)
    return block.train(conv.training)
