"""Where a data set's images come from: names, labels, splits and a way to open each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from ghostsearch.models.load import InputSpec

MAX_PIXELS = 89_478_485
"""Larger images count as broken: Pillow's own limit against decompression bombs."""

CROP_FROM = 96
"""From this side on images are resized to 1/0.875 of it and centre-cropped, as for torchvision's weights."""


class BrokenImageError(ValueError):
    """An image that cannot be decoded, or should not be."""


@dataclass(frozen=True)
class ImageSource:
    """A labelled image set whose images are opened one by one."""

    names: Sequence[str]
    labels: Sequence[int]
    open: Callable[[int], Image]
    """The image at a position; raises whatever its decoder raises when it is broken."""
    splits: dict[str, list[int]]
    """Positions of `train`, `validation` and `test`."""
    classes: tuple[str, ...]
    flips: bool
    """Whether a mirrored image is as good as the image: true of photographs, not of characters."""
    notes: tuple[str, ...] = ()
    """How the splits came about."""


def open_file(path: str, input_spec: InputSpec) -> Image:
    """The image in a file, upright, not resized; a large JPEG is decoded at a reduced scale that suffices."""
    from PIL import Image, ImageOps

    image: Any = Image.open(path)
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImageError(f"{image.width}x{image.height} pixels")
    side = resized_side(input_spec.size)
    image.draft(None, (side, side))
    return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image


def fit(image: Image, input_spec: InputSpec) -> np.ndarray:
    """An image as the model takes it, bytes (C, size, size): channels, shorter side, centre crop."""
    from PIL import Image

    size, side = input_spec.size, resized_side(input_spec.size)
    image = with_channels(image, input_spec.channels)
    if image.size != (side, side):
        # Truncation here, rounding below: pixel for pixel what torchvision's Resize and CenterCrop do.
        short = min(image.size)
        shape = (side * image.width // short, side * image.height // short)
        image = image.resize(shape, Image.Resampling.BILINEAR)
    if image.size != (size, size):
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def resized_side(size: int) -> int:
    """The shorter side to resize to before the centre crop of `size` pixels."""
    return round(size / 0.875) if size >= CROP_FROM else size


def with_channels(image: Image, channels: int) -> Image:
    """A grey (1) or colour (3) version of an image of any mode; 16-bit grey is scaled, not clipped."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("L" if channels == 1 else "RGB")
