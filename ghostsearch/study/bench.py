"""Everything a trial needs, made once: the trained baseline, the data, the space, the limits in absolute units."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from ghostsearch.data.calibration import calibration_batches, images_within
from ghostsearch.data.load import Data, load_data
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.saved import load_directory, save
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import LoadedModel, example_input, load_model
from ghostsearch.records import Axis, Cost, Latency, Record, Score
from ghostsearch.space.architecture import Anatomy, Architecture, SearchSpace
from ghostsearch.space.choice import parse_width
from ghostsearch.space.preset import load_preset
from ghostsearch.study.config import RunConfig
from ghostsearch.surgery.baseline_pass import BaselinePass
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.fit_layer import FitSettings
from ghostsearch.surgery.sites import find_sites
from ghostsearch.training.checks import check_run
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.table import task_for
from ghostsearch.training.train import evaluate, train

if TYPE_CHECKING:
    from ghostsearch.measure.latency_table import LatencyTable

Progress = Callable[[int, int, str], None]
TABLE_IMAGES, TABLE_VALUES = 128, 64 * 3 * 224 * 224
"""Calibration images that a candidate of the table is fitted to, or as many as hold so many values."""
TABLE_REACH = 3
"""Layers refitted behind a candidate: rank correlation with refitted architectures is 0.70 with one, 0.85 with three,
0.86 with all (DESIGN, "Scoring candidates").
"""
BATCH_IMAGES, BATCH_VALUES = 64, 8 * 3 * 224 * 224
"""Images in a batch, or as many as hold so many values: a large tensor's memory comes anew from the system each time,
and clearing it takes a third of the time of a forward.
"""
COST_COLUMNS = {"macs": "macs", "params": "params", "memory": "peak_memory_bytes"}


def call_here(place: str, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:  # noqa: ARG001
    """Measure in this process."""
    return function(*args, **options)


def latency_table(
    baseline: nn.Module, example: Tensor, anatomy: Anatomy, space: SearchSpace, *, device: str, setting: Setting,
    cell_s: float | None, progress: Progress | None = None,
) -> LatencyTable:  # fmt: skip
    """The latency table on a device of the machine this runs on; with `cell_s`, what is missing is timed."""
    from ghostsearch.measure.cells import CellStore
    from ghostsearch.measure.latency_table import LatencyTable
    from ghostsearch.measure.profiling import profile

    store = CellStore(device, setting)
    if cell_s is not None:
        return profile(baseline, example, anatomy, space, store, cell_s=cell_s, progress=progress)
    return LatencyTable(baseline, example, anatomy, space, store)


@dataclass
class Bench:
    """The baseline and all that its descendants are measured against."""

    config: RunConfig
    baseline: LoadedModel
    data: Data
    task: Task
    anatomy: Anatomy
    space: SearchSpace
    example: Tensor
    calibration: list[Tensor] | None
    baseline_cost: Cost
    table: CostTable
    baseline_latencies: tuple[Latency, ...] = ()
    notes: list[str] = field(default_factory=list)
    """What the report should say besides, such as a cache of timed layers that could not be used."""
    offered: SearchSpace | None = None
    """The whole space where a veto has taken choices out of `space`."""
    on_device: Callable[..., Any] = call_here
    """Calls a function that measures: `on_device(device, function, *its_arguments)`; a cluster does it where the
    device is."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage of the search, in this process."""

    @property
    def objectives(self) -> tuple[Axis, ...]:
        """The axes with their limits; the baseline's latency must be known."""
        limits = {x.axis: {"limit": x.value, "relative": x.relative} for x in self.config.limits()}
        made = []
        for axis in dict.fromkeys([*self.config.objectives, *limits]):
            more: dict[str, Any] = limits.get(axis, {})
            if axis == "score":
                metric, maximize = self.task.metric, self.task.maximize
                made.append(Axis.of_score(metric, maximize=maximize, limit=self.config.min_accuracy))
            elif axis == "latency":
                made += [Axis.of_latency(x.device, baseline=x.median_s, **more) for x in self.baseline_latencies]
            else:
                column = COST_COLUMNS[axis]
                made.append(Axis.of_cost(column, baseline=getattr(self.baseline_cost, column), **more))
        return tuple(made)

    def convert(self, architecture: Architecture, progress: Progress | None = None) -> nn.Module:
        """The model of an architecture with inherited weights: closed form, or copies where no images are given."""
        return self._convert(architecture, self.calibration, self.config.distill_steps, progress)

    def convert_quickly(self, architecture: Architecture, baseline_pass: BaselinePass | None = None) -> nn.Module:
        """For the candidate table: from few images, TABLE_REACH layers refitted behind the change, not distilled.

        baseline_pass: the baseline's values on `few_images`, stopped before the change.
        """
        quick = FitSettings(relu_rounds=1, joint_rounds=1, reach=TABLE_REACH)
        return self._convert(architecture, self.few_images, 0, None, quick, baseline_pass)

    @property
    def few_images(self) -> list[Tensor] | None:
        """The calibration images that `convert_quickly` looks at."""
        if not self.calibration:
            return None
        images = images_within(TABLE_VALUES, self.example, TABLE_IMAGES)
        return self.calibration[: max(1, images // len(self.calibration[0]))]

    def _convert(
        self, architecture: Architecture, calibration: list[Tensor] | None, steps: int, progress: Progress | None,
        settings: FitSettings | None = None, baseline_pass: BaselinePass | None = None,
    ) -> nn.Module:  # fmt: skip
        return convert(
            self.baseline.module, architecture, example=self.example, anatomy=self.anatomy, calibration=calibration,
            width_multiple=self.space.width_multiple, distill_steps=steps, seed=self.config.seed,
            settings=settings, progress=progress, baseline_pass=baseline_pass,
        )  # fmt: skip

    def latency_tables(self, progress: Progress | None = None) -> dict[str, LatencyTable]:
        """Each device's latency table of this model, for the space as it is; cells timed before come from the user's
        cache.
        """
        seconds = self.config.cell_time_limit
        whole = {d: self._latency_table(d, cell_s=seconds, progress=progress) for d in self.config.device}
        noted = dict.fromkeys(table.store.note for table in whole.values() if table.store.note)
        self.notes += [note for note in noted if note not in self.notes]
        return {device: table.within(self.space) for device, table in whole.items()}

    def timed_tables(self) -> dict[str, LatencyTable]:
        """The latency tables of the whole space whose every cell is in the user's cache already; nothing is timed."""
        tables = {device: self._latency_table(device, cell_s=None) for device in self.config.device}
        return {device: table for device, table in tables.items() if table.complete}

    def _latency_table(self, device: str, **options: Any) -> LatencyTable:
        table: LatencyTable = self.on_device(
            device, latency_table, self.baseline.module, self.example, self.anatomy, self.offered or self.space,
            device=device, setting=self.config.part(Setting), **options,
        )  # fmt: skip
        return table

    def cost(self, architecture: Architecture) -> Cost:
        """Exact params, MACs and bytes of an architecture by formula; peak memory needs the built model."""
        return self.table.predict(architecture)

    def breaches(self, record: Record, *, only: Sequence[str] = ()) -> list[str]:
        """The limits a record is known to break, in words; `only` these objectives where given."""
        asked = [o for o in self.objectives if not only or o.name in only]
        return [broken for o in asked if (broken := o.breach(record))]

    def score(self, model: nn.Module, split: Literal["validation", "test"], epochs: float) -> Score:
        """The task's score of a model on `validation` or `test`."""
        loader = getattr(self.data, split)
        value = evaluate(model, loader, self.task, self.config.compute_device)
        images = len(getattr(loader, "dataset", ())) or sum(len(batch[0]) for batch in loader)
        return Score(
            metric=self.task.metric,
            value=value,
            split=split,
            epochs=epochs,
            images=images,
            seed=self.config.seed,
        )

    def train(self, model: nn.Module, epochs: float, progress: Progress | None = None) -> None:
        """Train a descendant in place, distilled from the baseline."""
        train(
            model, self.data, epochs=epochs, task=self.task, lr=self.config.lr, teacher=self.baseline.module,
            device=self.config.compute_device, seed=self.config.seed, progress=progress,
        )  # fmt: skip


def open_bench(config: RunConfig, progress: Progress | None = None) -> Bench:
    """Load model, data and space, and count the baseline's cost; nothing is written or trained yet.

    Raises GhostsearchError for anything that does not fit together.
    """
    loaded = load_model(
        config.model, weights=config.weights, classes=config.classes, size=config.size, seed=config.seed
    )
    preset = load_preset(config.space)
    example = example_input(loaded.input)
    anatomy = find_sites(loaded.module, example, include_first=preset.include_first)
    if not anatomy.sites:
        reasons = "; ".join(f"{s.path}: {s.reason}" for s in anatomy.skipped[:3])
        raise GhostsearchError(
            f"{config.model} has no convolution that can be replaced ({reasons or 'it has none at all'})"
        )
    space = preset.resolve(anatomy)
    data = load_data(
        config.data, input=loaded.input, batch=config.batch_size, seed=config.seed,
        validation_list=config.validation_list, train_images=config.train_images, progress=progress,
    )  # fmt: skip
    if not data.labelled and config.baseline_training():
        raise GhostsearchError(
            f"{config.data} has no labels to train the baseline on; add --weights, or --baseline-epochs 0"
        )
    task = task_for(config.task, labelled=data.labelled, baseline=loaded.module)
    check_run(loaded.module, data, task)
    images = config.calibration_images
    # Every candidate and trial is fitted to them: kept, not read again.
    batch = images_within(BATCH_VALUES, example, BATCH_IMAGES)
    calibration = list(calibration_batches(data, images, seed=config.seed, batch=batch)) if images else None
    bench = Bench(
        config, loaded, data, task, anatomy, space, example, calibration,
        baseline_cost=measure_cost(loaded.module, example),
        table=CostTable(loaded.module, example, anatomy, width_multiple=space.width_multiple),
    )  # fmt: skip
    check_budget(bench)
    return bench


def check_budget(bench: Bench) -> None:
    """Raise GhostsearchError, naming the nearest feasible one, when no architecture can meet a MACs or params limit."""
    for limit in bench.config.limits():
        if limit.axis not in ("macs", "params"):
            continue
        baseline = getattr(bench.baseline_cost, limit.axis)
        least = smallest(bench, limit.axis)
        if least > limit.absolute(baseline):
            share = -(-least * 1000 // baseline) / 10
            raise GhostsearchError(
                f"max_{limit.axis}: no architecture of this space has at most {limit.absolute(baseline):.4g} "
                f"{limit.axis}; "
                f"the nearest feasible limit is {least} ({share:g}%)"
            )


def smallest(bench: Bench, axis: str) -> int:
    """The least MACs or params in the space: narrowest widths, then at each site what is cheapest there.

    Exact, because at fixed widths a site's choice changes no other layer's cost.
    """
    narrow = {g: min(options, key=lambda t: parse_width(t).share) for g, options in bench.space.groups.items()}
    least = int(getattr(bench.cost(Architecture.of({}, narrow)), axis))
    total = least
    for path, options in bench.space.sites.items():
        alone = (int(getattr(bench.cost(Architecture.of({path: t}, narrow)), axis)) for t in options)
        total += min(0, min(alone) - least)
    return total


def baseline_directory(folder: Path) -> Path:
    """Where a study keeps its baseline; studies of version 1 called it `plain`."""
    old = folder / "models" / "plain"
    return old if old.exists() else folder / "models" / "baseline"


def train_baseline(bench: Bench, folder: Path, progress: Progress | None = None) -> None:
    """Train the baseline in place as the run asks, or take the one a former run of this study left."""
    epochs, kept = bench.config.baseline_training(), baseline_directory(folder)
    if (kept / "architecture.json").exists():
        trained = load_directory(kept, model=bench.baseline.module).module
        bench.baseline.module.load_state_dict(trained.state_dict())
        return
    if epochs:
        told = (lambda done, total, text: progress(done, total, f"baseline: {text}")) if progress else None
        train(
            bench.baseline.module, bench.data, epochs=epochs, task=bench.task, lr=bench.config.lr,
            device=bench.config.compute_device, seed=bench.config.seed, progress=told,
        )  # fmt: skip
    bench.baseline.module.eval()
    save(bench.baseline.module, kept, source=bench.baseline, architecture=Architecture())


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the block's wall time to a stage."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started


def latencies(
    bench: Bench, models: dict[str, nn.Module], seconds: float, *, beside_baseline: bool = True
) -> dict[str, tuple[Latency, ...]]:
    """Each model's latency on every device of the run, interleaved with the baseline."""
    setting = bench.config.part(Setting, time_limit=seconds)
    found: dict[str, list[Latency]] = {name: [] for name in models}
    for device in bench.config.device:
        baseline = bench.baseline.module if beside_baseline else None
        timings = bench.on_device(
            device, measure_latency, models, bench.example, device=device, baseline=baseline, setting=setting
        )
        for name, latency in timings.items():
            found[name].append(latency)
    return {name: tuple(found[name]) for name in models}
