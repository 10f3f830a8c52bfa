"""A layer's time over its channels, from cells timed at every width that a space offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RegularGridInterpolator


@dataclass(frozen=True)
class Surface:
    """Seconds at channels in and out: as timed where it was timed, linear between.

    A runtime works on blocks of channels, so that a time rises by steps: a plane through a few corners misses them.
    """

    levels: tuple[Sequence[int], Sequence[int]]
    """Channels in and out that were timed, rising; of a depthwise layer only those out."""
    seconds: np.ndarray
    """(in, out)"""

    def __call__(self, channels: np.ndarray) -> np.ndarray:
        """Seconds at channels (A, 2): (A,)."""
        free = [axis for axis, levels in enumerate(self.levels) if len(levels) > 1]
        if not free:
            return np.full(len(channels), self.seconds.item())
        grid, values = [self.levels[axis] for axis in free], self.seconds.squeeze(tuple({0, 1} - set(free)))
        return np.asarray(RegularGridInterpolator(grid, values, bounds_error=False, fill_value=None)(channels[:, free]))
