"""The study's storage: Optuna's database is the only truth, and records live in its trials."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from ghostsearch.records import Axis, Record
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.study.owners import beating, is_alive, own_name
from ghostsearch.study.proposer import Proposer, constraints_of, directions_of
from ghostsearch.study.sampler import TableSampler
from ghostsearch.study.store import Storage, storage_errors

RECORD, ORIGIN, OWNER, SEEN, DIGEST, DEATHS = "record", "origin", "owner", "seen", "digest", "deaths"
"""User attributes of a trial; SEEN is when its owner last gave a sign of life, in seconds since 1970."""
PIECE = 30_000
"""A record is kept in pieces of so many characters, since MySQL takes no longer texts; RECORD is the first of them."""
WIDTH_SUFFIX = " [width]"
"""Marks a group's parameter, since a group is named like the site that makes its channels."""
MAX_DEATHS = 5
"""A trial in which so many processes died is recorded as failed, or it would take down every one that comes."""
ATTEMPTS = 2
"""Proposals of the sampler that may be taken or infeasible before a neighbour of the last one is drawn: while many
trials run, it would make the same few again and again."""
DRAWS, DRAWS_A_CHANGE = 4000, 20
BUILDS = 20
"""Architectures that are built for one proposal; where none of them will do, the next is a trial that says so."""
Accepts = Callable[[Architecture], bool]


@dataclass(frozen=True)
class Proposal:
    """An architecture to evaluate, with the open trial that stands for it."""

    trial_id: int
    number: int
    architecture: Architecture
    origin: str


