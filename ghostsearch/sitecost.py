"""Params and MACs of a site under a choice, by formula: the one place where they stand."""

from __future__ import annotations

from math import ceil, prod

from ghostsearch.choices import Ghost, Keep, LayerChoice, LowRank
from ghostsearch.space import Site


def site_weights(site: Site, choice: LayerChoice, in_channels: int | None = None, out_channels: int | None = None) -> int:
    """Weights (without bias) of a site under a choice, optionally at other channel counts.

    Ghost: m = ceil(n/s) intrinsic maps by k×k, (s-1)·m ghosts by depthwise d×d (Han et al. 2020, section 3.1).
    """
    c = (in_channels or site.in_channels) // site.groups
    n = out_channels or site.out_channels
    k = prod(site.kernel)
    match choice:
        case Keep():
            return n * c * k
        case Ghost(ratio=s, kernel=d, cheap=cheap):
            m = ceil(n / s)
            per_ghost = {"conv": d ** len(site.kernel), "affine": 1, "wavelet": 1}[cheap]
            return m * c * k + (s - 1) * m * per_ghost
        case LowRank(rank=share):
            r = low_rank(site, share, n)
            return r * c * k + n * (r // site.groups)
    raise TypeError(f"no cost formula for {choice}")


def low_rank(site: Site, share: float, out_channels: int) -> int:
    """Maps between the two convolutions of a low-rank site: share·n, at least one per channel group."""
    return max(site.groups, round(share * out_channels / site.groups) * site.groups)


def theoretical_speedup(site: Site, choice: LayerChoice) -> float:
    """MACs of the convolution over MACs of the choice; the paper's r_s (section 3.2, equation 4). Below 1 it is dearer."""
    return site_weights(site, Keep()) / site_weights(site, choice)


def choice_fits(site: Site, choice: LayerChoice) -> bool:
    """Whether the choice can be built on the site (channel groups divide) and lowers its MACs."""
    if isinstance(choice, Ghost) and ceil(site.out_channels / choice.ratio) % site.groups:
        return False
    return theoretical_speedup(site, choice) > 1
