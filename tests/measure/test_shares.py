"""A layer's multiply-adds stand with its kind, wherever in the model it is named."""

import pytest
import torch
from torch import nn

from ghostsearch.measure.shares import shares_by_kind


class Around(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


class Twice(nn.Module):
    """One convolution inside two modules."""

    def __init__(self):
        super().__init__()
        shared = nn.Conv2d(8, 8, 3, padding=1)
        self.a, self.b = Around(shared), Around(shared)

    def forward(self, x):
        return self.b(self.a(x))


def test_a_layer_in_two_places_counts_with_both():
    (row,) = shares_by_kind(Twice(), torch.randn(2, 8, 6, 6))
    assert (row["kind"], row["layers"], row["params"]) == ("conv 3x3", 1, 8 * 8 * 9 + 8)
    assert row["macs"] == 2 * 8 * 8 * 9 * 6 * 6
    assert row["macs_share"] == pytest.approx(1)
