import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.cifar import resnet20, resnet56, vgg16
from ghostsearch.models.load import OWN_MODELS

IMAGE = torch.zeros(1, 3, 32, 32)


def resnet_cost(n):
    """Weights and MACs of a 6n+2 layer net, stage by stage, without BN and the classifier's bias."""
    weights = [3 * 16 * 9, (2 * n) * 16 * 16 * 9, (16 + (2 * n - 1) * 32) * 32 * 9, (32 + (2 * n - 1) * 64) * 64 * 9]
    macs = sum(w * s for w, s in zip(weights, (32 * 32, 32 * 32, 16 * 16, 8 * 8), strict=True))
    batchnorm = 2 * (16 + 2 * n * (16 + 32 + 64))
    return sum(weights) + batchnorm + 64 * 10 + 10, macs + 64 * 10


@pytest.mark.parametrize("layers", [20, 32, 44, 56, 110])
def test_resnet_cost(layers):
    cost = measure_cost(OWN_MODELS[f"resnet{layers}"][0](), IMAGE)
    assert (cost.params, cost.macs) == resnet_cost((layers - 2) // 6)


def test_vgg16_cost():
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sides = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    weights = [a * b * 9 for a, b in pairwise(widths)]
    head = 512 * 512 + 512 * 10
    cost = measure_cost(vgg16(), IMAGE)
    assert cost.params == sum(weights) + 2 * sum(widths[1:]) + head + 512 + 10
    assert cost.macs == sum(w * s * s for w, s in zip(weights, sides, strict=True)) + head


def test_shortcut_has_no_parameters():
    assert {k.split(".")[0] for k in resnet20().state_dict()} == {
        "conv1",
        "bn1",
        "layer1",
        "layer2",
        "layer3",
        "linear",
    }
    assert not any("shortcut" in k for k in resnet20().state_dict())


def test_shortcut_slices_and_pads():
    shortcut = resnet20().layer2[0].shortcut
    x = torch.randn(2, 16, 8, 8)
    y = shortcut(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


@pytest.mark.parametrize("build", [resnet20, resnet56])
def test_trained_nets_load_strictly(build):
    from safetensors.torch import load_file

    folder = Path(os.environ.get("GHOSTSEARCH_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = folder / f"cifar_{build.__name__}_jpeg.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is not at hand (set GHOSTSEARCH_TEST_DATA to its folder)")
    build().load_state_dict(load_file(path), strict=True)
