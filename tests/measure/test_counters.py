"""fvcore, thop and torch side by side."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from ghostsearch.measure.counters import COUNTERS, compare_counters


@pytest.fixture(scope="module")
def resnet():
    return compare_counters(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224))


def test_known_totals(resnet):
    elements = 64 * 112**2 + 5 * 64 * 56**2 - 64 * 56**2 + 5 * 128 * 28**2 + 5 * 256 * 14**2 + 5 * 512 * 7**2
    convolutions = resnet.macs["torch"] - 512 * 1000
    pooled = 512 * 7 * 7
    assert resnet.macs == {
        "torch": 1814073344,
        "fvcore": convolutions + 512 * 1000 + 2 * elements + pooled,
        "thop": convolutions + 512 * 1000 + 4 * elements + pooled + 512,
    }


def test_rows_sum_to_the_totals_and_differences_have_reasons(resnet):
    for counter in COUNTERS:
        assert sum(row.macs[counter] for row in resnet.operators) == resnet.macs[counter]
    for row in resnet.operators:
        assert bool(row.reason) == (len(set(row.macs.values())) > 1)
    assert resnet.reason.startswith("batch norm")


def test_the_model_keeps_its_buffers_mode_and_hooks():
    model = torchvision.models.resnet18(num_classes=10).train()
    before = copy.deepcopy(model.state_dict())
    compare_counters(model, torch.zeros(1, 3, 32, 32))
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    assert model.training
    assert not any(m._forward_hooks or hasattr(m, "total_ops") for m in model.modules())


def test_fused_attention_is_named_where_it_is_missing():
    found = compare_counters(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), torch.zeros(1, 6, 16))
    assert "aten::scaled_dot_product_attention" in found.uncounted["fvcore"]
    assert found.macs["fvcore"] < found.macs["torch"]
    assert "fvcore has no rule" in next(r.reason for r in found.operators if r.operator.startswith("linear"))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3, 3, 3))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight)


def test_thop_misses_functional_convolutions_and_says_so():
    found = compare_counters(Own(), torch.zeros(1, 3, 8, 8))
    assert found.macs["torch"] == found.macs["fvcore"] == 6 * 6 * 4 * 3 * 9
    assert found.macs["thop"] == 0
    assert found.uncounted["thop"] == ("Own",)
    assert "thop" in found.reason
