"""The moving average of the weights leaves everything that is a whole number as it is."""

import pytest
import torch
from torch import nn

from ghostsearch.training.average import moving_average


class Permuted(nn.Module):
    """A layer whose channels are put in another order, as a fitted ghost's are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 64, 1), nn.BatchNorm2d(64)
        self.register_buffer("order", torch.arange(64).flip(0))
        self.register_buffer("mask", torch.arange(64) % 2 == 0)


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999, 0.9998])
def test_whole_numbers_stay_and_weights_move(decay):
    torch.manual_seed(0)
    model = Permuted()
    average = moving_average(model, decay)
    average.update_parameters(model)
    with torch.no_grad():
        model.conv.weight.add_(1)
        model.norm.running_mean.add_(1)
    for _ in range(200):
        average.update_parameters(model)
    kept = average.module
    assert torch.equal(kept.order, model.order)
    assert torch.equal(kept.mask, model.mask)
    for name in ("conv.weight", "norm.running_mean"):
        moved = 1 - (model.state_dict()[name] - kept.state_dict()[name]).mean()
        assert 0.02 < moved < 1.001, "towards the model"
