"""GhostConv against the paper's arithmetic and its own definition."""

import pytest
import torch
from torch import nn

from ghostsearch.blocks.cheap import haar_bands
from ghostsearch.blocks.ghost import GhostConv
from ghostsearch.space.choice import Filters, Ghost


def test_parameters_of_the_papers_layer():
    # 16 channels to 64 by 3x3, s=2, d=3: m = 32 intrinsic filters, then 32 depthwise kernels.
    block = GhostConv(nn.Conv2d(16, 64, 3, bias=False), Ghost(2, 3))
    assert block.primary.weight.numel() == 32 * 16 * 3 * 3
    assert block.cheap.weight.numel() == 32 * 3 * 3


@pytest.mark.parametrize(("channels", "ratio", "sliced"), [(12, 2, False), (12, 4, False), (13, 2, True), (9, 5, True)])
def test_the_graph_has_a_slice_only_where_the_ratio_does_not_divide(channels, ratio, sliced):
    block = GhostConv(nn.Conv2d(4, channels, 3), Ghost(ratio, 3)).eval()
    graph = torch.export.export(block, (torch.zeros(1, 4, 5, 5),)).graph_module.graph
    targets = [str(node.target) for node in graph.nodes]
    assert any("slice" in t for t in targets) == sliced
    assert not any("index" in t for t in targets)


def test_order_says_where_each_channel_is():
    block = GhostConv(nn.Conv2d(4, 7, 3), Ghost(2, 3))
    x = torch.randn(1, 4, 5, 5)
    intrinsic = block.primary(x)
    everything = torch.cat([intrinsic, block.cheap(intrinsic)], 1)
    order = torch.tensor([7, 0, 3, 2, 6, 5, 1])
    block.order = order
    assert torch.equal(block(x), everything[:, order])


def test_cheap_kernels_see_one_intrinsic_map_each():
    block = GhostConv(nn.Conv2d(4, 12, 3), Ghost(3, 3))
    x = torch.randn(1, 4, 9, 9, requires_grad=True)
    intrinsic = block.primary(x)
    ghosts = block.cheap(intrinsic)
    for j in range(8):
        (grad,) = torch.autograd.grad(ghosts[0, j].sum(), intrinsic, retain_graph=True)
        assert grad[0].flatten(1).abs().sum(1).nonzero().flatten().tolist() == [j // 2]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_haar_bands_are_an_orthonormal_basis(dims):
    bands = haar_bands(dims).flatten(1)
    assert bands.shape == (2**dims, 2**dims)
    assert torch.allclose(bands @ bands.T, torch.eye(2**dims), atol=1e-6)


def test_wavelet_ghosts_are_scaled_haar_differences():
    block = GhostConv(nn.Conv1d(1, 4, 1, bias=False), Ghost(2, 3, "wavelet"))
    with torch.no_grad():
        block.primary.weight.fill_(1)
        block.cheap.scale.fill_(2**0.5)
    y = block(torch.tensor([[[1.0, 4.0, 2.0]]]))
    # Bands alternate: sum with the next sample, then difference to it; a zero stands behind the last.
    assert torch.allclose(y[0, 2], torch.tensor([5.0, 6.0, 2.0]))
    assert torch.allclose(y[0, 3], torch.tensor([-3.0, 2.0, 2.0]))


def test_affine_is_a_scale_and_a_shift():
    block = GhostConv(nn.Conv2d(3, 4, 3, bias=False), Ghost(2, 3, "affine"))
    x = torch.randn(1, 3, 5, 5)
    maps = block.primary(x)
    wanted = maps * block.cheap.weight.reshape(1, 2, 1, 1) + block.cheap.bias.reshape(1, 2, 1, 1)
    assert torch.allclose(block(x)[:, 2:], wanted, atol=1e-6)


@pytest.mark.parametrize(("channels", "groups", "ratio"), [(32, 1, 2), (32, 4, 2), (32, 8, 4), (25, 1, 2), (24, 8, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_copied_filters_stay_in_their_channel_group(channels, groups, ratio, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(24 if channels == 24 else 32, channels, 3, padding=1, groups=groups, bias=bias)
    run, kept = channels // groups, -(-channels // groups // ratio)
    with torch.no_grad():
        # Within a group the other filters are multiples of its first ones, which a ghost is.
        for start in range(0, channels, run):
            for place in range(kept, run):
                conv.weight[start + place] = 0.5 * conv.weight[start + (place - kept) // (ratio - 1)]
    block = GhostConv(conv, Ghost(ratio, 3))
    block.copy_weights(conv)
    x = torch.randn(2, conv.in_channels, 6, 6)
    wrong = (block(x) - conv(x)).abs().amax((0, 2, 3)) > 1e-5
    even = channels // groups % ratio == 0
    assert int(wrong.sum()) <= (0 if even or groups == 1 else channels - block.primary.out_channels)
    assert even or groups == 1 or not Ghost(ratio, 3).suits(Filters(conv.in_channels, channels, (3, 3), groups))


def test_a_state_of_other_layers_leaves_the_order():
    net = nn.Sequential(GhostConv(nn.Conv2d(4, 8, 3), Ghost(2, 3)), nn.Conv2d(8, 2, 1))
    net[0].order = order = torch.arange(8).flip(0)
    net.load_state_dict(
        {name: value for name, value in net.state_dict().items() if name.startswith("1.")}, strict=False
    )
    assert torch.equal(net[0].order, order)
    net.load_state_dict(nn.Sequential(GhostConv(nn.Conv2d(4, 8, 3), Ghost(2, 3)), nn.Conv2d(8, 2, 1)).state_dict())
    assert net[0].order is None, "a whole state without an order has none"
