"""The same study with its trials run by Ray Tune: the study's storage stays the only truth, Ray only executes.

A `Searcher` passes proposals from the study's ask to Ray and results back to its tell; actors are reused and open the
model and the data once; a worker that dies is retried by Ray. Timing is a task of its own that holds its node's custom
resource of the device, so that one timing runs at a time, on the node that has the device.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Latency, Record
from ghostsearch.search.bench import Bench, open_bench, train_baseline
from ghostsearch.search.config import RunConfig
from ghostsearch.search.ledger import SEEN, Ledger, Proposal
from ghostsearch.search.owners import beating
from ghostsearch.search.run import best_so_far, evaluate, feasible, stop_when_all_fails
from ghostsearch.search.trial import Draft
from ghostsearch.space import Architecture

Progress = Callable[[int, int, str], None]
RECORD, METRIC = "record", "trials"
RETRIES = 2


def explore(
    bench: Bench, ledger: Ledger, folder: Path, interrupted: Callable[[], bool], progress: Progress | None
) -> None:
    """Evaluate proposals on a Ray cluster until the study has as many trials as asked for."""
    left = bench.config.trials - len(ledger.records()) - ledger.running()
    if left <= 0:
        return
    start_ray(bench.config)
    searcher = StudySearcher(bench, ledger, interrupted, progress)
    setup = {
        "run": bench.config.model_dump(mode="json"), "folder": str(folder.absolute()),
        "plain_latencies": [x.model_dump(mode="json") for x in bench.plain_latencies],
    }  # fmt: skip
    trainable = tune.with_resources(tune.with_parameters(TrialActor, setup=setup), resources_of(bench.config.resources))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=left, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune", storage_path=str((folder / "ray").absolute()), verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )  # fmt: skip
    with beating(searcher.beat):
        tuner.fit()
    if searcher.trouble:
        raise searcher.trouble


def start_ray(config: RunConfig) -> None:
    """Join the cluster of `ray_address`, or start one here that owns each device of the run once."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if ray.is_initialized():
        return
    if config.ray_address:
        ray.init(address=config.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        return
    devices = {device_resource(d): 1.0 for d in config.device}
    ray.init(resources=devices, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def device_resource(device: str) -> str:
    """The custom resource that stands for a device: `device:onnxruntime-cpu` for `onnxruntime:cpu`."""
    return f"device:{device.replace(':', '-')}"


def resources_of(texts: tuple[str, ...]) -> dict[str, float]:
    """Ray's resources of `cpu=2`, `gpu=0.5`, …; raises GhostsearchError when one does not parse."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            found[name.strip().lower() if name.lower() in ("cpu", "gpu") else name.strip()] = float(amount)
        except ValueError:
            raise GhostsearchError(f"resources {text!r} does not parse; write cpu=2,gpu=0.5") from None
    return found


class StudySearcher(Searcher):
    """Ray's proposals come from the study's ask; results go to its tell."""

    def __init__(
        self, bench: Bench, ledger: Ledger, interrupted: Callable[[], bool], progress: Progress | None
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.bench, self.ledger = bench, ledger
        self.interrupted, self.progress = interrupted, progress
        self.open: dict[str, Proposal] = {}
        self.trouble: GhostsearchError | None = None

    def suggest(self, trial_id: str) -> Any:
        """The next proposal as a Ray configuration; FINISHED ends the run."""
        if self.interrupted() or self.trouble:
            return Searcher.FINISHED
        records = self.ledger.records()
        if self.progress:
            self.progress(len(records), self.bench.config.trials, best_so_far(self.bench, records))
        proposal = self.ledger.ask(lambda a: feasible(self.bench, a))
        if proposal is None:
            return Searcher.FINISHED
        self.open[trial_id] = proposal
        return {
            "architecture": proposal.architecture.to_dict(), "origin": proposal.origin,
            "finished": [r.model_dump_json() for r in records],
        }  # fmt: skip

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Nothing: a trial reports once, when it is over, so nothing can be told as complete before."""

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Write the trial's record into the study; a worker that died for good leaves a failed one."""
        proposal = self.open.pop(trial_id)
        if error or not result or RECORD not in result:
            draft = Draft(proposal.trial.number, proposal.architecture, proposal.origin)
            record = draft.record("failed", f"worker: the Ray worker died {RETRIES + 1} times")
        else:
            record = Record.model_validate_json(result[RECORD])
        self.ledger.finish(proposal, record)
        try:
            stop_when_all_fails(self.ledger.records())
        except GhostsearchError as trouble:
            self.trouble = trouble

    def beat(self, now: float) -> None:
        """Show other machines that the open trials are still worked on."""
        for proposal in list(self.open.values()):
            proposal.trial.set_user_attr(SEEN, now)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study's storage is the truth, and the same command goes on from it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, for the same reason."""


class TrialActor(tune.Trainable):
    """One trial a step; the model and the data are opened once for all the trials of an actor."""

    def setup(self, config: dict[str, Any], *, setup: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Open the bench as the driver did and take over its trained plain model."""
        assert setup, "tune.with_parameters gives it"
        self.folder = Path(setup["folder"])
        self.bench = open_bench(RunConfig.model_validate(setup["run"]))
        train_baseline(self.bench, self.folder)
        self.bench.plain_latencies = tuple(Latency.model_validate(x) for x in setup["plain_latencies"])
        self.bench.time_models = _time_on_device

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial without being built again."""
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the architecture of the configuration."""
        finished = [Record.model_validate_json(text) for text in self.config["finished"]]
        architecture = Architecture.from_dict(self.config["architecture"])
        record = evaluate(self.bench, architecture, self.config["origin"], finished, self.folder)
        return {RECORD: record.model_dump_json(), METRIC: 1, "done": True}


def _time_on_device(models: Mapping[str, Any], example: Any, **options: Any) -> dict[str, Latency]:
    """`measure_latency` as a Ray task that holds the device's resource: one at a time, where the device is."""
    # Outside the trial's own placement group, which has no device in it.
    anywhere = PlacementGroupSchedulingStrategy(placement_group=None)  # type: ignore[arg-type]
    task = ray.remote(
        num_cpus=0, resources={device_resource(options["device"]): 1}, scheduling_strategy=anywhere
    )(_measure)  # fmt: skip
    found: dict[str, Latency] = ray.get(task.remote(models, example, options))
    return found


def _measure(models: Mapping[str, Any], example: Any, options: dict[str, Any]) -> dict[str, Latency]:
    from ghostsearch.measure.latency import measure_latency

    return measure_latency(models, example, **options)
