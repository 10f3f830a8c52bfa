"""From an image file of any mode and shape to the bytes that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostsearch.errors import GhostsearchError
from ghostsearch.machine import usable_cores
from ghostsearch.units import counted

if TYPE_CHECKING:
    from PIL.Image import Image

    from ghostsearch.models.input import InputSpec

MAX_PIXELS = 89_478_485
"""Larger images count as broken: Pillow's own limit against decompression bombs."""

RANGES = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 1023.0, 4095.0, 16383.0, 65535.0)}
"""Largest values that images of more than 8 bits are known to have: floats, and 8, 10, 12, 14 or 16 bits."""

SHALLOW = (".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""Ends of the names of files that never hold more than 8 bits."""
CHUNK = 256


class BrokenImageError(ValueError):
    """An image that cannot be decoded, or should not be."""


def open_file(path: str, input_spec: InputSpec | None = None) -> Image:
    """The image in a file, upright, not resized; for an input a large JPEG is decoded at a scale that suffices.

    Raises BrokenImageError above MAX_PIXELS, and what Pillow raises for a damaged file.
    """
    from PIL import Image, ImageOps

    image: Any = Image.open(path)
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImageError(f"{image.width}x{image.height} pixels")
    if input_spec is not None:
        side = max(input_spec.shorter_side, *input_spec.dims)
        image.draft(None, (side, side))
    return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image


def fit(image: Image, input_spec: InputSpec, top: float | None = None) -> np.ndarray:
    """An image as the model takes it, bytes (C, H, W): channels, shorter side, centre crop; `top`: see `eight_bits`."""
    array = np.asarray(resizing(input_spec)(with_channels(image, input_spec.channels, top)), dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@lru_cache(maxsize=8)
def resizing(input_spec: InputSpec) -> Callable[[Any], Any]:
    """Shorter side and centre crop, by torchvision; a rectangle is stretched, since a crop would cut off text lines."""
    from torchvision.transforms import v2

    how = v2.InterpolationMode(input_spec.interpolation)
    if not isinstance(input_spec.size, int):
        return v2.Resize(list(input_spec.dims), interpolation=how)
    return v2.Compose([v2.Resize(input_spec.shorter_side, interpolation=how), v2.CenterCrop(input_spec.size)])


def with_channels(image: Image, channels: int, top: float | None = None) -> Image:
    """A grey (1) or colour (3) version of an image of any mode; more than 8 bits are scaled from 0…`top`."""
    if is_deep(image):
        image = eight_bits(image, top)
    return image.convert("L" if channels == 1 else "RGB")


def is_deep(image: Image) -> bool:
    """Whether an image has more than 8 bits per value: 16 or 32 bits, or floats."""
    return image.mode == "F" or image.mode.startswith("I")


def eight_bits(image: Image, top: float | None = None) -> Image:
    """A deep grey image scaled from 0…`top` to bytes; without `top` from the smallest known range that holds it.

    Raises BrokenImageError for values that no known range holds.
    """
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    top = top or known_range([image])
    if values.min(initial=0) < 0 or values.max(initial=0) > top or not np.isfinite(values).all():
        raise BrokenImageError(f"values from {values.min():g} to {values.max():g}, expected 0 to {top:g}")
    # 16 bits keep their upper byte, as Pillow and cameras do; other ranges are scaled and rounded.
    scaled = values // 256 if top == RANGES["I"][-1] and image.mode != "F" else np.rint(values * (255 / top))
    return Image.fromarray(scaled.astype(np.uint8))


def known_range(images: Iterable[Image]) -> float:
    """The smallest known range (its largest value) that holds all of some deep images of one set.

    Raises BrokenImageError when none does.
    """
    most, floats = 0.0, False
    for image in images:
        floats |= image.mode == "F"
        most = max(most, float(np.nan_to_num(np.asarray(image).max(initial=0), nan=np.inf)))
    found = next((top for top in RANGES["F" if floats else "I"] if most <= top), None)
    if found is None:
        raise BrokenImageError(f"values up to {most:g}, expected at most 65535 (floats: 0 to 1, or 0 to 255)")
    return found


def deep_range(openers: Sequence[Callable[[], Image]]) -> float | None:
    """The range of all deep images of a set, so that all are scaled alike; None where there are none.

    Others are opened, which for a file is to read its header, and not decoded.
    """
    most = 0.0
    with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
        for start in range(0, len(openers), CHUNK):
            most = max(most, *pool.map(_own_range, openers[start : start + CHUNK]))
            if most == RANGES["I"][-1]:
                break
    return most or None


def range_of_files(paths: Sequence[str]) -> float | None:
    """The `deep_range` of image files; formats that hold 8 bits alone are not opened."""
    from PIL import Image

    return deep_range([partial(Image.open, path) for path in paths if not path.lower().endswith(SHALLOW)])


def _own_range(opener: Callable[[], Image]) -> float:
    """The range of one deep image; 0 of any other."""
    # A broken file says nothing of the others; it is counted when it is decoded.
    try:
        with opener() as image:
            measured = is_deep(image) and image.width * image.height <= MAX_PIXELS
            return known_range([image]) if measured else 0.0
    except Exception:  # noqa: BLE001
        return 0.0


def refuse_channels(input_spec: InputSpec) -> None:
    """Raise GhostsearchError where a model takes no images of 1 or 3 channels."""
    if input_spec.channels not in (1, 3) or len(input_spec.dims) != 2:
        channels = counted(input_spec.channels, "channel")
        raise GhostsearchError(
            f"the model takes {channels} of {input_spec}, not images; "
            "give arrays:FILE.npz, or loaders of your own by package.module:function"
        )
