"""The images of a distillation: which ones judge, and random batches of the others, shifted and mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostsearch.graph.batches import ReadBatches

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


class Split(NamedTuple):
    """Batches to train on, and those that only judge; none where they are still to be held out."""

    training: Sequence[Any]
    judging: Sequence[Any]


def _pooled(images: Sequence[Any]) -> ReadBatches | None:
    """The images (N, C, H, W) by position; None unless all batches are image tensors of one size."""
    pool = ReadBatches.of(images)
    return pool if pool is not None and pool[0].dim() == 4 else None


def _positions(pool: ReadBatches) -> list[int]:
    return [position for batch in pool.positions for position in batch]


def split(images: Sequence[Any], settings: ImageSettings) -> Split:
    """The images, some of them held out; a single image, or single batch of another kind, does both."""
    pool = _pooled(images)
    if pool is not None:
        every = _positions(pool)
        held = min(len(every) - 1, max(1, round(len(every) * settings.held_out)))
        if held < 1:
            return Split(pool, pool)
        parts = every[:-held], every[-held:]
        cut = ([p[i : i + settings.batch] for i in range(0, len(p), settings.batch)] for p in parts)
        return Split(*map(pool.cut, cut))
    held = max(1, round(len(images) * settings.held_out))
    return Split(images[:-held], images[-held:]) if len(images) > 1 else Split(images, images)


def kept_to_judge(images: Sequence[Any], steps: int) -> Split:
    """The images for the fit, and those held out to judge the distillation of `steps` after it; none without steps."""
    return split(images, ImageSettings()) if steps and images else Split(images, ())


class Draw:
    """Random batches of images, shifted and mirrored; batches that are no image tensors come as they are."""

    def __init__(self, images: Sequence[Any], settings: ImageSettings, generator: torch.Generator) -> None:
        self.pool, self.images, self.settings, self.generator = _pooled(images), images, settings, generator
        self.batch, self.take, self.shift = settings.batch, 1, 0
        self.positions: Sequence[int] = range(len(images))
        if self.pool is not None:
            image = self.pool[0][0]
            self.positions = _positions(self.pool)
            self.batch = min(settings.batch, max(1, BATCH_VALUES // image.numel()), len(self.positions))
            self.take, self.shift = self.batch, min(settings.shift, min(image.shape[1:]) // 8)
        self.order: list[int] = []

    def __call__(self) -> Any:
        if len(self.order) < self.take:
            self.order = torch.randperm(len(self.positions), generator=self.generator).tolist()
        chosen = [self.positions[i] for i in self.order[: self.take]]
        del self.order[: self.take]
        return self.images[chosen[0]] if self.pool is None else self._augmented(self.pool.at(chosen))

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
