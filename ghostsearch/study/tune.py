"""For those who already have a Ray Tuner: a search space and a trainable to put into it.

    run = RunConfig(model="torchvision:resnet18", weights="mine.safetensors", data="folder:images", epochs=9)
    Tuner(trainable(run), param_space=param_space(run), tune_config=TuneConfig(metric="score", mode="max", …))

A step of the trainable is a rung (0 epochs, 1, 3, 9, …), so that a scheduler such as ASHA may stop between two. The
study of `ghostsearch search --engine ray` knows several objectives and measured limits; a Tuner of one's own knows what
it is given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search.optuna import OptunaSearch

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cost import measure_cost
from ghostsearch.records import latency_column
from ghostsearch.study.baseline import make_baseline
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import placed
from ghostsearch.study.ledger import architecture_of, distributions
from ghostsearch.study.plan import Plan, make_plan
from ghostsearch.study.ray_trials import opened_as, to_open
from ghostsearch.study.run import locked, opened, sampler_of
from ghostsearch.study.sampler import TableSampler
from ghostsearch.study.setup import Setup, open_setup
from ghostsearch.study.watch import Watch
from ghostsearch.surgery.saved import load_directory, save

RUNG = "rung.json"
RESULTS = ("score", "epochs", "macs", "params", "size_bytes", "peak_memory_bytes", "digest")
"""What every result holds; each device adds `latency_s[DEVICE]` and `latency_ratio[DEVICE]`, median and ratio."""


def param_space(run: RunConfig) -> dict[str, Any]:
    """Tune's search space of a run: for each site and group a choice among its strings.

    Raises GhostsearchError when the run's model, data and space do not fit together.
    """
    return {name: tune.choice(list(d.choices)) for name, d in distributions(open_setup(run).space).items()}


def trainable(run: RunConfig) -> Any:
    """A trainable that makes the model of a configuration, counts, times, scores and trains it, a rung a step.

    The baseline is trained first where the run asks for it (12 epochs without weights) and kept in `run.out`. Give
    Ray's resources with `tune.with_resources`. Raises GhostsearchError as `param_space` does.
    """
    setup, watch = _opened(run)
    with locked(setup):
        baseline = make_baseline(setup, watch)
    return tune.with_parameters(
        ArchitectureTrainable, setup=to_open(Plan(baseline, setup.space, baseline.axes, None, ()))
    )


def searcher(run: RunConfig) -> OptunaSearch:
    """The search's own sampler for a Tuner, in the place of `param_space`: it begins with the candidate table.

    It optimises the run's objectives, so that the Tuner is given neither metric nor mode. Table and baseline are made
    where the run asks for them, and kept in `run.out`. Raises GhostsearchError as `param_space` does, and where the
    run's sampler is another.
    """
    if run.sampler != "table":
        raise GhostsearchError(f"sampler {run.sampler!r}: OptunaSearch takes Optuna's own; this one is for 'table'")
    setup, watch = _opened(run)
    with locked(setup):
        plan = make_plan(make_baseline(setup, watch), watch)
    sampler = sampler_of(plan)
    assert isinstance(sampler, TableSampler)
    return OptunaSearch(
        space={**distributions(plan.space)}, metric=[axis.name for axis in plan.axes], sampler=sampler,
        mode=["max" if axis.maximize else "min" for axis in plan.axes],
    )  # fmt: skip


def _opened(run: RunConfig) -> tuple[Setup, Watch]:
    """The run and its directory; raises GhostsearchError where that holds another study."""
    run = placed(run)
    return opened(run), Watch(Path(run.out))


class ArchitectureTrainable(tune.Trainable):
    """One architecture; each step brings it to the next rung and reports it."""

    opened: Setup

    def setup(self, config: dict[str, Any], *, setup: dict[str, Any] | None = None) -> None:
        """Open the run with its trained baseline, and take the configuration."""
        assert setup, "tune.with_parameters gives it"
        self.opened = opened_as(setup).setup
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another architecture without opening the run again."""
        self.architecture = architecture_of(new_config, self.opened.space)
        self.model: Any = None
        self.rung, self.figures = -1, dict[str, Any]()
        return True

    def step(self) -> dict[str, Any]:
        """Build the model, or train it on to the next rung; returns RESULTS and the latencies."""
        rungs = self.opened.config.rungs()
        if self.model is None:
            self.model = self.opened.convert(self.architecture)
            self.figures = self._measure()
        else:
            self.opened.train(self.model, rungs[self.rung + 1] - rungs[self.rung])
        self.rung += 1
        score = self.opened.score(self.model, "validation", rungs[self.rung])
        done = self.rung + 1 == len(rungs)
        return {**self.figures, "score": score.value, "epochs": rungs[self.rung], "done": done}

    def _measure(self) -> dict[str, Any]:
        cost = measure_cost(self.model, self.opened.example)
        figures: dict[str, Any] = {
            "digest": self.architecture.digest, "macs": cost.macs, "params": cost.params, "size_bytes": cost.size_bytes,
            "peak_memory_bytes": cost.peak_memory_bytes,
        }  # fmt: skip
        for latency in self.opened.latencies({"trial": self.model}, self.opened.config.time_limit)["trial"]:
            figures[latency_column(latency.device)] = latency.median_s
            figures[latency_column(latency.device, "latency_ratio")] = latency.ratio
        return figures

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The model as a model directory, and its rung."""
        if self.model is not None:
            multiple = self.opened.space.width_multiple
            save(
                self.model, Path(checkpoint_dir), source=self.opened.baseline, architecture=self.architecture,
                width_multiple=multiple,
            )  # fmt: skip
        (Path(checkpoint_dir) / RUNG).write_text(json.dumps({"rung": self.rung, "figures": self.figures}))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """Go on from a checkpoint."""
        kept = json.loads((Path(checkpoint_dir) / RUNG).read_text())
        self.rung, self.figures = kept["rung"], kept["figures"]
        if self.rung >= 0:
            self.model = load_directory(Path(checkpoint_dir), model=self.opened.baseline.module).module