class Ledger:
    """A study in its storage: what was proposed, what became of it, what comes next.

    Whatever reads and then writes does so under the storage's lock, so that several processes, on several machines,
    never take the same architecture and never more trials than asked for.
    """

    def __init__(
        self, storage: Storage, name: str, space: SearchSpace, objectives: Sequence[Axis],
        *, sampler: str | TableSampler, seed: int, cheap: Sequence[Architecture] = (),
    ) -> None:  # fmt: skip
        """cheap: architectures that keep tight limits, to look around where the sampler finds none."""
        self.space, self.objectives, self.seed = space, tuple(objectives), seed
        self.cheap = [self.parameters(architecture) for architecture in cheap]
        self.exclusive = storage.exclusive
        self.distributions = distributions(space)
        directions = directions_of(objectives)
        with storage_errors("the study's storage cannot be opened", ValueError), self.exclusive():
            self.proposer = Proposer(sampler, self.distributions, objectives)
            # The sampler here only passes values on; proposals come from the proposer.
            self.study = optuna.create_study(
                storage=storage.backend, study_name=name, directions=directions, load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(seed=0),
            )  # fmt: skip
        self._storage = storage.backend
        self._study_id = self._storage.get_study_id_from_name(name)
        self._standings: dict[int, Record] = {}
        self._newest: dict[str, int] = {}
        """By digest its newest finished trial."""
        self._taken: set[str] = set()
        """Digests that are not proposed again, whatever runs now."""
        self._settled = 0

    def records(self) -> list[Record]:
        """Every finished trial's record, in the order in which they were proposed."""
        with self._using():
            return finished_records(self._trials())

    def standings(self) -> list[Record]:
        """`records` with few figures of each latency; each trial is read once, so that long studies fit."""
        with self._using():
            self._note(self._trials())
        return [self._standings[n] for n in sorted(self._standings)]

    def running(self) -> int:
        """How many trials are being evaluated by processes that live."""
        with self._locked():
            return sum(self._lives(t) for t in self._trials(TrialState.RUNNING))

    def enqueue(self, architectures: Sequence[tuple[Architecture, str]]) -> None:
        """Propose architectures before the sampler does; those already in the study are passed over."""
        with self._locked():
            # Optuna's enqueue_trial(skip_if_exists=True) reads all trials for each one, under a lock that all wait for.
            # What a tighter limit refused has no record, and may be proposed under a looser one.
            known = {self._digest(t) for t in self._trials() if is_told(t) or not t.state.is_finished()}
            for architecture, origin in architectures:
                if architecture.digest not in known:
                    known.add(architecture.digest)
                    self._create(TrialState.WAITING, architecture, {ORIGIN: origin}, {})

    def adopt(self, records: Sequence[Record]) -> None:
        """Take over finished trials of other axes, known ones left; nothing is learnt from what the space has not."""
        with self._locked():
            known = {self._digest(t) for t in self._trials() if t.state.is_finished()}
            for record in records:
                if record.digest not in known:
                    created = self._create(TrialState.RUNNING, record.architecture, {ORIGIN: record.origin}, {})
                    self._write(created, record)

    def retry_pruned(self) -> None:
        """Propose again what an earlier, tighter limit had ruled out and today's limits do not."""
        with self._locked():
            trials = self._trials()
            self._note(trials)
            waiting = {self._digest(t) for t in trials if not t.state.is_finished()}
            for record in [self._standings[number] for number in self._newest.values()]:
                if record.digest not in waiting and self._may_again(record):
                    self._create(TrialState.WAITING, record.architecture, {ORIGIN: record.origin}, {})

    def _may_again(self, record: Record) -> bool:
        pruned = record.state == "pruned" and self.space.offers(record.architecture)
        return pruned and not any(o.breach(record, surely=True) for o in self.objectives)

    def ask(self, accepts: Accepts, limit: int | None = None, once_built: Accepts | None = None) -> Proposal | None:
        """The next architecture that the study has not seen and that `accepts`, at no trial's cost, lets through.

        None when the space is exhausted, or `limit` trials are finished or running and none waits that a looser limit
        lets in again. once_built: what the sampler's own are held against too, which takes building them.
        """
        with self._locked():
            trials = self._trials()
            if self._recover([t for t in trials[self._settled :] if t.state == TrialState.RUNNING]):
                trials = self._trials()
            unfinished = self._note(trials)
            running = [t for t in unfinished if t.state == TrialState.RUNNING]
            count = len(self._standings) + len(running)
            full = limit is not None and count >= limit
            busy = {self._digest(t) for t in running}

            def free(architecture: Architecture) -> bool:
                return not (architecture.digest in self._taken or architecture.digest in busy) and accepts(architecture)

            for trial in unfinished:
                due = trial.state == TrialState.WAITING and (not full or self._digest(trial) in self._newest)
                if due and (queued := self._take(trial, free)):
                    return queued
            built = itertools.count()

            def fit(a: Architecture) -> bool:
                return free(a) and (once_built is None or next(built) >= BUILDS or once_built(a))

            return None if full else self._sample(count, fit, [t.params for t in running])

    @contextmanager
    def working_on(self, proposal: Proposal) -> Iterator[None]:
        """Within, other machines see that this one still works on the trial."""
        with beating(lambda now: self.beat(proposal, now)):
            yield

    def beat(self, proposal: Proposal, now: float) -> None:
        """Leave a sign of life on a trial; `now` in seconds since 1970."""
        self._storage.set_trial_user_attr(proposal.trial_id, SEEN, now)

    def finish(self, proposal: Proposal, record: Record) -> bool:
        """Close a trial: the record first, so that a kill in between loses nothing.

        False when another worker, who took this one for dead, was quicker: then nothing is written.
        """
        with self._locked():
            state = self._storage.get_trial(proposal.trial_id).state
            if state.is_finished():
                return False
            if state == TrialState.WAITING:
                self._storage.set_trial_state_values(proposal.trial_id, state=TrialState.RUNNING)
            self._write(proposal.trial_id, record)
            return True

    def parameters(self, architecture: Architecture) -> dict[str, str]:
        """Optuna's parameters of an architecture of this space."""
        sites = {p: str(architecture.sites.get(p, options[0])) for p, options in self.space.sites.items()}
        groups = {g: str(architecture.groups.get(g, options[0])) for g, options in self.space.groups.items()}
        return {**sites, **{g + WIDTH_SUFFIX: text for g, text in groups.items()}}

    def _using(self) -> AbstractContextManager[None]:
        return storage_errors("the study's storage failed")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._using(), self.exclusive():
            yield

    def _recover(self, running: Sequence[FrozenTrial]) -> int:
        """Settle trials that a dead process left running: tell those that had finished, propose the others again.

        Returns how many were proposed again. Each `ask` does it, so that a living worker takes over.
        """
        again = 0
        alive: dict[str, bool] = {}
        for trial in running:
            owner = trial.user_attrs.get(OWNER, "")
            if owner not in alive:
                alive[owner] = self._lives(trial)
            # On another machine each trial has its own heartbeat.
            if alive[owner] or self._lives(trial):
                continue
            trial_id, deaths = self._id(trial), trial.user_attrs.get(DEATHS, 0) + 1
            if RECORD in trial.user_attrs:
                self._tell(trial_id, read_record(trial))
            elif deaths == MAX_DEATHS:
                architecture, origin = self._architecture(trial.params), trial.user_attrs.get(ORIGIN, "sampler")
                reason = f"worker: {MAX_DEATHS} processes died in this trial (killed, or out of memory)"
                self._write(trial_id, failed_record(architecture, origin, reason))
            else:
                self._storage.set_trial_user_attr(trial_id, DEATHS, deaths)
                # Back in its own place in the queue, so that the order is that of an unkilled run.
                self._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
                again += 1
        return again

    def _take(self, trial: FrozenTrial, free: Accepts) -> Proposal | None:
        """Open a queued trial, or close it where it is not wanted."""
        trial_id, fixed = self._id(trial), trial.system_attrs.get("fixed_params", {})
        for name in self.distributions.keys() & fixed.keys() - trial.params.keys():
            # Queued from outside, by Study.enqueue_trial.
            distribution = self.distributions[name]
            value = distribution.to_internal_repr(fixed[name])
            self._storage.set_trial_param(trial_id, name, value, distribution)
        architecture = self._architecture({**fixed, **trial.params})
        for name, value in self._ownership(architecture).items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        self._storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
        if not free(architecture):
            self._storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
            return None
        return Proposal(trial_id, trial.number, architecture, trial.user_attrs.get(ORIGIN, "sampler"))

    def _note(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Take each newly finished trial in, once; returns those that are not finished.

        `trials` are all of the study by number; those before `_settled` are finished and known.
        """
        unfinished = []
        for trial in trials[self._settled :]:
            if not trial.state.is_finished():
                unfinished.append(trial)
            elif is_told(trial) and trial.number not in self._standings:
                record = self._standings[trial.number] = read_record(trial).summarised()
                digest = self._digest(trial)
                if self._newest.get(digest, -1) < trial.number:
                    self._newest[digest] = trial.number
                    (self._taken.discard if self._may_again(record) else self._taken.add)(digest)
                if self.space.offers(record.architecture):
                    self.proposer.take(trial, record)
        while self._settled < len(trials) and trials[self._settled].state.is_finished():
            self._settled += 1
        return unfinished

    def _sample(self, count: int, free: Accepts, running: Sequence[Mapping[str, Any]]) -> Proposal | None:
        for attempt in range(ATTEMPTS):
            # Seeded by how far the study is and not by what this process drew, so that a resumed run proposes
            # what an unkilled one would have.
            params, attributes = self.proposer.propose(self.seed + 1000 * count + attempt, running)
            architecture = self._architecture(params)
            if free(architecture):
                break
        else:
            neighbour = self._neighbour(params, self.seed + count, free)
            if neighbour is None:
                return None
            architecture, attributes = neighbour, {}
        owned = {ORIGIN: "sampler", **self._ownership(architecture)}
        trial_id = self._create(TrialState.RUNNING, architecture, owned, attributes)
        return Proposal(trial_id, self._storage.get_trial_number_from_id(trial_id), architecture, "sampler")

    def _neighbour(self, params: Mapping[str, Any], seed: int, free: Accepts) -> Architecture | None:
        """An architecture that is free, as few random changes from `params`, or a cheap one, as lead to one."""
        draw = random.Random(seed)  # noqa: S311 - a search, not a secret
        names, starts = sorted(self.distributions), [params, *self.cheap]
        for i in range(DRAWS):
            changed = draw.sample(names, min(len(names), 1 + i // DRAWS_A_CHANGE))
            others = {name: draw.choice(self.distributions[name].choices) for name in changed}
            architecture = self._architecture({**starts[i % len(starts)], **others})
            if free(architecture):
                return architecture
        return None

    def _create(
        self, state: TrialState, architecture: Architecture, user: Mapping[str, Any], system: Mapping[str, Any]
    ) -> int:
        """A new trial in one write: whoever sees it sees its architecture and owner too."""
        params = {k: v for k, v in self.parameters(architecture).items() if v in self.distributions[k].choices}
        template = FrozenTrial(
            number=-1, trial_id=-1, state=state, value=None, intermediate_values={}, datetime_complete=None,
            datetime_start=None if state == TrialState.WAITING else datetime.now(),
            params=params, distributions={name: self.distributions[name] for name in params},
            user_attrs={DIGEST: architecture.digest, **user}, system_attrs=dict(system),
        )  # fmt: skip
        return int(self._storage.create_new_trial(self._study_id, template_trial=template))

    def _ownership(self, architecture: Architecture) -> dict[str, Any]:
        return {OWNER: own_name(), SEEN: time.time(), DIGEST: architecture.digest}

    def _write(self, trial_id: int, record: Record) -> None:
        text = record.model_dump_json()
        # The first piece last: where it stands, the whole does.
        for start in reversed(range(0, len(text), PIECE)):
            self._storage.set_trial_user_attr(trial_id, piece_key(start // PIECE), text[start : start + PIECE])
        self._tell(trial_id, record)

    def _tell(self, trial_id: int, record: Record) -> None:
        trial = optuna.trial.Trial(self.study, trial_id)
        for name, value in constraints_of(record, self.objectives).items():
            trial.set_constraint(name, value)
        if record.state == "complete":
            values = [(-1 if o.maximize else 1) * o.minimised(record) for o in self.objectives]
            self.study.tell(trial, values)
        else:
            self.study.tell(trial, state=TrialState.PRUNED if record.state == "pruned" else TrialState.FAIL)

    def _architecture(self, params: Mapping[str, Any]) -> Architecture:
        """The architecture of Optuna's parameters, without what lies inside a dropped branch."""
        return architecture_of({k: v for k, v in params.items() if k in self.distributions}, self.space)

    def _digest(self, trial: FrozenTrial) -> str:
        known = trial.user_attrs.get(DIGEST)
        return known or self._architecture({**trial.system_attrs.get("fixed_params", {}), **trial.params}).digest

    def _id(self, trial: FrozenTrial) -> int:
        """The storage's name for a trial, which the trial itself does not make public."""
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number))

    def _lives(self, trial: FrozenTrial) -> bool:
        return is_alive(trial.user_attrs.get(OWNER, ""), trial.user_attrs.get(SEEN, 0.0))

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)


