"""The search's own Optuna sampler: it starts from the candidate table and learns from every finished trial.

    sampler = TableSampler(problem, parameters, objectives=("score", "macs"))
    study = optuna.create_study(directions=("maximize", "minimize"), sampler=sampler)

The first proposals are exactly those of the integer program for budgets spread over the axes. Then each proposal is
what the losses as the trials corrected them say would add most to the front: the program's answer for a drawn budget or
a neighbour of the front, improved one option at a time. Under limits every second proposal is the best that is believed
to meet them, since that is what the user asked for. In long studies the losses are drawn from those that are still
believed possible (Thompson 1933).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ghostsearch.errors import GhostsearchError
from ghostsearch.study.beliefs import Beliefs, Code
from ghostsearch.study.program import QUICK, Problem, Program, UndecidedError, solve_budgets

SCORE = "score"
RUNGS = "rungs"
"""User attribute of a trained trial: its score by epochs, {"0": 0.91, "1": 0.93}; without it all scores are alike."""
OPENING = 8
"""Models to have been told before losses are learnt, per axis or, under limits, in all; the solver's own until then."""
NEIGHBOURS, STEPS = 200, 12
"""Neighbours of the front that an ask looks at, and steps of one changed option from the best of them."""
TRIES = 20
"""Answers of the program that the study has had already, before an ask does without it."""
DRAWS = 1000


