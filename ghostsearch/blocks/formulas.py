"""Params and MACs of a site under a choice, channels that a width keeps: the one place where the formulas stand."""

from __future__ import annotations

from math import ceil, lcm, prod

from ghostsearch.space.architecture import Site
from ghostsearch.space.choice import Ghost, Keep, LayerChoice, LowRank


def intrinsic_channels(out_channels: int, ratio: int, groups: int = 1) -> int:
    """m = ceil(n/s) intrinsic maps (Han et al. 2020, section 3.1), rounded up to a multiple of the channel groups."""
    return groups * ceil(out_channels / (ratio * groups))


def low_rank(in_channels: int, out_channels: int, taps: int, share: float, groups: int = 1) -> int:
    """Maps between a low-rank site's two convolutions: share·n, from one to full rank per channel group."""
    n, c = out_channels // groups, in_channels // groups
    return groups * min(max(1, round(share * n)), n, c * taps)


def site_position_macs(
    site: Site, choice: LayerChoice, in_channels: int | None = None, out_channels: int | None = None
) -> int:
    """Multiply-adds per output position of a site under a choice, optionally at other channel counts."""
    c = (in_channels or site.in_channels) // site.groups
    n = out_channels or site.out_channels
    k, dims = prod(site.kernel), len(site.kernel)
    match choice:
        case Keep():
            return n * c * k
        case Ghost(ratio=s, kernel=d, cheap=cheap):
            m = intrinsic_channels(n, s, site.groups)
            return m * c * k + (s - 1) * m * {"conv": d**dims, "affine": 1, "wavelet": 2**dims}[cheap]
        case LowRank(rank=share):
            r = low_rank(c * site.groups, n, k, share, site.groups)
            return r * c * k + n * (r // site.groups)
    raise TypeError(f"no cost formula for {choice}")


def site_macs(site: Site, choice: LayerChoice, in_channels: int | None = None, out_channels: int | None = None) -> int:
    """Multiply-adds on one image of a site under a choice: output positions of all its calls, times MACs each."""
    positions = site.macs // site_position_macs(site, Keep())
    return positions * site_position_macs(site, choice, in_channels, out_channels)


def site_params(
    site: Site, choice: LayerChoice, in_channels: int | None = None, out_channels: int | None = None
) -> int:
    """Parameters, biases included, of a site under a choice, optionally at other channel counts."""
    c = (in_channels or site.in_channels) // site.groups
    n = out_channels or site.out_channels
    k, dims = prod(site.kernel), len(site.kernel)
    bias = site.params > site_position_macs(site, Keep())
    match choice:
        case Keep():
            return n * c * k + n * bias
        case Ghost(ratio=s, kernel=d, cheap=cheap):
            m = intrinsic_channels(n, s, site.groups)
            # An affine map is its scale and its shift; a wavelet map has a fixed filter and a scale.
            per_ghost = {"conv": d**dims + bias, "affine": 2, "wavelet": 1 + bias}[cheap]
            return m * (c * k + bias) + (s - 1) * m * per_ghost
        case LowRank(rank=share):
            r = low_rank(c * site.groups, n, k, share, site.groups)
            return r * c * k + n * (r // site.groups) + n * bias
    raise TypeError(f"no cost formula for {choice}")


def theoretical_speedup(site: Site, choice: LayerChoice) -> float:
    """MACs of the convolution over MACs of the choice: the paper's r_s (section 3.2, equation 4); below 1: dearer."""
    return site_position_macs(site, Keep()) / site_position_macs(site, choice)


def choice_fits(site: Site, choice: LayerChoice) -> bool:
    """Whether the choice suits the site (its channel groups divide the intrinsic maps) and lowers its MACs."""
    if isinstance(choice, Ghost) and ceil(site.out_channels / choice.ratio) % site.groups:
        return False
    return theoretical_speedup(site, choice) > 1


def kept_width(channels: int, share: float, multiple: int = 8, divisions: int = 1) -> int:
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