def architecture_of(params: Mapping[str, Any], space: SearchSpace) -> Architecture:
    """The architecture of Optuna's parameters, or of any that are named like them, without what lies inside a dropped
    branch.
    """
    return space.architecture(
        {k: v for k, v in params.items() if not k.endswith(WIDTH_SUFFIX)},
        {k.removesuffix(WIDTH_SUFFIX): v for k, v in params.items() if k.endswith(WIDTH_SUFFIX)},
    )


def piece_key(number: int) -> str:
    """The attribute that holds a piece of a record."""
    return RECORD if number == 0 else f"{RECORD}.{number}"


def is_told(trial: FrozenTrial) -> bool:
    """Whether a trial is finished and was one of ours; proposals that were refused have no record."""
    return trial.state.is_finished() and RECORD in trial.user_attrs


def read_record(trial: FrozenTrial) -> Record:
    """The record in a trial's attributes."""
    pieces, number = [], 0
    while (piece := trial.user_attrs.get(piece_key(number))) is not None:
        pieces.append(piece)
        number += 1
    return Record.model_validate_json("".join(pieces))


def records_of(storage: Storage, name: str) -> list[Record]:
    """The records of a study in a storage; raises KeyError when it has none of the name."""
    return finished_records(optuna.load_study(study_name=name, storage=storage.backend).get_trials(deepcopy=False))


def failed_record(architecture: Architecture, origin: str, reason: str) -> Record:
    """The record of a trial that nobody lived to write."""
    return Record(
        number=0, digest=architecture.digest, origin=origin, state="failed", reason=reason,
        sites={k: str(v) for k, v in architecture.sites.items()},
        groups={k: str(v) for k, v in architecture.groups.items()},
    )  # fmt: skip


def finished_records(trials: Sequence[FrozenTrial]) -> list[Record]:
    """The records of finished trials, numbered from 0 in the order of the trials."""
    done = sorted((t for t in trials if is_told(t)), key=lambda t: t.number)
    return [read_record(t).model_copy(update={"number": i}) for i, t in enumerate(done)]


def distributions(space: SearchSpace) -> dict[str, CategoricalDistribution]:
    """One categorical parameter per site and group, of choice strings."""
    sites = {path: CategoricalDistribution(options) for path, options in space.sites.items()}
    groups = {name + WIDTH_SUFFIX: CategoricalDistribution(options) for name, options in space.groups.items()}
    return {**sites, **groups}
