"""Gives the BatchNorms of a trained net the statistics of what they now read, its outputs unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.graph.capture import call, channels_last


def settle_norms(model: nn.Module, images: Sequence[Any]) -> None:
    """Give every BatchNorm the statistics of what it now reads, its affine part changed so that no output is.

    Later training, which uses the batch's statistics, then begins from the same function.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.affine and m.track_running_stats]
    sums = {norm: [0.0, 0.0, 0.0] for norm in norms if all(p.requires_grad for p in norm.parameters())}

    def add(norm: nn.Module, args: tuple[Tensor, ...], _: Any) -> None:
        flat = args[0].detach().double().transpose(0, 1).flatten(1)
        for i, value in enumerate((flat.shape[1], flat.sum(1), flat.square().sum(1))):
            sums[norm][i] = sums[norm][i] + value  # type: ignore[index, operator]

    handles = [norm.register_forward_hook(add) for norm in sums]
    try:
        with torch.no_grad():
            for x in images:
                call(model, channels_last(x))
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for norm, (count, total, squares) in sums.items():
            if not count:
                continue
            mean: Any = total / count
            variance: Any = (squares / count - mean.square()).clamp_min(0) * count / max(1, count - 1)
            _renormalise(norm, mean, variance)


def _renormalise(norm: Any, mean: Tensor, variance: Tensor) -> None:
    old = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() + old * (mean - norm.running_mean.double())
    norm.weight.copy_(old * (variance + norm.eps).sqrt())
    norm.bias.copy_(bias)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
