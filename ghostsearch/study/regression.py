"""Bayesian linear regression over choices: what each option is believed to add, and what finished trials teach of it.

A figure of an architecture is taken as a sum with one entry for every option that it takes. The candidate table gives
the prior mean of every entry and its size the prior's spread; the common scale of the table is open, and so is an entry
that every change of the baseline pays once: scores of weights on images that trained them are flattered, and whatever
is changed first loses that. Only sums over the trials are kept, so that an update costs the same after ten trials and
after ten thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

SPREADS = (0.05, 0.2, 0.5, 1.0)
"""Standard deviations that an entry may have around the scaled table, as shares of its own size."""
NOISES = (0.03, 0.1, 0.2, 0.4, 0.8)
"""Standard deviations of what the sum leaves open, as shares of the figures' own size."""
STEADY = 3.0
"""What a sum of the table leaves open grows with it; below so many typical entries it is what it is there."""
FLOOR = 0.1
"""The least spread of an entry, in typical entries: a change that the table calls free may still cost something."""
ANY_CHANGE = 5.0
"""Standard deviation of what any change pays once, in typical entries."""
SCALE_SPREAD = 0.5
"""Standard deviation of the table's common scale around its least-squares estimate."""


@dataclass(frozen=True)
class Posterior:
    """What is believed of the D entries (the table's shared one is last): mean, factor, deviation of the noise."""

    mean: np.ndarray
    factor: np.ndarray
    """Lower Cholesky factor of the precision (D, D)."""
    noise: float

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One sample of the entries (D,)."""
        return self.mean + solve_triangular(self.factor.T, rng.standard_normal(len(self.mean)), lower=False)

    def deviation(self, rows: np.ndarray) -> np.ndarray:
        """Standard deviation of the sums that rows of features (A, D) make, the noise included: (A,)."""
        spread = solve_triangular(self.factor, rows.T, lower=True)
        return np.asarray(np.sqrt((spread**2).sum(0) + self.noise**2))


class Regression:
    """Entries learnt from sums. Options are numbered; option 0 of each variable is the baseline's and adds nothing.

    mean: per variable (options,), the table's figures, in a unit of their own: a common factor is learnt, and what any
    change pays. size: for corrections, whose mean is 0 and whose unit is the figures', what their spread is
    proportional to.
    """

    def __init__(self, mean: Sequence[np.ndarray], size: Sequence[np.ndarray] | None = None) -> None:
        self.starts = np.cumsum([0, *(len(x) - 1 for x in mean)])
        common = _joined(mean if size is None else size)
        typical = float(np.median(np.abs(common)) if len(common) else 1.0) or 1.0
        # What any change pays is an entry of the table's alone; it stands behind those of the options.
        shared = [ANY_CHANGE * typical] if size is None else []
        self.mean, self.common = (np.append(x, np.zeros(len(shared))) for x in (_joined(mean), common))
        self.size = np.append(np.abs(common) + FLOOR * typical, shared)
        self._steady = STEADY * typical
        self._noisy = np.abs(self.mean)
        """Per entry what it adds to the noise of a sum; nothing for corrections, whose noise is the same for all."""
        self.count = 0
        self._gram = np.zeros((len(self.mean), len(self.mean)))
        self._moment = np.zeros(len(self.mean))
        self._square = 0.0
        self._chosen, self._known = (0.5, 0.2), (0, b"")
        """Spread and noise, and what they were chosen for: how many trials, after which mean."""

    def expect(self, mean: np.ndarray) -> None:
        """Take another prior mean (D,): what was learnt of a figure that this one resembles."""
        self.mean = self.common = mean
        self.size = np.abs(mean) + FLOOR * (float(np.median(np.abs(mean))) or 1.0)

    def add(self, code: Sequence[int], value: float) -> None:
        """Take in the figure of one architecture, given the number of the option that each variable takes."""
        places = np.flatnonzero(self.features(np.array([code]))[0])
        weight = (1.0 + float(self._noisy[places].sum()) / self._steady) ** -2
        self._gram[np.ix_(places, places)] += weight
        self._moment[places] += weight * value
        self._square += weight * value**2
        self.count += 1

    def features(self, codes: np.ndarray) -> np.ndarray:
        """Rows of zeros and ones (A, D) of codes (A, V)."""
        rows = np.zeros((len(codes), len(self.mean)))
        at, variable = np.nonzero(codes)
        rows[at, self.starts[variable] + codes[at, variable] - 1] = 1.0
        rows[:, self.starts[-1] :] = codes.any(1, keepdims=True)
        return rows

    def entries(self, values: np.ndarray) -> list[np.ndarray]:
        """Entries (D,) as one array per variable with the baseline's 0 in front; without the shared one."""
        return [np.append(0.0, values[a:b]) for a, b in zip(self.starts, self.starts[1:], strict=False)]

    @property
    def scale(self) -> float:
        """Least-squares factor between the table and the figures; 1 before any trial and for corrections."""
        power = self.mean @ self._gram @ self.mean
        if power <= 0:
            return 1.0
        return max(float(self.mean @ self._moment / power), 1e-3)

    def posterior(self) -> Posterior:
        """The belief after all trials so far; spread and noise are those that make the trials likeliest.

        They depend on the trials alone, not on when they were asked for: a resumed search proposes what it would have.
        """
        known = (self.count, self.mean.tobytes())
        if known != self._known and self.count >= 2:
            self._chosen = max(product(SPREADS, NOISES), key=lambda at: self._believe(*at)[1])
            self._known = known
        return self._believe(*self._chosen)[0]

    def _believe(self, spread: float, noise_share: float) -> tuple[Posterior, float]:
        """The posterior under given spread and noise, and the log evidence of the trials (MacKay 1992)."""
        scale = self.scale
        mean, size = scale * self.mean, scale * self.size
        level = np.sqrt(self._square / self.count) if self.count else float(np.abs(mean).sum())
        noise = max(noise_share * float(level), 1e-9)
        # Prior covariance diag(v) + u uᵀ, u the common scale's direction; its inverse by Sherman and Morrison.
        own, common = 1.0 / (spread * size) ** 2, SCALE_SPREAD * scale * self.common
        weighted = own * common
        precision = np.diag(own) - np.outer(weighted, weighted) / (1.0 + common @ weighted)
        factor_prior = np.log(own).sum() - np.log1p(common @ weighted)
        precision += self._gram / noise**2
        gap = self._moment - self._gram @ mean
        factor = cholesky(precision, lower=True)
        shift = cho_solve((factor, True), gap / noise**2)
        left = self._square - 2 * mean @ self._moment + mean @ self._gram @ mean
        evidence = (
            -0.5 * (left / noise**2 - shift @ gap / noise**2)
            - self.count * np.log(noise)
            + 0.5 * factor_prior
            - np.log(np.diag(factor)).sum()
        )
        return Posterior(mean + shift, factor, noise), float(evidence)


def _joined(values: Sequence[np.ndarray]) -> np.ndarray:
    """Figures of all options but the baseline's, one variable after the other: (D,)."""
    return np.concatenate([x[1:] for x in values]).astype(float)
