"""What a model wants to see; no torch here, so that a command line can be parsed without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

from pydantic import BeforeValidator

from ghostsearch.errors import GhostsearchError
from ghostsearch.options import refused

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_SIDE, LONGEST = 4096, 2**20

Size = int | tuple[int, ...]
"""Side of a square in pixels, (height, width) of a rectangle, (length,) of a recording, (depth, height, width)."""

CROP_FROM = 96
"""From this side on images are resized to 1/0.875 of it and centre-cropped, as for torchvision's weights."""


@dataclass(frozen=True)
class InputSpec:
    """A model's input (N, C, *dims), scaled to 0…1, then normalised by mean and std."""

    size: Size
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: int | None = None
    """Shorter side before the centre crop of a square; None: the size, or 1/0.875 of it from 96 pixels on."""
    interpolation: str = "bilinear"

    @property
    def dims(self) -> tuple[int, ...]:
        """(height, width) in pixels, (length,) of a recording, or (depth, height, width) of a volume."""
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *dims): one input without its batch."""
        return (self.channels, *self.dims)

    @property
    def shorter_side(self) -> int:
        """The shorter side that a square's image is resized to before its centre crop."""
        side = min(self.dims)
        return self.resize or (round(side / 0.875) if side >= CROP_FROM else side)

    def __str__(self) -> str:
        return f"{self.size}²" if isinstance(self.size, int) else "×".join(map(str, self.size))


def parse_size(size: int | str | Sequence[int] | None) -> Size | None:
    """A size from `224`, `32x100` (height x width), a number or a pair; a pair of equal sides is a square.

    A sequence of one number is the length of a recording, of three (depth, height, width) of a volume.

    Raises GhostsearchError for anything else, and for sides that are not from 1 to 4096 (a length: to 2²⁰).
    """
    if size is None:
        return None
    sides: Any = size.lower().replace("×", "x").split("x") if isinstance(size, str) else size
    try:
        numbers = tuple(int(side) for side in ([sides] if isinstance(sides, int) else sides))
    except (TypeError, ValueError):
        numbers = ()
    # What is no picture comes as an array alone, never as an option's text.
    array = not isinstance(size, int | str) and len(numbers) in (1, 3)
    largest = LONGEST if len(numbers) == 1 and array else LARGEST_SIDE
    known = array or len(numbers) in (1, 2)
    # Three sides of the largest length would be more than a machine holds.
    if not known or not all(1 <= side <= largest for side in numbers) or prod(numbers) > LARGEST_SIDE**2:
        raise GhostsearchError(
            f"size must be a side or HEIGHTxWIDTH, from 1 to {LARGEST_SIDE} pixels, such as 224 or 32x100; got {size!r}"
        )
    return numbers if array or len(set(numbers)) == 2 else numbers[0]


def _as_size(value: Any) -> Any:
    """A side as a number, a rectangle as text such as `32x100`."""
    if value is None or isinstance(value, bool):
        return value
    with refused():
        size = parse_size(value)
        if isinstance(size, tuple) and len(size) > 2:
            raise GhostsearchError(
                f"size must be a side or HEIGHTxWIDTH; a volume's is in its model's input_spec; got {value}"
            )
    return "x".join(map(str, size)) if isinstance(size, tuple) else size


ImageSize = Annotated[int | str, BeforeValidator(_as_size)]
"""An option that takes what `parse_size` takes."""