class TableSampler(optuna.samplers.BaseSampler):
    """Samples architectures by a candidate table that finished trials correct.

    problem: prior loss of every option, exact costs and predicted latencies. parameters: the study's parameters with
    their options in the problem's order, the baseline's first. objectives: what each objective of the study is:
    `score`, a resource of the problem, or anything else, which is then not modelled. limits: upper bounds on resources.
    An architecture that breaks one, as predicted and with a margin of the prediction's own error, or that the study has
    had, is not proposed while there is another. The same seed and trials give the same proposal. Threads may share it,
    studies may not.

    Raises GhostsearchError for parameters, objectives or limits that are not the problem's, and in a study whose
    objectives are others.
    """

    def __init__(
        self,
        problem: Problem,
        parameters: Mapping[str, Sequence[str]],
        objectives: Sequence[str],
        *,
        limits: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        sizes = tuple(len(options) for options in parameters.values())
        if sizes != problem.sizes:
            raise GhostsearchError(
                f"the table has options {problem.sizes}, the parameters {sizes}; give them in the table's order"
            )
        if SCORE not in objectives:
            raise GhostsearchError(f"objectives {', '.join(objectives)}: none is 'score', which the sampler learns")
        if unknown := [name for name in limits or {} if name not in problem.names]:
            raise GhostsearchError(f"limits on {', '.join(unknown)}: the table has {', '.join(problem.names)}")
        self.problem, self.seed, self.objectives = problem, seed, tuple(objectives)
        self.parameters = {name: tuple(options) for name, options in parameters.items()}
        self.limits = dict(limits or {})
        axes = problem.axes(self.objectives)
        self.beliefs = Beliefs(problem, axes)
        self._front = list[Code]()
        self._rest_of_front: Iterator[Code] | None = None
        self._program = Program(problem)
        self._least = {axis: self._program.least(axis) for axis in axes}
        self._taken: set[Code] = set()
        self._handed: dict[int, Code] = {}
        """By trial: proposals that the study may not show yet when another thread asks."""
        self._lock = threading.Lock()
        self._known: set[int] = set()
        """Numbers of finished trials that were taken in, of those from `_settled` on."""
        self._settled = 0
        self._independent = optuna.samplers.RandomSampler(seed=seed)

    def __getstate__(self) -> dict[str, Any]:
        """All but the program's answers still to come, which a copy solves again, and the lock."""
        return {**vars(self), "_rest_of_front": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:  # fmt: skip
        """The table's parameters, as far as they leave a choice."""
        return {n: CategoricalDistribution(options) for n, options in self.parameters.items() if len(options) > 1}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Parameters that the table does not know are drawn at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:  # fmt: skip
        """The parameters of the next architecture."""
        if not search_space:
            return {}
        with self._lock:
            running = self._learn(study)
            self._handed = {number: code for number, code in self._handed.items() if number in running}
            code = self._handed[trial.number] = self._next(self.seed, set(self._handed.values()))
        return {name: value for name, value in self._params(code).items() if name in search_space}

    def suggest(
        self, study: optuna.Study, *, seed: int | None = None, besides: Iterable[Mapping[str, Any]] = ()
    ) -> dict[str, str]:
        """The parameters of the next architecture after a study's trials, none of those in `besides`."""
        others = {code for params in besides if (code := self._code(params)) is not None}
        with self._lock:
            self._learn(study)
            return self._params(self._next(self.seed if seed is None else seed, others))

    def _next(self, seed: int, besides: set[Code]) -> Code:
        """What `propose` draws, none of those in `besides`."""
        others = besides - self._taken
        self._taken |= others
        code = self.propose(np.random.default_rng([seed, len(self._taken)]))
        self._taken -= others
        return code

    def _params(self, code: Code) -> dict[str, str]:
        return {name: options[i] for (name, options), i in zip(self.parameters.items(), code, strict=True)}

    def propose(self, rng: np.random.Generator) -> Code:
        """The next architecture's codes after the trials told so far; the baseline before any."""
        baseline = (0,) * len(self.problem.sizes)
        if baseline not in self._taken:
            return baseline
        fronts = 1 if self.limits else len(self.beliefs.axes)
        if self.beliefs.count < OPENING * fronts or self.beliefs.rung is None:
            return self._opening() or self._anything(rng)
        front = self.beliefs.front_codes()
        at_limit = self._at_limit(rng, front) if self.limits and len(self._taken) % 2 else None
        return at_limit or self._best(rng) or self._anything(rng)

    def _learn(self, study: optuna.Study) -> set[int]:
        """Take in what is new in a study; the numbers of the trials that have not ended."""
        sign, trials = self._score_sign(study), study.get_trials(deepcopy=False)
        if len(trials) < self._settled:
            raise GhostsearchError("this sampler has learnt from another study; make a TableSampler for each")
        for trial in trials[self._settled :]:
            if trial.number in self._known:
                continue
            code = self._code({**trial.system_attrs.get("fixed_params", {}), **trial.params})
            if code is not None:
                self._taken.add(code)
                if trial.state.is_finished():
                    self._tell(trial, code, sign)
            if trial.state.is_finished():
                self._known.add(trial.number)
        while self._settled < len(trials) and trials[self._settled].state.is_finished():
            self._known.discard(trials[self._settled].number)
            self._settled += 1
        return {trial.number for trial in trials[self._settled :] if not trial.state.is_finished()}

    def _score_sign(self, study: optuna.Study) -> float:
        """1 where larger scores are better, else -1; raises GhostsearchError where the objectives are others."""
        directions = study.directions
        if len(directions) != len(self.objectives):
            raise GhostsearchError(f"{len(directions)} objectives of the study, {len(self.objectives)} of the sampler")
        for name, direction in zip(self.objectives, directions, strict=True):
            if name in self.problem.names and direction == StudyDirection.MAXIMIZE:
                raise GhostsearchError(f"objective {name}: minimise it; a study that maximises it seeks the dearest")
        return 1.0 if directions[self.objectives.index(SCORE)] == StudyDirection.MAXIMIZE else -1.0

    def _tell(self, trial: FrozenTrial, code: Code, sign: float) -> None:
        amounts = dict(zip(self.objectives, trial.values or (), strict=False))
        for name in self.beliefs.corrections:
            if name in amounts:
                self.beliefs.time(code, name, amounts[name])
            elif name in trial.constraints and name in self.limits:
                # Ruled out by its latency: what it took is still worth knowing.
                self.beliefs.time(code, name, self.limits[name] + trial.constraints[name])
        if trial.state == TrialState.COMPLETE:
            rungs = trial.user_attrs.get(RUNGS) or {"0": amounts[SCORE]}
            try:
                scores = {float(epochs): sign * float(score) for epochs, score in rungs.items()}
            except (AttributeError, TypeError, ValueError):
                raise GhostsearchError(
                    f"trial {trial.number}: user attribute {RUNGS!r} is scores by epochs, such as {{'0': 0.91}}, got "
                    f"{str(rungs)[:80]}"
                ) from None
            self.beliefs.tell(code, scores, amounts)
        elif not any(code):
            self.beliefs.miss_baseline()

    def _opening(self) -> Code | None:
        """The first of the solver's own answers that the study has not had."""
        for code in self._solvers_answers():
            if len(self._allowed([code])):
                return code
        return None

    def _solvers_answers(self) -> Iterator[Code]:
        """What `solve_budgets` gives, each solved once."""
        yield from self._front
        if self._rest_of_front is None:
            every = solve_budgets(self.problem, self.beliefs.axes, self.problem.within_margins(self.limits))
            self._rest_of_front = islice(every, len(self._front), None)
        for code in self._rest_of_front:
            self._front.append(code)
            yield code

    def _at_limit(self, rng: np.random.Generator, avoid: list[Code]) -> Code | None:
        """What is believed to lose least within the limits, of what the study has not had and what is not to avoid."""
        rung, bounds = self.beliefs.rung, self._bounds()
        losses = rung.losses.entries(self.beliefs.draw(rng)) if rung else self.problem.added
        for _ in range(TRIES):
            code = self._answer(bounds, losses, avoid)
            if code not in self._taken:
                return code
            avoid.append(code)
        return None

    def _best(self, rng: np.random.Generator) -> Code | None:
        """What adds most to the front: the best start, then one changed option at a time while that adds more."""
        losses = self.beliefs.draw(rng)
        best, most = None, 0.0
        pool = self._allowed(self._starts(rng, losses))
        for _ in range(STEPS):
            gains = self.beliefs.gains(pool, losses)
            if not len(gains) or gains.max() <= most:
                break
            top = pool[int(np.argmax(gains))].tolist()
            best, most = tuple(top), float(gains.max())
            pool = self._allowed(
                (*top[:i], option, *top[i + 1 :]) for i, n in enumerate(self.problem.sizes) for option in range(n)
            )
        return best

    def _starts(self, rng: np.random.Generator, losses: np.ndarray) -> list[Code]:
        """The program's answer for a drawn budget; this and the front with one or two changed options."""
        axis = self.beliefs.axes[int(rng.integers(len(self.beliefs.axes)))]
        rung = self.beliefs.rung
        assert rung is not None
        answer = self._solve(axis, rng.random(), rung.losses.entries(losses))
        parents = self.beliefs.front_codes() + ([answer] if answer else [])
        starts = [answer] if answer else []
        for _ in range(NEIGHBOURS):
            changed = list(parents[int(rng.integers(len(parents)))])
            for variable in rng.choice(len(changed), min(len(changed), int(rng.integers(1, 3))), replace=False):
                changed[variable] = int(rng.integers(self.problem.sizes[variable]))
            starts.append(tuple(changed))
        return starts

    def _solve(self, axis: str, place: float, losses: Sequence[np.ndarray]) -> Code | None:
        """The program's answer for a budget between the least and the baseline's, or the limit, of an axis."""
        bounds = self._bounds()
        most = min(self.problem.baseline(axis), bounds.get(axis, np.inf))
        least = self._least[axis]
        bounds[axis] = least + (most - least) * max(place, 1e-3)
        # Where nothing is found, another budget will be drawn.
        return self._answer(bounds, losses)

    def _bounds(self) -> dict[str, float]:
        """The limits, each less the typical error of its prediction."""
        return {name: limit - self.beliefs.margin(name) for name, limit in self.limits.items()}

    def _answer(
        self, bounds: Mapping[str, float], losses: Sequence[np.ndarray], avoid: Sequence[Code] = ()
    ) -> Code | None:
        """The program's answer within bounds, none of `avoid`; None where there is none or it cannot decide in time."""
        try:
            found = self._program.solve(bounds, avoid, losses=losses, extra=self.beliefs.extra(), effort=QUICK)
        except UndecidedError:
            return None
        return found.code if found else None

    def _allowed(self, codes: Iterable[Code]) -> np.ndarray:
        """Those codes, each once, that the study has not had and that are predicted to meet every limit: (A, V)."""
        unseen = [code for code in dict.fromkeys(map(self.problem.settled, codes)) if code not in self._taken]
        pool = np.array(unseen, dtype=np.int64).reshape(-1, len(self.problem.sizes))
        return pool[self.beliefs.excess(pool, self.limits) <= 0] if self.limits and len(pool) else pool

    def _anything(self, rng: np.random.Generator) -> Code:
        """An unseen architecture that meets the limits, else a random one or one of the solver's nearest to them."""
        if self.limits:
            taken = np.array(sorted(self._taken))
            within = taken[self.beliefs.excess(taken, self.limits) <= 0].tolist()
            if (left := self._at_limit(rng, [tuple(code) for code in within])) is not None:
                return left
        shares = rng.random((DRAWS, 1)) > rng.random((DRAWS, len(self.problem.sizes)))
        drawn = (rng.integers(self.problem.sizes, size=shares.shape) * shares).tolist()
        settled = dict.fromkeys(self.problem.settled(code) for code in (*drawn, *self._front))
        unseen = [code for code in settled if code not in self._taken]
        if not unseen:
            left = self._answer({}, self.problem.added, sorted(self._taken))
            unseen = [left] if left else list(settled)
        over = self.beliefs.excess(np.array(unseen), self.limits)
        return unseen[int(np.argmax(over <= 0)) if (over <= 0).any() else int(np.argmin(over))]

    def _code(self, params: Mapping[str, Any]) -> Code | None:
        """Option numbers of a trial's parameters; None where they are not this space's."""
        code = []
        for name, options in self.parameters.items():
            value = params.get(name, options[0] if len(options) == 1 else None)
            if value not in options:
                return None
            code.append(options.index(value))
        return tuple(code)
