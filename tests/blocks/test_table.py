"""Conformance: every block of the table, on every kind of convolution. A new block is tested by its row alone."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ghostsearch.blocks.table import BLOCKS, build_block
from ghostsearch.space.choice import (
    CHEAP_OPERATIONS,
    KEEP,
    Choice,
    Crop,
    Drop,
    Filters,
    Ghost,
    LayerChoice,
    LowRank,
    Separable,
    Skip,
)
from ghostsearch.space.costs import site_macs, site_params
from ghostsearch.surgery.sites import find_sites

CHOICES = [
    *(kind() for kind in BLOCKS),
    *(Ghost(s, d, cheap) for s, d, cheap in itertools.product((2, 3, 5), (1, 5), CHEAP_OPERATIONS)),
    Ghost(100, 3),
    LowRank(0.01),
    LowRank(0.99),
    Separable(2),
    Separable(3),
    Crop(3),
]
CONVOLUTIONS = {
    "baseline": (nn.Conv2d(6, 12, 3, padding=1), (5, 7)),
    "1x1 without bias": (nn.Conv2d(16, 10, 1, bias=False), (4, 4)),
    "stride and dilation": (nn.Conv2d(6, 12, 3, stride=2, padding=2, dilation=2), (9, 8)),
    "uneven kernel, no padding": (nn.Conv2d(6, 12, (1, 5), bias=False), (5, 7)),
    "same padding": (nn.Conv2d(6, 12, (3, 4), padding="same"), (5, 7)),
    "circular": (nn.Conv2d(6, 12, 3, padding=1, padding_mode="circular"), (5, 7)),
    "reflect, uneven padding": (nn.Conv2d(6, 12, 3, padding=(1, 2), padding_mode="reflect"), (5, 7)),
    "grouped": (nn.Conv2d(8, 24, 3, groups=4), (5, 7)),
    "grouped, ratio does not divide": (nn.Conv2d(8, 12, 3, groups=4, bias=False), (5, 7)),
    "1d": (nn.Conv1d(6, 12, 5, stride=2, padding=2), (11,)),
    "3d": (nn.Conv3d(4, 9, 3, padding=1, bias=False), (3, 4, 5)),
    "3d 1x3x3": (nn.Conv3d(4, 9, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)), (3, 4, 5)),
    "double": (nn.Conv2d(6, 12, 3, dtype=torch.float64), (5, 7)),
}

choices = pytest.mark.parametrize("choice", CHOICES, ids=str)


def image(conv, size, batch=2):
    return torch.randn(batch, conv.in_channels, *size, dtype=conv.weight.dtype)


def test_every_layer_choice_but_keep_has_a_row():
    kinds = {k for k in Choice.kinds.values() if issubclass(k, LayerChoice)}
    # A dropped branch is no block: surgery/drop.py takes it out.
    assert set(BLOCKS) | {type(KEEP), Drop, Skip} == kinds
    assert {type(c) for c in CHOICES} == set(BLOCKS)


@pytest.mark.parametrize(
    ("choice", "conv", "size"),
    [
        pytest.param(choice, *CONVOLUTIONS[name], id=f"{name}-{choice}")
        for name, choice in itertools.product(CONVOLUTIONS, CHOICES)
        for conv, _ in [CONVOLUTIONS[name]]
        if choice.suits(Filters(conv.in_channels, conv.out_channels, conv.kernel_size, conv.groups))
        or isinstance(choice, Ghost | LowRank)
    ],
)
def test_a_block_is_a_drop_in_that_costs_what_the_formula_says(choice, conv, size):
    block, x = build_block(conv, choice), image(conv, size)
    block.copy_weights(conv)
    wanted = conv(x)
    with FlopCounterMode(display=False) as counter:
        y = block(x)
    assert y.shape == wanted.shape
    assert y.dtype == wanted.dtype
    site = find_sites(nn.Sequential(conv), x, include_first=True, widths=False).sites[0]
    assert counter.get_total_flops() == 2 * len(x) * site_macs(site, choice)
    assert sum(p.numel() for p in block.parameters()) == site_params(site, choice)


@choices
def test_a_block_trains_every_parameter(choice):
    conv = CONVOLUTIONS["baseline"][0]
    block = build_block(conv, choice)
    block.copy_weights(conv)
    block(image(conv, (5, 7))).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@choices
def test_a_block_takes_over_mode_frozen_state_dtype_device_and_memory_format(choice):
    conv = nn.Conv2d(6, 12, 3, device="meta", dtype=torch.bfloat16).to(memory_format=torch.channels_last).eval()
    block = build_block(conv.requires_grad_(False), choice)
    assert not any(m.training for m in block.modules())
    assert {(p.device.type, p.dtype, p.requires_grad) for p in block.parameters()} == {("meta", torch.bfloat16, False)}
    assert all(m.is_contiguous(memory_format=torch.channels_last) for p in block.parameters() if (m := p).dim() == 4)
    assert build_block(nn.Conv2d(6, 12, 3).train(), choice).training


@choices
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_of_a_convolution_is_frozen_of_its_block(choice, frozen):
    conv = nn.Conv2d(6, 12, 3)
    getattr(conv, frozen).requires_grad_(False)
    trained = {name.endswith("bias"): p.requires_grad for name, p in build_block(conv, choice).named_parameters()}
    assert trained == {False: frozen == "bias", True: frozen == "weight"}


@choices
def test_weights_load_strictly_into_a_block_made_without_knowing_the_order(choice):
    conv = CONVOLUTIONS["baseline"][0]
    block, fresh, x = build_block(conv, choice), build_block(conv, choice), image(conv, (5, 7))
    natural = build_block(conv, choice).state_dict()
    assert "order" not in natural
    if isinstance(choice, Ghost):
        block.order = torch.randperm(12)
    fresh.load_state_dict(block.state_dict(), strict=True)
    assert torch.equal(fresh(x), block(x))
    block.load_state_dict(natural, strict=True)
    assert getattr(block, "order", None) is None


@choices
def test_a_block_says_what_it_is_and_can_be_copied(choice):
    block = build_block(CONVOLUTIONS["baseline"][0], choice)
    assert str(choice) in repr(block)
    assert block.state_dict().keys() == copy.deepcopy(block).state_dict().keys()


def test_keep_is_the_convolution_itself():
    conv = nn.Conv2d(3, 4, 3)
    assert build_block(conv, KEEP) is conv
