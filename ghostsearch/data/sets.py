"""Data sets that yield whole normalised batches: from memory, or decoded at each access in worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ghostsearch.data.boxes import as_target
from ghostsearch.data.images import CHUNK, BrokenImageError, fit, resizing, with_channels
from ghostsearch.data.source import Source
from ghostsearch.errors import GhostsearchError, GhostsearchWarning, in_a_line
from ghostsearch.machine import usable_cores
from ghostsearch.shown import Progress

if TYPE_CHECKING:
    from ghostsearch.models.input import InputSpec

FILE_KINDS = ("mask", "image", "boxes")
"""Targets that are cropped and mirrored together with their image."""


class ImageSet(Dataset[tuple[Tensor, Any]]):
    """Images in memory, bytes or floats from 0 to 1, yielded as normalised batches; `x: (N, C, *dims)`.

    Where the images are on a GPU, so is everything that is done to them.
    """

    def __init__(
        self, images: Tensor, labels: Tensor | None, input_spec: InputSpec, *, shift: int = 0, flips: bool = False
    ) -> None:
        self.images, self.labels, self.input_spec = images, labels, input_spec
        self.shift, self.flips = shift, flips
        view = (1, -1, *[1] * len(input_spec.dims))
        spread = torch.tensor(input_spec.std, device=images.device).view(view)
        self._scale = 1 / ((1 if images.is_floating_point() else 255) * spread)
        self._offset = torch.tensor(input_spec.mean, device=images.device).view(view) / spread

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        x, y = self.__getitems__([index])
        return x[0], None if y is None else y[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Any]:
        """A whole batch at once: the data loader calls this instead of collating single images."""
        chosen = torch.tensor(indices, device=self.images.device)
        images = self.images[chosen]
        if self.shift:
            images = shifted(images, self.shift)
        if self.flips:
            images = flipped(images)
        labels = None if self.labels is None else self.labels[chosen]
        return images.float().mul_(self._scale).sub_(self._offset), labels

    def unaugmented(self) -> ImageSet:
        """The same images without augmentation."""
        return ImageSet(self.images, self.labels, self.input_spec)


def shifted(images: Tensor, most: int) -> Tensor:
    """Each image (N, C, H, W) moved by up to `most` pixels each way: black padding, random crop."""
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (most, most, most, most))
    down, right = torch.randint(2 * most + 1, (2, n, 1), device=images.device)
    rows, columns = (
        first + torch.arange(length, device=images.device) for first, length in ((down, height), (right, width))
    )
    image = torch.arange(n, device=images.device)
    picked = padded.movedim(1, -1)[image[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.movedim(-1, 1)


def most_shift(input_spec: InputSpec) -> int:
    """By how many pixels training images are shifted at most: an eighth of the side."""
    return max(1, min(input_spec.dims) // 8)


def flipped(images: Tensor) -> Tensor:
    """Each image (N, C, H, W) mirrored left to right with probability one half."""
    mirror = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirror.view(-1, 1, 1, 1), images.flip(-1), images)


def labels_of(source: Source, positions: Sequence[int]) -> Tensor | None:
    """The targets at some positions: class numbers (N,), else numbers (N, K); None without labels."""
    if source.kind == "none":
        return None
    chosen = [source.targets[i] for i in positions]
    return torch.tensor(chosen, dtype=torch.long if source.kind == "class" else torch.float32)


def decode(source: Source, input_spec: InputSpec, progress: Progress | None = None) -> tuple[Tensor, dict[int, str]]:
    """All images of a source (N, C, *dims), bytes or what its arrays hold, and why broken (black) ones did not."""
    total = len(source.names)
    if total and holds_arrays(source):
        return torch.from_numpy(np.stack([source.open(i) for i in range(total)])), {}
    images = np.zeros((total, *input_spec.shape), dtype=np.uint8)
    broken: dict[int, str] = {}

    def decode_chunk(start: int) -> None:
        for i in range(start, min(start + CHUNK, total)):
            try:
                images[i] = fit(source.open(i), input_spec, source.top)
            # A damaged file can make a decoder raise nearly anything; each is counted and reported by name.
            except Exception as error:  # noqa: BLE001
                broken[i] = in_a_line(error)

    with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
        starts = range(0, total, CHUNK)
        for start, _ in zip(starts, pool.map(decode_chunk, starts), strict=True):
            if progress:
                progress(min(start + CHUNK, total), total, "reading images")
    return torch.from_numpy(images), broken


def holds_arrays(source: Source) -> bool:
    """Whether a source's items are arrays, which are in memory already, and not images of files."""
    try:
        return isinstance(source.open(0), np.ndarray)
    # Counted and reported with the others.
    except Exception:  # noqa: BLE001
        return False


