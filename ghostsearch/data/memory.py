"""Image sets small enough to stay decoded in memory: batches are indexed, augmented and normalised whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ghostsearch.data.images import ImageSource, fit

if TYPE_CHECKING:
    from ghostsearch.models.load import InputSpec

CHUNK = 256


class ImageSet(Dataset[tuple[Tensor, Tensor]]):
    """Images as bytes in memory, given out as normalised float batches; `x: (N, C, H, W)`."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        shift: int = 0,
        flips: bool = False,
    ) -> None:
        self.images, self.labels = images, labels
        self.shift, self.flips = shift, flips
        spread = torch.tensor(std).view(1, -1, 1, 1)
        self._scale = 1 / (255 * spread)
        self._offset = torch.tensor(mean).view(1, -1, 1, 1) / spread
        self.mean, self.std = tuple(mean), tuple(std)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch at once: the data loader calls this instead of collating single images."""
        chosen = torch.tensor(indices)
        images = self.images[chosen]
        if self.shift:
            images = shifted(images, self.shift)
        if self.flips:
            images = flipped(images)
        return images.float().mul_(self._scale).sub_(self._offset), self.labels[chosen]

    def baseline(self) -> ImageSet:
        """The same images without augmentation."""
        return ImageSet(self.images, self.labels, mean=self.mean, std=self.std)


def shifted(images: Tensor, most: int) -> Tensor:
    """Each image (N, C, H, W) moved by up to `most` pixels each way: black padding, random crop."""
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (most, most, most, most))
    rows = torch.randint(2 * most + 1, (n, 1)) + torch.arange(height)
    columns = torch.randint(2 * most + 1, (n, 1)) + torch.arange(width)
    picked = padded.movedim(1, -1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.movedim(-1, 1)


def flipped(images: Tensor) -> Tensor:
    """Each image (N, C, H, W) mirrored left to right with probability one half."""
    mirror = torch.rand(len(images)) < 0.5
    return torch.where(mirror.view(-1, 1, 1, 1), images.flip(-1), images)


def decode(
    source: ImageSource, input_spec: InputSpec, progress: Callable[[int, int, str], None] | None = None
) -> tuple[Tensor, dict[int, str]]:
    """All images of a source as bytes (N, C, size, size), and why the broken ones (black) did not decode."""
    total = len(source.names)
    images = np.zeros((total, input_spec.channels, input_spec.size, input_spec.size), dtype=np.uint8)
    broken: dict[int, str] = {}

    def decode_chunk(start: int) -> None:
        for i in range(start, min(start + CHUNK, total)):
            try:
                images[i] = fit(source.open(i), input_spec)
            # A damaged file can make a decoder raise nearly anything; each is counted and reported by name.
            except Exception as error:  # noqa: BLE001
                broken[i] = f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        starts = range(0, total, CHUNK)
        for start, _ in zip(starts, pool.map(decode_chunk, starts), strict=True):
            if progress:
                progress(min(start + CHUNK, total), total, "reading images")
    return torch.from_numpy(images), broken
