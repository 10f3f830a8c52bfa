"""A class per pixel: cross entropy and mean intersection over union."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ghostsearch.errors import GhostsearchError
from ghostsearch.training.tasks.base import Meter, Task, main_output, not_nan, softened_divergence, with_auxiliary

IGNORED = 255
"""Pixels of this class count nowhere, as in VOC and Cityscapes."""


class Segmentation(Task):
    """A class per pixel: cross entropy; the score is the mean intersection over union (mIoU)."""

    metric = "mIoU"
    kinds: ClassVar[tuple[str, ...]] = ("mask",)

    def target(self, images: Any, target: Any) -> Tensor:
        """Class numbers (N, H, W); a channel dimension of one is removed. Raises GhostsearchError for other shapes."""
        mask = super().target(images, target)
        if isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[1] == 1:
            mask = mask[:, 0]
        if not isinstance(mask, Tensor) or mask.ndim != 3:
            found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise GhostsearchError(f"masks are class numbers of shape (N, H, W), got {found}")
        return mask.long()

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Cross entropy of maps (N, classes, H, W), auxiliary heads added at 0.3 each; 255 is left out."""
        return with_auxiliary(output, lambda maps: _cross_entropy(maps, target))

    def meter(self) -> Meter:
        """Mean over the classes that occur of intersection over union."""
        return MeanIoU()

    def distillation_loss(self, output: Any, teacher_output: Any) -> Tensor:
        """KL divergence from the teacher's class probabilities, a mean over the pixels."""
        return softened_divergence(main_output(output), main_output(teacher_output), 1.0)

    def as_target(self, output: Any) -> Tensor:
        """The most likely class of each pixel, (N, H, W)."""
        return main_output(output).argmax(1)


class MeanIoU:
    """Intersection over union from one confusion matrix over all images, a mean over the classes that occur."""

    def __init__(self) -> None:
        self._confusion: Tensor | None = None

    def update(self, output: Any, target: Tensor) -> None:
        """Take in maps (N, classes, H, W) and masks (N, H, W)."""
        scores = _at_size(not_nan(main_output(output)), target)
        classes, counted = scores.shape[1], _counted(target, scores.shape[1])
        pairs = target[counted] * classes + scores.argmax(1)[counted]
        found = torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes).cpu()
        self._confusion = found if self._confusion is None else self._confusion + found

    def compute(self) -> float:
        """The mean; raises GhostsearchError when there was no pixel."""
        if self._confusion is None or not int(self._confusion.sum()):
            raise GhostsearchError("mIoU of no pixels: the split is empty")
        both = self._confusion.diag().double()
        either = self._confusion.sum(0) + self._confusion.sum(1) - both
        return float((both[either > 0] / either[either > 0]).mean())


def _cross_entropy(maps: Tensor, target: Tensor) -> Tensor:
    if maps.ndim != 4:
        raise GhostsearchError(f"segmentation expects maps (N, classes, H, W), the model gave {tuple(maps.shape)}")
    maps = _at_size(maps, target)
    counted = _counted(target, maps.shape[1]).sum()
    return F.cross_entropy(maps, target, ignore_index=IGNORED, reduction="sum") / counted.clamp(min=1)


def _counted(target: Tensor, classes: int) -> Tensor:
    """Which pixels count, (N, H, W); raises GhostsearchError for a label that is no class."""
    counted = target != IGNORED
    # While a CUDA graph is recorded nothing can be asked of the values.
    if target.is_cuda and torch.cuda.is_current_stream_capturing():
        return counted
    least, most = (int(x) for x in target[counted].aminmax()) if counted.any() else (0, 0)
    if least < 0 or most >= classes:
        raise GhostsearchError(
            f"a mask has label {least if least < 0 else most} with a model of {classes} classes; {IGNORED} is left out"
        )
    return counted


def _at_size(maps: Tensor, target: Tensor) -> Tensor:
    """The maps at the masks' size: some nets answer at a fraction of their input's."""
    if maps.shape[-2:] == target.shape[-2:]:
        return maps
    return F.interpolate(maps, target.shape[-2:], mode="bilinear", align_corners=False)
