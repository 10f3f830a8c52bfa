"""Image sets too large for memory: decoded anew every epoch, by worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ghostsearch.data.images import ImageSource, fit, with_channels
from ghostsearch.errors import GhostsearchError

if TYPE_CHECKING:
    from ghostsearch.models.load import InputSpec


class StreamSet(Dataset[tuple[Tensor, Tensor]]):
    """Images decoded when asked for, given out as normalised float batches; `x: (N, C, H, W)`."""

    def __init__(self, source: ImageSource, positions: Sequence[int], input_spec: InputSpec, *, augment: bool) -> None:
        self.source, self.positions, self.input_spec, self.augment = source, positions, input_spec, augment
        self._random_crop = _random_crop(input_spec, source.flips) if augment else None
        self._mean = torch.tensor(input_spec.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(input_spec.std).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch; images that turn out broken are left out of it with a warning."""
        images, labels, trouble = [], [], ""
        for position in (self.positions[i] for i in indices):
            try:
                images.append(self._decoded(position))
            # A damaged file can make a decoder raise nearly anything.
            except Exception as error:  # noqa: BLE001
                trouble = f"{self.source.names[position]}: {type(error).__name__}: {error}"
                warnings.warn(f"broken image left out of a batch: {trouble}", stacklevel=2)
                continue
            labels.append(self.source.labels[position])
        if not images:
            raise GhostsearchError(f"a whole batch of images is broken, such as {trouble}")
        return torch.stack(images).float().div_(255).sub_(self._mean).div_(self._std), torch.tensor(labels)

    def _decoded(self, position: int) -> Tensor:
        image = self.source.open(position)
        if self._random_crop is None:
            return torch.from_numpy(fit(image, self.input_spec).copy())
        return self._random_crop(with_channels(image, self.input_spec.channels))

    def baseline(self) -> StreamSet:
        """The same images without augmentation."""
        return StreamSet(self.source, self.positions, self.input_spec, augment=False)


def _random_crop(input_spec: InputSpec, flips: bool) -> Callable[[Any], Tensor]:
    """Random resized crop of a quarter of the area or more, and mirroring: torchvision's for photographs."""
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomResizedCrop(input_spec.size, scale=(0.25, 1.0), antialias=True)]
    if flips:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, v2.PILToTensor()])


def find_unreadable(source: ImageSource, progress: Callable[[int, int, str], None] | None = None) -> dict[int, str]:
    """Positions of images whose header does not even parse; a full decode of a large set would take hours."""
    broken = {}
    for i in range(len(source.names)):
        try:
            source.open(i).close()
        # A damaged file can make a decoder raise nearly anything.
        except Exception as error:  # noqa: BLE001
            broken[i] = f"{type(error).__name__}: {error}"
        if progress and i % 1000 == 0:
            progress(i, len(source.names), "checking images")
    return broken
