"""Separable convolutions: exact with a kernel for each tap, better with more of them, better by images than without."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ghostsearch.blocks.separable import SeparableFit, _of_rank
from ghostsearch.blocks.table import build_block
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.load import load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import Separable
from ghostsearch.surgery.convert import convert


def separable(conv, multiplier):
    block = build_block(conv, Separable(multiplier))
    block.copy_weights(conv)
    return block


@given(
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 6),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    bias=st.booleans(),
)
def test_a_kernel_for_each_tap_gives_the_convolution_itself(inputs, outputs, kernel, stride, dilation, padding, bias):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias)
    x = torch.randn(2, inputs, 9, 8)
    torch.testing.assert_close(separable(conv, kernel[0] * kernel[1])(x), conv(x), rtol=1e-3, atol=1e-4)


class Own(nn.Conv2d):
    def forward(self, input):
        return super().forward(nn.functional.pad(input, (1, 1, 1, 1)))


@pytest.mark.parametrize(
    ("conv", "multiplier"),
    [(nn.Conv2d(8, 12, 3, groups=2), 1), (Own(8, 12, 3), 1), (nn.Conv2d(8, 12, 3), 10), (nn.Conv2d(8, 12, 3), 10**12)],
)
def test_a_convolution_that_cannot_become_separable_is_refused_in_one_line(conv, multiplier):
    with pytest.raises(GhostsearchError, match=rf"^choice 'separable\(multiplier={multiplier}\)': .*, got .*$"):
        build_block(conv, Separable(multiplier))


def problem(outputs=6, inputs=4, taps=9, metric=None):
    """Random filters, a covariance of what they read that is far from even, and the outputs' metric."""
    filters = torch.randn(outputs, inputs, taps, dtype=torch.float64)
    mixed = torch.randn(inputs * taps, 3 * inputs * taps, dtype=torch.float64)
    mixed *= torch.logspace(0, -3, inputs * taps, dtype=torch.float64)[:, None]
    metric = torch.eye(outputs, dtype=torch.float64) if metric is None else metric
    return SeparableFit(filters, mixed @ mixed.T, metric)


def error(fit, columns, kernels):
    missing = (torch.einsum("ncm,cmk->nck", columns, kernels) - fit.filters).flatten(1)
    return float(torch.einsum("nf,fg,mg,nm->", missing, fit.inputs, missing, fit.outputs))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_each_step_of_the_fit_is_a_minimum(multiplier):
    root = torch.randn(6, 6, dtype=torch.float64)
    fit = problem(metric=root @ root.T + 0.1 * torch.eye(6, dtype=torch.float64))
    columns, kernels = _of_rank(fit.filters, multiplier)
    before = error(fit, columns, kernels)
    columns = fit.columns(kernels)
    between = error(fit, columns, kernels)
    best = fit.kernels(columns, kernels)
    after = error(fit, columns, best)
    assert before > between > after
    for _ in range(20):
        assert between <= error(fit, columns + 1e-3 * torch.randn_like(columns), kernels) * 1.0001
        # The kernels of a channel are found one after the other: the last one fits all others as they are.
        moved = best.clone()
        moved[:, -1] += 1e-3 * torch.randn_like(moved[:, -1])
        assert after <= error(fit, columns, moved) * 1.0001


def test_every_map_that_is_made_spreads_alike():
    fit = problem()
    columns, kernels = _of_rank(fit.filters, 3)
    lengths = fit.lengths(kernels)
    assert torch.allclose(fit.lengths(kernels / lengths[..., None]), torch.ones(4, 3, dtype=torch.float64))
    assert error(fit, columns * lengths, kernels / lengths[..., None]) == pytest.approx(error(fit, columns, kernels))
    assert (fit.lengths(torch.zeros_like(kernels)) == 1).all()


def test_more_kernels_a_channel_lose_less_and_a_fit_beats_the_copy():
    torch.manual_seed(0)
    model = load_model("ghostsearch:digits_cnn").module.eval()
    images = [torch.randn(64, 1, 8, 8).clamp_min(0) for _ in range(2)]
    unseen = torch.randn(64, 1, 8, 8).clamp_min(0)
    found = []
    for multiplier in (1, 2, 4):
        architecture = Architecture.of({"block1.0.0": f"separable(multiplier={multiplier})"})
        for calibration in (images, None):
            made = convert(model, architecture, example=images[0], calibration=calibration)
            with torch.no_grad():
                found.append(float((made(unseen) - model(unseen)).square().mean()))
    fitted, copied = found[::2], found[1::2]
    assert fitted[0] > fitted[1] > fitted[2]
    assert all(a < b for a, b in zip(fitted, copied, strict=True))
