"""The images of a distillation: which ones judge, and random batches of the others, shifted and mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH_VALUES = 32 * 3 * 224 * 224
"""Largest number of values of a batch: training keeps every map of it."""


@dataclass(frozen=True)
class ImageSettings:
    """How images are drawn."""

    batch: int = 64
    """Images of a step; fewer of large ones."""
    held_out: float = 0.125
    """Share of the images that only judge."""
    shift: int = 4
    """Images are shifted by at most so many pixels, and by at most an eighth of their width."""
    flips: bool = True


def _pooled(images: Sequence[Any]) -> Tensor | None:
    """The images as one tensor (N, C, H, W); None unless all batches are image tensors of one size."""
    first = images[0]
    together = all(isinstance(b, Tensor) and b.dim() == 4 and b.shape[1:] == first.shape[1:] for b in images)
    return torch.cat(list(images)) if together else None


def split(images: Sequence[Any], settings: ImageSettings) -> tuple[list[Any], list[Any]]:
    """Batches to train on and batches that judge; a single image, or single batch of another kind, does both."""
    pool = _pooled(images)
    if pool is not None:
        held = min(len(pool) - 1, max(1, round(len(pool) * settings.held_out)))
        if held < 1:
            return [pool], [pool]
        return list(pool[:-held].split(settings.batch)), list(pool[-held:].split(settings.batch))
    held = max(1, round(len(images) * settings.held_out))
    return (list(images[:-held]), list(images[-held:])) if len(images) > 1 else (list(images), list(images))


def kept_to_judge(images: Sequence[Any], steps: int) -> tuple[list[Any], list[Any]]:
    """The images for the fit, and those held out to judge the distillation of `steps` after it; none without steps."""
    return split(images, ImageSettings()) if steps and images else (list(images), [])


class Draw:
    """Random batches of images, shifted and mirrored; batches that are no image tensors come as they are."""

    def __init__(self, images: Sequence[Any], settings: ImageSettings, generator: torch.Generator) -> None:
        self.pool, self.images, self.settings, self.generator = _pooled(images), images, settings, generator
        most = 0 if self.pool is None else max(1, BATCH_VALUES // self.pool[0].numel())
        self.batch = settings.batch if self.pool is None else min(settings.batch, most, len(self.pool))
        self.shift = 0 if self.pool is None else min(settings.shift, self.pool.shape[-1] // 8)
        self.order: list[int] = []

    def __call__(self) -> Any:
        count = len(self.images) if self.pool is None else len(self.pool)
        take = 1 if self.pool is None else self.batch
        if len(self.order) < take:
            self.order = torch.randperm(count, generator=self.generator).tolist()
        chosen, self.order = self.order[:take], self.order[take:]
        return self.images[chosen[0]] if self.pool is None else self._augmented(self.pool[torch.tensor(chosen)])

    def _augmented(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        wide = F.pad(x, [self.shift] * 4, mode="reflect") if self.shift else x
        moves = torch.randint(2 * self.shift + 1, (len(x), 2), generator=self.generator).tolist()
        mirrored = (torch.rand(len(x), generator=self.generator) < 0.5 * self.settings.flips).tolist()
        made = []
        for image, (down, right), mirror in zip(wide, moves, mirrored, strict=True):
            crop = image[:, down : down + height, right : right + width]
            made.append(crop.flip(-1) if mirror else crop)
        return torch.stack(made)
