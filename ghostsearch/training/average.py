"""The moving average of a model's weights during training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that `update_parameters` moves towards it, statistics included.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that short runs forget the start too. Whole numbers,
    as the order of a block's channels, are copied: a mean of 7 and 7 in floating point may be cut to 6.
    """

    def averaged(kept: Any, current: Any, count: Tensor | int) -> None:
        if kept[0].is_floating_point():
            n = float(count)
            get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(kept, current, count)
        else:
            torch._foreach_copy_(kept, current)

    return AveragedModel(model, multi_avg_fn=averaged, use_buffers=True)
