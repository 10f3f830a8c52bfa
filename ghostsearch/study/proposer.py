"""What comes next in a study: a sampler in front of a reproducible part of the finished trials.

The time of Optuna's own samplers grows with the trials they look at, and tens of thousands may be in a study that a
thousand workers share. So they see all of a usual study, and of a long one the best and the newest. The table's sampler
keeps sums, and sees every trial once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ghostsearch.errors import GhostsearchError
from ghostsearch.pareto import standings
from ghostsearch.records import Axis, Record
from ghostsearch.study.sampler import RUNGS, TableSampler

WINDOW = 150
"""Trials that a sampler's view is cut back to whenever it holds twice as many."""


class Proposer:
    """A sampler in front of an in-memory study that follows the real one."""

    def __init__(
        self,
        sampler: str | TableSampler,
        distributions: Mapping[str, CategoricalDistribution],
        objectives: Sequence[Axis],
    ) -> None:
        self.table = sampler if isinstance(sampler, TableSampler) else None
        self.name = sampler if isinstance(sampler, str) else "table"
        self.distributions, self.objectives = dict(distributions), tuple(objectives)
        self.directions = directions_of(objectives)
        self._refused: list[Mapping[str, Any]] = []
        self._view: list[FrozenTrial] = []
        self._study = self._mirror()
        if self.table is None:
            make_sampler(self.name, 0, self.distributions)

    def propose(self, seed: int, running: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters, and the attributes that the sampler keeps with the trial; same trials and seed, same answer.

        running: parameters of the trials under way.
        """
        if self.table is not None:
            params = self.table.suggest(self._study, seed=seed, besides=[*running, *self._refused])
            self._refused.append(params)
            return dict(params), {}
        self._study.sampler = make_sampler(self.name, seed, self.distributions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asked = self._study.ask(dict[str, BaseDistribution](self.distributions))
        answer = self._study.tell(asked, state=TrialState.FAIL)
        return answer.params, answer.system_attrs

    def take(self, trial: FrozenTrial, record: Record) -> None:
        """Follow one finished trial; the cuts come after fixed counts, so that a resumed run makes the same ones."""
        self._refused.clear()
        rungs = {f"{s.epochs:g}": s.value for s in record.scores if s.split == "validation"}
        # Its constraints are those of the run that told it; this one may have other limits.
        others = {k: v for k, v in trial.system_attrs.items() if not k.startswith("constraints")}
        bare = optuna.trial.create_trial(
            state=trial.state, values=trial.values, params=trial.params, distributions=trial.distributions,
            system_attrs=others, user_attrs={RUNGS: rungs}, constraints=constraints_of(record, self.objectives),
        )  # fmt: skip
        self._view.append(bare)
        if self.table is None and len(self._view) == 2 * WINDOW:
            self._view = best_and_newest(self._view, self.directions, WINDOW)
            self._study = self._mirror()
        else:
            self._study.add_trial(bare)

    def _mirror(self) -> optuna.Study:
        study = optuna.create_study(directions=self.directions)
        study.add_trials(self._view)
        return study


def directions_of(objectives: Sequence[Axis]) -> list[StudyDirection]:
    """Optuna's directions of some axes."""
    return [StudyDirection.MAXIMIZE if o.maximize else StudyDirection.MINIMIZE for o in objectives]


def constraints_of(record: Record, objectives: Sequence[Axis]) -> dict[str, float]:
    """How far a record lies over each limit, in the axis's unit, by its name; negative where it keeps the limit."""
    found = {}
    for axis in objectives:
        value, bound = axis.minimised(record), axis.bound
        if bound is not None and not math.isnan(value):
            found[axis.name] = value + bound if axis.maximize else value - bound
    return found


def best_and_newest(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], count: int
) -> list[FrozenTrial]:
    """`count` trials in their order: half of them the best by rank and crowding, the others the newest of the rest."""
    complete = [i for i, t in enumerate(trials) if t.state == TrialState.COMPLETE]
    feasible = [i for i in complete if all(v <= 0 for v in trials[i].constraints.values())]
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions]
    points = [[s * v for s, v in zip(signs, trials[i].values or (), strict=True)] for i in feasible]
    found = standings(points)
    kept = {feasible[i] for i in sorted(range(len(found)), key=found.__getitem__)[: count // 2]}
    newest = [i for i in range(len(trials)) if i not in kept][-(count - len(kept)) :]
    return [trials[i] for i in sorted(kept.union(newest))]


class _KnownSpaceTpe(optuna.samplers.TPESampler):
    """TPE that is given its space; Optuna would work it out again from all trials, four fifths of an ask's time."""

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=8, multivariate=True)
        self._space = {name: space[name] for name in sorted(space) if not space[name].single()}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:  # fmt: skip
        return self._space


def make_sampler(name: str, seed: int, space: Mapping[str, BaseDistribution]) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of a name, seeded; raises GhostsearchError for an unknown one."""
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
    raise GhostsearchError(f"sampler {name!r} is unknown; choose from table, tpe, nsga2, gp, random")
