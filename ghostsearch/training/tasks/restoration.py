"""An image for an image (denoising, deblurring, super-resolution): squared error and PSNR."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ghostsearch.errors import GhostsearchError
from ghostsearch.training.tasks.base import Meter, PerImage, Task, main_output

LARGEST_DB = 100.0
"""An output without any error would have an infinite PSNR, and no mean."""


class Restoration(Task):
    """Image to image, targets from 0 to 1: mean squared error; the score is the mean PSNR in dB."""

    metric = "PSNR"
    kinds: ClassVar[tuple[str, ...]] = ("image",)

    def target(self, images: Any, target: Any) -> Tensor:
        """Wanted images (N, C, H, W) as floats; raises GhostsearchError for other shapes."""
        wanted = super().target(images, target)
        if not isinstance(wanted, Tensor) or wanted.ndim != 4:
            found = tuple(wanted.shape) if isinstance(wanted, Tensor) else type(wanted).__name__
            raise GhostsearchError(f"wanted images have shape (N, C, H, W), got {found}")
        return wanted.float()

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(_same_shape(output, target), target)

    def meter(self) -> Meter:
        """Mean over images of the peak signal-to-noise ratio, the peak being 1."""
        return Psnr()


class Psnr(PerImage):
    """Peak signal-to-noise ratio in dB, at most 100 per image."""

    def values(self, output: Any, target: Tensor) -> Tensor:
        """The PSNR of each image."""
        error = (_same_shape(output, target) - target).square().flatten(1).mean(1)
        return -10 * torch.log10(error.clamp(min=10 ** (-LARGEST_DB / 10)))


def _same_shape(output: Any, target: Tensor) -> Tensor:
    image = main_output(output)
    if image.shape != target.shape:
        raise GhostsearchError(f"the model gives images {tuple(image.shape)}, the data want {tuple(target.shape)}")
    return image