class StreamSet(Dataset[tuple[Tensor, Any]]):
    """Images decoded at each access, yielded as normalised batches; `x: (N, C, H, W)`."""

    def __init__(self, source: Source, positions: Sequence[int], input_spec: InputSpec, *, augment: bool) -> None:
        self.source, self.positions, self.input_spec, self.augment = source, positions, input_spec, augment
        self._transform = _augmentation(source, input_spec) if augment else _plain(source, input_spec)
        self._mean = torch.tensor(input_spec.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(input_spec.std).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        x, y = self.__getitems__([index])
        return x[0], None if y is None else y[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Any]:
        """A whole batch; images that turn out broken are left out of it with a warning."""
        images, targets, good, trouble = [], [], [], ""
        for position in (self.positions[i] for i in indices):
            try:
                image, target = self._sample(position)
            # A damaged file can make a decoder raise nearly anything.
            except Exception as error:  # noqa: BLE001
                trouble = f"{self.source.names[position]}: {in_a_line(error)}"
                warnings.warn(f"broken image left out of a batch: {trouble}", GhostsearchWarning, stacklevel=2)
                continue
            images.append(image)
            targets.append(target)
            good.append(position)
        if not images:
            raise GhostsearchError(f"a whole batch of images is broken, such as {trouble}")
        x = torch.stack(images).float().div_(255).sub_(self._mean).div_(self._std)
        if self.source.kind == "boxes":
            return x, targets
        return x, torch.stack(targets) if self.source.open_target else labels_of(self.source, good)

    def _sample(self, position: int) -> tuple[Tensor, Any]:
        """One image as bytes (C, H, W), and its target where that moves with the image."""
        from torchvision.transforms.v2 import functional as transforms

        image = with_channels(self.source.open(position), self.input_spec.channels, self.source.top)
        if self.source.open_target is None:
            return transforms.pil_to_tensor(self._transform(image)), None
        image, target = self._transform(image, self._opened_target(position, image))
        if self.source.kind == "image":
            target = transforms.pil_to_tensor(target).float() / 255
        elif self.source.kind == "mask":
            target = target.as_subclass(Tensor).long()
        elif self.source.kind == "boxes":
            target = {name: value.as_subclass(Tensor) for name, value in target.items()}
        return transforms.pil_to_tensor(image), target

    def _opened_target(self, position: int, image: Any) -> Any:
        from torchvision import tv_tensors

        assert self.source.open_target is not None
        target = self.source.open_target(position)
        if self.source.kind == "boxes":
            return as_target(target, image.size)
        size = target.shape[::-1] if self.source.kind == "mask" else target.size
        if tuple(size) != image.size:
            raise BrokenImageError(f"the {self.source.kind} has {size[0]}x{size[1]} pixels, the image {image.size}")
        height, width = self.input_spec.dims
        if self.source.kind == "image" and (size[1] < height or size[0] < width):
            raise BrokenImageError(
                f"the image has {size[0]}x{size[1]} pixels, fewer than the {width}x{height} that pairs are cropped to "
                "(--size)"
            )
        if self.source.kind == "mask":
            return tv_tensors.Mask(torch.from_numpy(target))
        return with_channels(target, self.input_spec.channels, self.source.top)

    def unaugmented(self) -> StreamSet:
        """The same images without augmentation."""
        return StreamSet(self.source, self.positions, self.input_spec, augment=False)


def _augmentation(source: Source, input_spec: InputSpec) -> Callable[..., Any]:
    """Random resized crop of a quarter of the area or more, and mirroring: torchvision's for photographs.

    Images with values (counts, ages) are shifted as those in memory, since a crop would change what is counted. Images
    to be restored are cropped, not resized, which would change their noise; boxes are mirrored only.
    """
    from torchvision.transforms import v2

    dims, steps = list(input_spec.dims), []
    if source.kind == "image":
        steps.append(v2.RandomCrop(dims))
    elif source.kind == "boxes":
        steps.append(v2.Resize(dims))
    elif source.kind == "value":
        steps += [resizing(input_spec), v2.RandomCrop(dims, padding=most_shift(input_spec))]
    elif isinstance(input_spec.size, int):
        steps.append(v2.RandomResizedCrop(dims, scale=(0.25, 1.0), antialias=True))
    else:
        steps.append(v2.Resize(dims))
    return v2.Compose([*steps, *([v2.RandomHorizontalFlip()] if source.flips else [])])


def _plain(source: Source, input_spec: InputSpec) -> Callable[..., Any]:
    from torchvision.transforms import v2

    if source.kind == "image":
        return v2.CenterCrop(list(input_spec.dims))
    return v2.Resize(list(input_spec.dims)) if source.kind == "boxes" else resizing(input_spec)


def find_unreadable(source: Source, progress: Progress | None = None) -> dict[int, str]:
    """Images, by position, whose header does not even parse, and why; a full decode of a large set would take hours."""
    broken = {}
    for i in range(len(source.names)):
        try:
            source.open(i).close()
            if source.open_target is not None:
                source.open_target(i)
        # A damaged file can make a decoder raise nearly anything.
        except Exception as error:  # noqa: BLE001
            broken[i] = in_a_line(error)
        if progress and i % 1000 == 0:
            progress(i, len(source.names), "checking images")
    return broken
