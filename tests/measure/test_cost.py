"""Exact cost: counts spelled as products, nothing changed, nothing silently zero."""

import copy
import warnings

import pytest
import torch
import torchvision
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cost import CostWarning, count_operators, measure_cost


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 5, 2, 2, groups=8, bias=False),
        nn.Flatten(), nn.Linear(8 * 4 * 4, 10),
    )  # fmt: skip


def test_small_net_by_hand():
    cost = measure_cost(small_net(), torch.zeros(1, 3, 8, 8))
    assert cost.macs == (8 * 8) * 8 * 3 * 9 + (4 * 4) * 8 * 25 + 8 * 4 * 4 * 10
    assert cost.params == (8 * 3 * 9 + 8) + (8 + 8) + 8 * 25 + (8 * 4 * 4 * 10 + 10)
    assert cost.size_bytes == 4 * (cost.params + 8 + 8) + 8  # two statistics and the int64 step counter


@pytest.mark.parametrize("batch", [1, 3])
def test_counts_are_per_image(batch):
    assert measure_cost(small_net(), torch.zeros(batch, 3, 8, 8)) == measure_cost(small_net(), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "mmacs"), [("resnet18", 1814073344), ("mobilenet_v2", 300774272), ("vit_b_16", 17563828224)]
)
def test_torchvision_nets_as_published(name, mmacs):
    assert measure_cost(torchvision.models.get_model(name), torch.zeros(1, 3, 224, 224)).macs == mmacs


def test_attention_is_not_hidden_by_the_fused_kernel():
    attention = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    tokens, width = 6, 16
    projections, products, feedforward = 4 * tokens * width**2, 2 * tokens**2 * width, 2 * tokens * width * 32
    assert measure_cost(attention, torch.zeros(1, tokens, width)).macs == projections + products + feedforward


def test_tied_parameters_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    cost = measure_cost(model, torch.zeros(1, 4))
    assert cost.params == 4 * 4 + 4 + 4
    assert cost.macs == 2 * 4 * 4


def test_nothing_changes():
    model = small_net().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    names = [name for name, _ in model.named_buffers()]
    measure_cost(model, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in model.named_buffers()] == names
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))


class Spectral(nn.Module):
    def forward(self, x):
        return torch.fft.rfft2(x).abs()


class Vectors(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 7))

    def forward(self, x):
        return torch.mv(self.weight, x[0])


class Decides(nn.Module):
    """Its path depends on values, which meta tensors do not have."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x) if x.sum() >= 0 else x


def test_operators_without_a_formula_are_named():
    with pytest.warns(CostWarning, match="aten::_fft_r2c"):
        measure_cost(Spectral(), torch.zeros(1, 3, 8, 8))


def test_matrix_vector_products_count():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure_cost(Vectors(), torch.zeros(1, 7)).macs == 5 * 7


def test_cpu_when_meta_cannot_and_the_reason_is_kept():
    count = count_operators(Decides(), torch.zeros(1, 4))
    assert (count.macs, count.device) == (4 * 4, "cpu")
    assert "meta" in count.reason
    assert count_operators(small_net(), torch.zeros(1, 3, 8, 8)).reason == ""


def test_a_failing_forward_is_one_line():
    with pytest.raises(GhostsearchError, match="forward fails") as caught:
        measure_cost(small_net(), torch.zeros(1, 5, 8, 8))
    assert "\n" not in str(caught.value)
