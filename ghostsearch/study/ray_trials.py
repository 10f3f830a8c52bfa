"""The same study with its trials run by Ray Tune: the study's storage stays the only truth, Ray only executes.

A `Searcher` passes proposals from the study's ask to Ray and results back to its tell; actors are reused and open the
model and the data once; a worker that dies is retried by Ray. Only the driver's machine writes to the study's
directory. Timing is done by an actor that holds its node's custom resource of the device, so that one timing runs at a
time, on the node that has the device.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.search import Searcher

from ghostsearch.errors import GhostsearchError, failure_reason, first_line
from ghostsearch.files import temporary_folder
from ghostsearch.records import Latency, Record
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.baseline import Baseline, with_baseline
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import TRIAL_WEIGHTS
from ghostsearch.study.explore import has_baseline, is_late, progress_text, stop_when_all_fails
from ghostsearch.study.kept import forget_dominated, save_model
from ghostsearch.study.ledger import Ledger, Proposal, failed_record
from ghostsearch.study.owners import beating
from ghostsearch.study.plan import Plan
from ghostsearch.study.ray_board import start_board
from ghostsearch.study.ray_devices import RETRIES, device_resource, on_device, work_in
from ghostsearch.study.setup import open_setup
from ghostsearch.study.trial import Trial, run_trial
from ghostsearch.study.watch import Watch

RECORD, METRIC = "record", "trials"
NOW_AND_THEN_S = 2.0
START_S = 20.0
"""How long the first actors wait for one another at most."""


def explore(plan: Plan, ledger: Ledger, watch: Watch) -> None:
    """Evaluate proposals on a Ray cluster until the study has as many trials as asked for, or the time is up."""
    standings = ledger.standings()
    board = start_board(plan.axes, standings, watch.folder / TRIAL_WEIGHTS)
    searcher = StudySearcher(plan, ledger, board, watch)
    workers = min(searcher.places(), plan.config.trials - len(standings))
    trainable = tune.with_resources(
        tune.with_parameters(TrialActor, setup={**to_open(plan), "board": board, "workers": workers}),
        {name: amount for name, amount in plan.config.trial_resources().items() if amount},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune", storage_path=str((watch.folder / "ray").absolute()), verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )  # fmt: skip
    with beating(searcher.beat):
        tuner.fit()
    if searcher.trouble:
        raise searcher.trouble


def join_cluster(config: RunConfig) -> Callable[..., Any]:
    """Join the cluster of `ray_address`, or start one here that owns each device of the run once.

    Returns what calls a function where a device is.
    Raises GhostsearchError when no node has a device of the run or the resources of a trial.
    """
    wanted = config.trial_resources()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ray's workers would otherwise stand behind every other process of the machine, and be timed from there.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Paths in a run are relative to where it was started.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    # Else a second actor starts only when the first one has, and the searcher is not asked meanwhile.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1000")
    # Ctrl-C is the search's own to handle.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    devices = {device_resource(d): 1.0 for d in config.device}
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if config.ray_address:
            options["address"] = config.ray_address
        else:
            options |= {"resources": devices, "include_dashboard": False}
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = first_line(error)
            raise GhostsearchError(f"ray_address {config.ray_address!r}: cannot be reached ({reason})") from None
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name in devices:
        if not any(node.get(name, 0) >= 1 for node in found):
            raise GhostsearchError(
                f"no node of the Ray cluster has {name!r}; on the machine with the device: "
                f"ray start --address=… --resources='{{\"{name}\": 1}}'"
            )
    if not any(places_on(node, wanted) for node in found):
        raise GhostsearchError(f"resources {', '.join(config.resources)}: no node of the Ray cluster has that much")
    return on_device


def places_on(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many times a node has what a trial wants."""
    names = {"cpu": "CPU", "gpu": "GPU"}
    return min((int(node.get(names.get(n, n), 0) / amount) for n, amount in wanted.items() if amount), default=1)


