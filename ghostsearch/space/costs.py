"""Params and MACs of a site under a choice, and the channels that a width keeps: arithmetic without torch."""

from __future__ import annotations

import math
from math import lcm
from typing import Any

from ghostsearch.space.architecture import Site
from ghostsearch.space.choice import KEEP, WIDTH_MULTIPLE, LayerChoice


def site_position_macs(
    site: Site, choice: LayerChoice, in_channels: int | None = None, out_channels: int | None = None
) -> int:
    """Multiply-adds per output position of a site under a choice, optionally at other channel counts."""
    return choice.position_macs(site.filters(in_channels, out_channels))


def site_macs(site: Site, choice: LayerChoice, in_channels: int | None = None, out_channels: int | None = None) -> int:
    """Multiply-adds on one image of a site under a choice: output positions of all its calls, times MACs each."""
    positions = site.macs // site_position_macs(site, KEEP)
    return positions * site_position_macs(site, choice, in_channels, out_channels)


def site_params(
    site: Site, choice: LayerChoice, in_channels: int | None = None, out_channels: int | None = None
) -> int:
    """Parameters, biases included, of a site under a choice, optionally at other channel counts."""
    return choice.params(site.filters(in_channels, out_channels))


def theoretical_speedup(site: Site, choice: LayerChoice) -> float:
    """MACs of the convolution over MACs of the choice: the paper's r_s (section 3.2, equation 4); below 1: costlier.

    Infinite where nothing is computed any more.
    """
    macs = site_position_macs(site, choice)
    return site_position_macs(site, KEEP) / macs if macs else math.inf


def choice_fits(site: Site, choice: LayerChoice) -> bool:
    """Whether the choice suits the site's channels and lowers its MACs."""
    return choice.suits(site.filters()) and theoretical_speedup(site, choice) > 1


def is_depthwise(layer: Any) -> bool:
    """Whether each output of a convolution, or of its site, reads one channel alone: as many groups as inputs."""
    return 1 < getattr(layer, "groups", 1) == layer.in_channels


def passes_channels(layer: Any) -> bool:
    """Whether each output of a convolution, or of its site, is made of the input's channel of the same number alone."""
    return is_depthwise(layer) and bool(layer.in_channels == layer.out_channels)


def kept_width(channels: int, share: float, multiple: int = WIDTH_MULTIPLE, divisions: int = 1) -> int:
    """Channels that a width keeps: the share, rounded to a multiple, never 0 and never above what there is.

    `divisions` are equal runs of channels that must lose the same number each (grouped convolutions). Where rounding to
    the multiple too would leave no choice between little and all, only the divisions count.
    """
    if share >= 1:
        return channels
    step = lcm(multiple, divisions)
    if divisions > 1 and 2 * step > channels:
        step = divisions
    return min(channels, max(step, int(share * channels / step + 0.5) * step))
