"""Whether what a runtime gives is what the module gives, but for rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ghostsearch.errors import GhostsearchError

TOLERANCE = 1e-2
"""Largest difference, as a share of an output's largest value, that another runtime's order of sums explains."""
SMALL = 1e-5
"""Share of the largest of all outputs below which an output's own size says nothing: it may be rounding alone."""


def require_agreement(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], what: str) -> tuple[float, float]:
    """The largest difference between found and wanted outputs, and the largest wanted value.

    what: gives the found ones, in the message. Raises GhostsearchError when a shape is another, when one differs by
    more than rounding, judged by its own size, or is not finite.
    """
    if [y.shape for y in found] != [y.shape for y in wanted]:
        raise GhostsearchError(f"{what} gives {[y.shape for y in found]}, the module {[y.shape for y in wanted]}")
    difference = output = 0.0
    largest_of_all = max((_magnitude(y) for y in wanted), default=0.0)
    for got, want in zip(found, wanted, strict=True):
        own, differs = _magnitude(want), _magnitude(np.subtract(got, want, dtype=np.float64))
        if not np.isfinite(got[np.isfinite(want)]).all() or differs > TOLERANCE * max(own, SMALL * largest_of_all):
            raise GhostsearchError(
                f"{what} computes something else: an output of up to {own:.3g} differs by up to {differs:.3g}"
                f"{'' if np.isfinite(got).all() else ', some values are not finite'}"
            )
        difference, output = max(difference, differs), max(output, own)
    return difference, output


def _magnitude(values: Any) -> float:
    """The largest finite absolute value of an array, 0 without one."""
    return float(np.abs(values[np.isfinite(values)], dtype=np.float64).max(initial=0))