class StudySearcher(Searcher):
    """Ray's proposals come from the study's ask; results go to its tell."""

    def __init__(self, plan: Plan, ledger: Ledger, board: Any, watch: Watch) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.plan, self.ledger, self.board, self.watch = plan, ledger, board, watch
        self.open: dict[str, Proposal] = {}
        self.trouble: GhostsearchError | None = None
        self.records: list[Record] = []
        self._places, self._last = 1, dict[str, float]()

    def suggest(self, trial_id: str) -> Any:
        """The next proposal as a Ray configuration; None while every worker is busy, FINISHED at the end of the run."""
        longest = max((sum(r.seconds.values()) for r in self.records), default=0.0)
        late = is_late(self.plan, self.records, self.watch, longest)
        late = late and bool(self.open or has_baseline(self.ledger.standings()))
        if self.watch.interrupted() or self.trouble or late:
            return Searcher.FINISHED
        # Ray would ask ahead, and the sampler would not have seen what the running trials come to.
        if len(self.open) >= self.places():
            return None
        self.records = records = self.ledger.standings()
        if self._due("progress"):
            self.watch.tell(len(records), self.plan.config.trials, progress_text(self.plan, records))
            self.watch.on_trial()
        proposal = self.ledger.ask(self.plan.feasible, self.plan.config.trials, self.plan.fits_memory)
        if proposal is None:
            return Searcher.FINISHED
        self.open[trial_id] = proposal
        return {
            "architecture": proposal.architecture.to_dict(), "origin": proposal.origin, "number": len(records),
        }  # fmt: skip

    def places(self) -> int:
        """How many trials the cluster can run at once, looked up now and then as nodes come and go."""
        if self._due("look"):
            wanted = self.plan.config.trial_resources()
            self._places = max(1, sum(places_on(node["Resources"], wanted) for node in ray.nodes() if node["Alive"]))
        return self._places

    def _due(self, what: str) -> bool:
        """Whether to do something that takes longer the more trials there are: it was not done lately."""
        now = time.monotonic()
        due = now - self._last.get(what, -NOW_AND_THEN_S) >= NOW_AND_THEN_S
        if due:
            self._last[what] = now
        return due

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Nothing: a trial reports once, when it is over, so nothing can be reported as complete before."""

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Write the trial's record into the study; a worker that died for good leaves a failed one."""
        proposal = self.open.pop(trial_id)
        if error or not result or RECORD not in result:
            reason = f"worker: the Ray worker died {RETRIES + 1} times"
            record = failed_record(proposal.architecture, proposal.origin, reason)
        else:
            record = Record.model_validate_json(result[RECORD])
        try:
            self.ledger.finish(proposal, record)
            self.board.add.remote(record.summarised())
            records = self.ledger.standings()
            if self._due("tidy"):
                forget_dominated(self.plan, records, self.watch.folder)
            stop_when_all_fails(records)
        except GhostsearchError as trouble:
            self.trouble = trouble

    def beat(self, now: float) -> None:
        """Show other machines that the open trials are still worked on."""
        for proposal in list(self.open.values()):
            self.ledger.beat(proposal, now)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its Tuner beside the trials, and no run is restored from there."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study's storage is authoritative, and rerunning the same command resumes from it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, for the same reason."""


class TrialActor(tune.Trainable):
    """One trial per step; the model and the data are opened once for all the trials of an actor."""

    def setup(self, config: dict[str, Any], *, setup: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Open the plan as the driver made it, with its trained baseline."""
        assert setup, "tune.with_parameters gives it"
        self.board, self.trouble = setup["board"], ""
        try:
            self.plan = opened_as(setup)
        except Exception as error:  # noqa: BLE001 - recorded as the reason of every trial of this actor
            self.trouble = f"the worker cannot open the run: {failure_reason(error)}"
        self._wait_for_others(setup["workers"])

    def _wait_for_others(self, workers: int) -> None:
        """Be ready together with the run's other first actors, or when they are late.

        Tune gives a trial whose actor still starts to the first one that is free, and ends the start: where a trial is
        shorter than that, one actor would do all the work.
        """
        began = time.monotonic()
        ray.get(self.board.open.remote())
        while ray.get(self.board.count.remote()) < workers and time.monotonic() - began < START_S:
            time.sleep(0.1)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial without being built again."""
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the architecture of the configuration."""
        architecture = Architecture.from_dict(self.config["architecture"])
        if self.trouble:
            record = failed_record(architecture, self.config["origin"], self.trouble)
        else:
            record = self._evaluate(Trial(self.plan, self.config["number"], architecture, self.config["origin"]))
        return {RECORD: record.model_dump_json(), METRIC: 1, "done": True}

    def _evaluate(self, trial: Trial) -> Record:
        def stopped(record: Record, rung: float) -> str:
            answer: str = ray.get(self.board.stops.remote(record.summarised(), rung))
            return answer

        record, model = run_trial(trial, stopped)
        if model is not None and record.digest != "baseline":
            with temporary_folder() as folder:
                kept = save_model(self.plan.setup, model, record.architecture, folder / record.digest)
                files = {path.name: path.read_bytes() for path in sorted(kept.iterdir(), reverse=True)}
            ray.get(self.board.keep.remote(record.digest, files))
        return record


def to_open(plan: Plan) -> dict[str, Any]:
    """What another process, on any machine, needs to make the same plan with its trained baseline."""
    baseline = plan.baseline
    return {
        # What is taken from an earlier study is taken by now.
        "run": plan.config.but(from_study=RunConfig.model_fields["from_study"].default).model_dump(mode="json"),
        "directory": str(Path.cwd()),
        "name": baseline.name,
        "sites": dict(plan.space.sites),
        "groups": dict(plan.space.groups),
        "baseline_weights": {name: value.numpy() for name, value in plan.setup.baseline.module.state_dict().items()},
        "baseline_latencies": [x.model_dump(mode="json") for x in baseline.latencies],
    }


def opened_as(setup: Mapping[str, Any]) -> Plan:
    """The plan of `to_open`, without its program and seeds, in the same working directory where this machine has it."""
    work_in(setup["directory"])
    opened = dataclasses.replace(open_setup(RunConfig.model_validate(setup["run"])), on_device=on_device)
    # Copies, since Ray's shared memory is read-only.
    weights = {name: torch.from_numpy(value.copy()) for name, value in setup["baseline_weights"].items()}
    latencies = tuple(Latency.model_validate(x) for x in setup["baseline_latencies"])
    baseline = Baseline(with_baseline(opened, weights), setup["name"], latencies, {}, ())
    space = dataclasses.replace(opened.space, sites=setup["sites"], groups=setup["groups"])
    return Plan(baseline, space, baseline.axes, None, ())
