"""The study's storage: Optuna proposes and its database is the only truth; records live in its trials."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Objective, Record
from ghostsearch.search.owners import beating, is_alive, own_name
from ghostsearch.space import Architecture, SearchSpace

RECORD, ORIGIN, OWNER, SEEN = "record", "origin", "owner", "seen"
"""User attributes of a trial; SEEN is when its owner last gave a sign of life, in seconds since 1970."""
WIDTH_SUFFIX = " [width]"
"""Marks a group's parameter, since a group is named like the site that makes its channels."""
DATABASE = "study.db"
ATTEMPTS = 40
"""Proposals the sampler may repeat before an unseen architecture is drawn at random."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Proposal:
    """An architecture to evaluate, with the open trial that asked for it."""

    trial: optuna.trial.Trial
    architecture: Architecture
    origin: str


class Ledger:
    """A study in its storage: what was proposed, what became of it, what comes next."""

    def __init__(
        self,
        storage: Any,
        name: str,
        space: SearchSpace,
        objectives: Sequence[Objective],
        *,
        sampler: str,
        seed: int,
    ) -> None:
        self.space, self.objectives, self.sampler, self.seed = space, tuple(objectives), sampler, seed
        self.distributions = distributions(space)
        directions = [StudyDirection.MAXIMIZE if o.maximize else StudyDirection.MINIMIZE for o in objectives]
        try:
            self.study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, load_if_exists=True
            )
        except Exception as error:  # noqa: BLE001 - storages raise errors of their own libraries
            raise GhostsearchError(f"the study's storage cannot be opened: {_first_line(error)}") from None

    def records(self) -> list[Record]:
        """Every finished trial's record, in the order in which they were proposed."""
        return finished_records(self._trials())

    def running(self) -> int:
        """How many trials are being evaluated by processes that live."""
        return sum(_lives(t) for t in self._trials(TrialState.RUNNING))

    def recover(self) -> int:
        """Settle trials that a dead process left running: tell those that had finished, propose the others again.

        Returns how many were proposed again.
        """
        again = 0
        for trial in self._trials(TrialState.RUNNING):
            if _lives(trial):
                continue
            text = trial.user_attrs.get(RECORD)
            if text:
                self._tell(optuna.trial.Trial(self.study, trial._trial_id), Record.model_validate_json(text))
            else:
                # Back in its own place in the queue, so that the order is that of an unkilled run.
                self.study._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
                again += 1
        return again

    def enqueue(self, architectures: Sequence[tuple[Architecture, str]]) -> None:
        """Propose architectures before the sampler does; those already in the study are passed over."""
        known = {self.architecture(t.params).digest for t in self._trials() if t.params}
        known |= {
            self.architecture(t.system_attrs.get("fixed_params", t.params)).digest
            for t in self._trials(TrialState.WAITING)
        }
        for architecture, origin in architectures:
            if architecture.digest not in known:
                known.add(architecture.digest)
                self.study.enqueue_trial(self.parameters(architecture), user_attrs={ORIGIN: origin})

    def ask(self, accepts: Callable[[Architecture], bool]) -> Proposal | None:
        """The next architecture that the study has not seen and that `accepts` lets through.

        None when the space is exhausted. A duplicate or infeasible proposal is closed at once and costs no trial.
        """
        records = self.records()
        seen = {r.digest for r in records}
        running = self.running()
        for attempt in range(ATTEMPTS):
            waiting = bool(self._trials(TrialState.WAITING))
            if attempt == ATTEMPTS - 1 and not waiting and not self._enqueue_unseen(seen, accepts):
                return None
            # Seeded by how far the study is and not by what this process drew, so that a resumed run proposes
            # what an unkilled one would have.
            self.study.sampler = make_sampler(self.sampler, self.seed + 1000 * (len(records) + running) + attempt)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial = self.study.ask(dict[str, BaseDistribution](self.distributions))
            trial.set_user_attr(OWNER, own_name())
            trial.set_user_attr(SEEN, time.time())
            architecture = self.architecture(trial.params)
            if architecture.digest not in seen | self._taken(trial.number) and accepts(architecture):
                return Proposal(trial, architecture, trial.user_attrs.get(ORIGIN, "sampler"))
            self.study.tell(trial.number, state=TrialState.FAIL)
        return None

    @contextmanager
    def working_on(self, proposal: Proposal) -> Iterator[None]:
        """Within, other machines see that this one still works on the trial."""
        with beating(lambda now: proposal.trial.set_user_attr(SEEN, now)):
            yield

    def finish(self, proposal: Proposal, record: Record) -> None:
        """Close a trial: the record first, so that a kill in between loses nothing."""
        proposal.trial.set_user_attr("digest", record.digest)
        proposal.trial.set_user_attr(RECORD, record.model_dump_json())
        self._tell(proposal.trial, record)

    def architecture(self, params: dict[str, Any]) -> Architecture:
        """The architecture of Optuna's parameters."""
        return Architecture.of(
            {k: v for k, v in params.items() if not k.endswith(WIDTH_SUFFIX)},
            {k.removesuffix(WIDTH_SUFFIX): v for k, v in params.items() if k.endswith(WIDTH_SUFFIX)},
        )

    def parameters(self, architecture: Architecture) -> dict[str, str]:
        """Optuna's parameters of an architecture of this space."""
        sites = {p: str(architecture.sites.get(p, options[0])) for p, options in self.space.sites.items()}
        groups = {g: str(architecture.groups.get(g, options[0])) for g, options in self.space.groups.items()}
        return {**sites, **{g + WIDTH_SUFFIX: text for g, text in groups.items()}}

    def _tell(self, trial: optuna.trial.Trial, record: Record) -> None:
        for objective in self.objectives:
            value = objective_value(record, objective)
            if objective.limit is not None and value is not None:
                excess = objective.limit - value if objective.maximize else value - objective.limit
                trial.set_constraint(objective.name, excess)
        if record.state == "complete":
            values = [objective_value(record, o) for o in self.objectives]
            self.study.tell(trial, [float("nan") if v is None else v for v in values])
        else:
            self.study.tell(trial, state=TrialState.PRUNED if record.state == "pruned" else TrialState.FAIL)

    def _taken(self, number: int) -> set[str]:
        """Digests that other processes are evaluating; of two that took the same one, the earlier trial keeps it."""
        running = self._trials(TrialState.RUNNING)
        return {self.architecture(t.params).digest for t in running if t.number < number and t.params and _lives(t)}

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _enqueue_unseen(self, seen: set[str], accepts: Callable[[Architecture], bool]) -> bool:
        draw = random.Random(self.seed + len(seen))  # noqa: S311 - a search, not a secret
        for _ in range(2000):
            params = {name: draw.choice(d.choices) for name, d in self.distributions.items()}
            architecture = self.architecture(params)
            if architecture.digest not in seen and accepts(architecture):
                self.study.enqueue_trial(params)
                return True
        return False


