"""What a study believes of architectures that nobody built: scores, costs, and what they would add to a front."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ghostsearch.study.program import Problem
from ghostsearch.study.regression import Regression

Code = tuple[int, ...]
"""The number of the option that each variable takes; 0 is the baseline's."""

LEARNT = 4
"""Trials that must have reached a rung before proposals are made for its scores."""
DRAWN = 64
"""Trials from which on losses are drawn (Thompson 1933); before, what is believed most adds more than exploring."""
DEEP = 1.2
"""Scores so many times the largest drop below the baseline's count as nothing: the hypervolume's reference."""
WORST = 1.05
"""The hypervolume's reference on a resource, in baselines."""


@dataclass
class Front:
    """The best scores by amount of a resource, from cheap to expensive."""

    amounts: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    codes: list[Code] = field(default_factory=list)

    def add(self, amount: float, score: float, code: Code) -> None:
        """Take a model in where nothing as cheap scores as well, and drop what it beats."""
        at = bisect_left(self.amounts, amount)
        if at < len(self.amounts) and self.amounts[at] == amount and self.scores[at] >= score:
            return
        if at and self.scores[at - 1] >= score:
            return
        end = at
        while end < len(self.scores) and self.scores[end] <= score:
            end += 1
        self.amounts[at:end], self.scores[at:end], self.codes[at:end] = [amount], [score], [code]

    def gains(self, amounts: np.ndarray, scores: np.ndarray, worst: tuple[float, float]) -> np.ndarray:
        """Area that each of (A,) models would add, up to `worst` amount and score: (A,)."""
        starts = np.array([-np.inf, *self.amounts])
        ends = np.array([*self.amounts, worst[0]])
        best = np.array([worst[1], *self.scores])
        wide = np.maximum(0.0, ends - np.maximum(starts, amounts[:, None]))
        return np.asarray((np.maximum(0.0, scores[:, None] - np.maximum(best, worst[1])) * wide).sum(1))


@dataclass
class _Rung:
    """What the scores after so many epochs say."""

    losses: Regression
    fronts: dict[str, Front]
    least: float = np.inf


