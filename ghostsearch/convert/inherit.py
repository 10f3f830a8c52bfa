"""Inherits trained weights when a convolution becomes a block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.blocks.ghost import GhostConv, Wavelet
from ghostsearch.blocks.lowrank import LowRankConv


def copy_weights(old: Any, new: nn.Module) -> None:
    """Give a block the weights of the convolution it replaces without looking at images.

    Ghost: the first filters become the primary's, and each ghost is its intrinsic map scaled to fit its filter best
    (least squares over the filters). Low rank: the truncated SVD. Frozen parameters stay frozen.
    """
    with torch.no_grad():
        if isinstance(new, GhostConv):
            _copy_ghost(old, new)
        elif isinstance(new, LowRankConv):
            _copy_low_rank(old, new)


def _copy_ghost(old: Any, new: GhostConv) -> None:
    m = new.primary.out_channels
    filters = old.weight.detach().float().flatten(1)
    new.primary.weight.copy_(old.weight[:m])
    if old.bias is not None:
        new.primary.bias.copy_(old.bias[:m])
    ghosts = len(new.cheap.weight)
    parents = torch.arange(ghosts, device=filters.device) // (ghosts // m)
    wanted = torch.zeros(ghosts, filters.shape[1], device=filters.device)
    wanted[: len(filters) - m] = filters[m:]
    have = filters[parents]
    scale = (wanted * have).sum(1) / have.square().sum(1).clamp_min(1e-12)
    if isinstance(new.cheap, Wavelet):
        new.cheap.scale.copy_(scale.reshape(new.cheap.scale.shape))
    else:
        new.cheap.weight.zero_()
        centre = tuple(d // 2 for d in new.cheap.kernel_size)
        new.cheap.weight[(slice(None), 0, *centre)] = scale.to(new.cheap.weight.dtype)
    if new.cheap.bias is not None:
        new.cheap.bias.zero_()
        if old.bias is not None:
            new.cheap.bias[: len(filters) - m] = old.bias[m:] - scale[: len(filters) - m] * old.bias[parents][: len(filters) - m]


def _copy_low_rank(old: Any, new: LowRankConv) -> None:
    groups, rank = old.groups, new.reduce.out_channels // old.groups
    down: list[Tensor] = []
    up: list[Tensor] = []
    for block in old.weight.detach().float().flatten(1).chunk(groups):
        u, s, v = torch.linalg.svd(block, full_matrices=False)
        root = s[:rank].sqrt()
        up.append(u[:, :rank] * root)
        down.append(root[:, None] * v[:rank])
    new.reduce.weight.copy_(torch.cat(down).reshape(new.reduce.weight.shape))
    new.expand.weight.copy_(torch.cat(up).reshape(new.expand.weight.shape))
    if old.bias is not None:
        new.expand.bias.copy_(old.bias)