def finished_records(trials: Sequence[FrozenTrial]) -> list[Record]:
    """The records of finished trials, numbered from 0 in the order of the trials."""
    done = sorted((t for t in trials if RECORD in t.user_attrs and t.state.is_finished()), key=lambda t: t.number)
    found = [Record.model_validate_json(t.user_attrs[RECORD]) for t in done]
    return [r.model_copy(update={"number": i}) for i, r in enumerate(found)]


def _lives(trial: FrozenTrial) -> bool:
    return is_alive(trial.user_attrs.get(OWNER, ""), trial.user_attrs.get(SEEN, 0.0))


def distributions(space: SearchSpace) -> dict[str, CategoricalDistribution]:
    """One categorical parameter a site and a group, of choice strings."""
    sites = {path: CategoricalDistribution(options) for path, options in space.sites.items()}
    groups = {name + WIDTH_SUFFIX: CategoricalDistribution(options) for name, options in space.groups.items()}
    return {**sites, **groups}


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of a name, seeded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match name:
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, n_startup_trials=8, multivariate=True)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=12)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
    raise GhostsearchError(f"sampler {name!r} is unknown; choose from tpe, nsga2, gp, random")


def objective_value(record: Record, objective: Objective) -> float | None:
    """A record's figure on an objective, in its unit; None when it has none."""
    if objective.name == "score":
        score = record.score()
        return score.value if score else None
    if objective.name.startswith("latency_s["):
        latency = record.latency(objective.name.removeprefix("latency_s[").removesuffix("]"))
        return latency.median_s if latency else None
    return getattr(record.cost, objective.name) if record.cost else None


def minimised(record: Record, objectives: Sequence[Objective]) -> list[float]:
    """A record's objective values with every axis to be minimised, as `pareto` wants them; NaN where it has none."""
    values = [(objective_value(record, o), o.maximize) for o in objectives]
    return [float("nan") if v is None else -v if maximize else float(v) for v, maximize in values]


def open_storage(storage: str | None, folder: Path) -> Any:
    """Optuna's storage of a run: the study directory's SQLite file, `journal:FILE`, or a database's URL.

    Raises GhostsearchError when it cannot be opened.
    """
    if storage is None:
        return f"sqlite:///{folder / DATABASE}"
    if storage.startswith("journal:"):
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        return JournalStorage(JournalFileBackend(storage.removeprefix("journal:")))
    try:
        return optuna.storages.RDBStorage(storage)
    except Exception as error:  # noqa: BLE001 - the database's driver raises errors of its own
        raise GhostsearchError(f"storage {storage.split('@')[-1]!r} cannot be opened: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