class Beliefs:
    """The candidate table as corrected by the trials told so far.

    axes: the problem's resources that fronts are kept for. Scores: larger is better.
    """

    def __init__(self, problem: Problem, axes: Sequence[str]) -> None:
        self.problem, self.axes = problem, tuple(axes)
        self.corrections = {name: self._correction(name) for name in problem.names if name.startswith("latency")}
        self.count = 0
        """Models told, the baseline not among them."""
        self._told: list[tuple[Code, dict[float, float], dict[str, float]]] = []
        self._rungs: dict[float, _Rung] = {}
        self._base: float | None = None
        self._unscored = False
        """Whether the baseline's own trial has ended without a score."""

    def miss_baseline(self) -> None:
        """Take in that the baseline has no score: the best of the first models stands in for it.

        How far below the baseline that is, the entry that every change pays takes up.
        """
        self._unscored = True

    def tell(self, code: Code, scores: Mapping[float, float], amounts: Mapping[str, float]) -> None:
        """Take in a finished trial: its score by epochs of training, and its resources as measured."""
        finite = {epochs: score for epochs, score in scores.items() if np.isfinite(score)}
        if not finite:
            return
        known = {**self.problem.at(code), **{k: v for k, v in amounts.items() if k in self.problem.names}}
        self._told.append((code, finite, known))
        self.count += any(code)
        if any(code) and self._base is not None:
            self._learn(code, finite, known)
        elif not any(code):
            self._count_from(next(iter(finite.values())))
        elif self._unscored and len(self._told) >= LEARNT:
            self._count_from(max(next(iter(known.values())) for _, known, _ in self._told))

    def _count_from(self, score: float) -> None:
        """Count losses from a score: all that came before is learnt now."""
        self._base, self._rungs = score, {}
        for told in self._told:
            self._learn(*told)

    def time(self, code: Code, name: str, amount: float) -> None:
        """Take in a measured latency."""
        if any(code) and np.isfinite(amount):
            self.corrections[name].add(code, (amount - self.problem.at(code)[name]) / self.problem.baseline(name))

    def _learn(self, code: Code, scores: Mapping[float, float], amounts: Mapping[str, float]) -> None:
        assert self._base is not None
        for epochs, score in scores.items():
            if epochs not in self._rungs:
                self._rungs[epochs] = _Rung(Regression(self.problem.added), {axis: Front() for axis in self.axes})
            rung = self._rungs[epochs]
            rise = score - self._base
            for axis, front in rung.fronts.items():
                front.add(amounts[axis], rise, code)
            rung.least = min(rung.least, rise)
            if any(code):
                rung.losses.add(code, -rise)

    @property
    def rung(self) -> _Rung | None:
        """The longest training that enough trials had; None before that."""
        learnt = [epochs for epochs, rung in self._rungs.items() if rung.losses.count >= LEARNT]
        return self._rungs[max(learnt)] if learnt else None

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Losses to propose by (D,), drops of the score; the table's where no rung has enough trials."""
        rung = self.rung
        if rung is None:
            return Regression(self.problem.added).mean
        below = max((e for e, r in self._rungs.items() if r is not rung and e < self._epochs(rung)), default=None)
        if below is not None:
            # The table as the shorter training corrected it is what the longer one is expected to change little of.
            rung.losses.expect(self._rungs[below].losses.posterior().mean)
        belief = rung.losses.posterior()
        return belief.draw(rng) if rung.losses.count >= DRAWN else belief.mean

    def _epochs(self, rung: _Rung) -> float:
        return next(epochs for epochs, known in self._rungs.items() if known is rung)

    def gains(self, codes: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Hypervolume of score and each axis that models (A, V) would add under given losses, in shares: (A,)."""
        rung = self.rung
        assert rung is not None
        scores, amounts, least = -rung.losses.features(codes) @ losses, self.amounts(codes), DEEP * rung.least
        total = np.zeros(len(codes))
        for axis, front in rung.fronts.items():
            most = WORST * self.problem.baseline(axis)
            total += front.gains(amounts[axis], scores, (most, least)) / most
        return total

    def front_codes(self) -> list[Code]:
        """Models on a front of the rung that is learnt."""
        rung = self.rung
        return list(dict.fromkeys(c for f in rung.fronts.values() for c in f.codes)) if rung else []

    def amounts(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Resources of models (A, V) by name, latencies corrected: (A,) each."""
        amounts = dict(zip(self.problem.names, self.problem.resources.at_all(codes), strict=True))
        for name, values in self.extra().items():
            amounts[name] = amounts[name] + sum(v[codes[:, i]] for i, v in enumerate(values))
        return amounts

    def extra(self) -> dict[str, list[np.ndarray]]:
        """By latency, what measured ones have beyond the predicted ones, by variable and option, in its unit."""
        return {
            name: [x * self.problem.baseline(name) for x in correction.entries(correction.posterior().mean)]
            for name, correction in self.corrections.items()
            if correction.count
        }

    def margin(self, name: str) -> float:
        """Distance to keep from a limit on a resource: the typical error of its prediction; 0 where that is exact."""
        if name not in self.corrections or self.corrections[name].count < LEARNT:
            return self.problem.margin(name)
        return self.corrections[name].posterior().noise * self.problem.baseline(name)

    def excess(self, codes: np.ndarray, limits: Mapping[str, float]) -> np.ndarray:
        """By which share of a limit models (A, V) are over it, the prediction's deviation added: (A,)."""
        amounts, over = self.amounts(codes), np.full(len(codes), -np.inf)
        for name, limit in limits.items():
            margin = np.full(len(codes), self.margin(name))
            if margin.any() and (correction := self.corrections[name]).count >= LEARNT:
                margin = correction.posterior().deviation(correction.features(codes)) * self.problem.baseline(name)
            over = np.maximum(over, (amounts[name] + margin) / limit - 1)
        return over

    def _correction(self, name: str) -> Regression:
        """Of a latency, in baselines: nothing is expected, and what each option saves says how wrong it may be."""
        i, variables = self.problem.names.index(name), len(self.problem.sizes)
        alone = []
        for variable, size in enumerate(self.problem.sizes):
            codes = np.zeros((size, variables), dtype=np.int64)
            codes[:, variable] = np.arange(size)
            alone.append(self.problem.resources.at_all(codes)[i] / self.problem.baseline(name) - 1.0)
        return Regression([np.zeros_like(x) for x in alone], alone)
