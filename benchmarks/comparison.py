"""A row of the scoreboard: what is compared, who is ahead, and whether that can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

PAIRED = {500: 1.5, 5_120: 0.4, 10_000: 0.3}
"""Standard error in points of the difference of two networks on so many of the same test images."""
PHOTOGRAPHS, CIFAR_HALF, CIFAR = PAIRED
"""Test images of the ImageNet sample, of every second batch of CIFAR's, and of all its batches."""


@dataclass(frozen=True)
class Row:
    """One comparison: where it was made, both figures, and what is to be concluded."""

    network: str
    at: str
    measured: str
    ours: str
    theirs: str
    verdict: str


def network_name(page: str) -> str:
    """A network's name in full, from what pages are named by."""
    page = page.removeprefix("ghostsearch:")
    return f"efficientnet-{page}" if page.startswith("lite") else page


def images_of(network: str) -> int:
    """Test images that networks without labels are compared on."""
    return PHOTOGRAPHS if network.startswith("efficientnet") else CIFAR_HALF


def table(directory: Path, page: str, number: int = 1) -> pd.DataFrame:
    """A page's table, by its number; values as they were written."""
    return pd.read_csv(directory / (f"{page}.csv" if number == 1 else f"{page}_{number}.csv"), dtype=str).fillna("")


def verdict(ahead: float, error: float, seeds: int = 0) -> str:
    """A lead in points, called so from two standard errors on; of one seed of training it is said.

    seeds: of training; 0 where nothing was trained.
    """
    if abs(ahead) <= 2 * error:
        return f"{ahead:+.1f}, not separable"
    return f"{ahead:+.1f} points" + " in one seed" * (seeds == 1)


def share(written: str) -> float:
    """A share, or the first number of one with its interval."""
    return float(written.split(" ")[0])
