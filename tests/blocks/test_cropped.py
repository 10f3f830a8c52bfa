"""Cropped kernels: where only the middle of a kernel counts, the same convolution, whatever its padding."""

import pytest
import torch
from torch import nn

from ghostsearch.blocks.table import build_block
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.load import load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import Crop
from ghostsearch.surgery.convert import convert


class Padded(nn.Conv2d):
    """Pads by itself."""

    def forward(self, input):
        return super().forward(nn.functional.pad(input, (0, 1, 0, 1)))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 5, stride=2, padding=2),
        nn.Conv2d(4, 6, 5, padding=0, bias=False),
        nn.Conv2d(4, 6, 5, padding="valid"),
        nn.Conv2d(4, 6, (1, 5), padding=(0, 1)),
        nn.Conv2d(4, 6, 5, padding=3, dilation=2, groups=2),
        nn.Conv2d(4, 6, 5, padding="same"),
        nn.Conv2d(4, 6, 5, padding=2, padding_mode="circular"),
        nn.Conv1d(4, 6, 7, padding=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_kernel_with_nothing_outside_its_middle_gives_the_same(conv, kernel):
    taps = [slice((k - min(k, kernel)) // 2, (k + min(k, kernel)) // 2) for k in conv.kernel_size]
    middle = torch.zeros_like(conv.weight)
    middle[(slice(None), slice(None), *taps)] = 1.0
    conv.weight.data *= middle
    block = build_block(conv, Crop(kernel))
    block.copy_weights(conv)
    x = torch.randn(2, 4, *[13, 12][: len(conv.kernel_size)])
    torch.testing.assert_close(block(x), conv(x))


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 6, 2), Padded(4, 6, 3)], ids=["even", "own forward"])
def test_what_cannot_be_cropped_is_refused(conv):
    with pytest.raises(GhostsearchError, match="with odd kernels can become it"):
        build_block(conv, Crop(1))


def test_a_fit_uses_what_the_middle_says_of_its_surroundings():
    torch.manual_seed(0)
    model = load_model("ghostsearch:digits_cnn").module.eval()
    # Neighbouring pixels resemble each other.
    images, unseen = (nn.functional.avg_pool2d(torch.randn(2, 64, 1, 10, 10)[i], 3, 1) for i in (0, 1))
    architecture = Architecture.of({"block1.0.0": "crop(kernel=1)"})
    errors = []
    for calibration in ([images], None):
        made = convert(model, architecture, example=images, calibration=calibration)
        with torch.no_grad():
            errors.append(float((made(unseen) - model(unseen)).square().mean()))
    assert errors[0] < 0.5 * errors[1]
