"""What comes next in a study: Optuna's sampler over a bounded, reproducible part of the finished trials.

A sampler's time grows with the trials it looks at, and tens of thousands may be in a study that a thousand workers
share. So it sees all of a usual study, and of a long one the best and the newest.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ghostsearch.errors import GhostsearchError
from ghostsearch.pareto import standings

WINDOW = 150
"""After each so many trials beyond the first, the sampler's view is cut back to so many."""


class Proposer:
    """A sampler in front of an in-memory study that follows the real one."""

    def __init__(
        self, sampler: str, distributions: Mapping[str, CategoricalDistribution], directions: Sequence[StudyDirection]
    ) -> None:
        make_sampler(sampler, 0, distributions)
        self.sampler, self.distributions, self.directions = sampler, dict(distributions), list(directions)
        self._view: list[FrozenTrial] = []
        self._study = self._mirror()

    def propose(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters, and the attributes that the sampler keeps with the trial; same trials and seed, same answer."""
        self._study.sampler = make_sampler(self.sampler, seed, self.distributions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asked = self._study.ask(dict[str, BaseDistribution](self.distributions))
        answer = self._study.tell(asked, state=TrialState.FAIL)
        return answer.params, answer.system_attrs

    def take(self, trial: FrozenTrial) -> None:
        """Follow one finished trial; the cuts come after fixed counts, so that a resumed run makes the same ones."""
        bare = optuna.trial.create_trial(
            state=trial.state, values=trial.values, params=trial.params, distributions=trial.distributions,
            system_attrs=trial.system_attrs,
        )  # fmt: skip
        self._view.append(bare)
        if len(self._view) == 2 * WINDOW:
            self._view = best_and_newest(self._view, self.directions, WINDOW)
            self._study = self._mirror()
        else:
            self._study.add_trial(bare)

    def _mirror(self) -> optuna.Study:
        study = optuna.create_study(directions=self.directions)
        study.add_trials(self._view)
        return study


def best_and_newest(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], count: int
) -> list[FrozenTrial]:
    """`count` trials in their order: half of them the best by rank and crowding, the others the newest of the rest."""
    complete = [i for i, t in enumerate(trials) if t.state == TrialState.COMPLETE]
    feasible = [i for i in complete if all(v <= 0 for k, v in trials[i].system_attrs.items() if _is_constraint(k, v))]
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions]
    points = [[s * v for s, v in zip(signs, trials[i].values or (), strict=True)] for i in feasible]
    found = standings(points)
    kept = {feasible[i] for i in sorted(range(len(found)), key=found.__getitem__)[: count // 2]}
    newest = [i for i in range(len(trials)) if i not in kept][-(count - len(kept)) :]
    return [trials[i] for i in sorted(kept.union(newest))]


def _is_constraint(key: str, value: Any) -> bool:
    return key.startswith("constraints:") and isinstance(value, int | float)


class _KnownSpaceTpe(optuna.samplers.TPESampler):
    """TPE that is told its space; Optuna would work it out again from all trials, four fifths of an ask's time."""

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=8, multivariate=True)
        self._space = {name: space[name] for name in sorted(space) if not space[name].single()}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:  # fmt: skip
        return self._space


def make_sampler(name: str, seed: int, space: Mapping[str, BaseDistribution]) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of a name, seeded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match name:
            case "tpe":
                return _KnownSpaceTpe(space, seed)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=12)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
    raise GhostsearchError(f"sampler {name!r} is unknown; choose from tpe, nsga2, gp, random")
