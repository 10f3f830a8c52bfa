"""The first stage: the user's model, data and space, opened and checked; nothing is trained or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, nn

from ghostsearch.data.calibration import images_within
from ghostsearch.data.load import Data
from ghostsearch.errors import GhostsearchError
from ghostsearch.fits.problem import FitSettings
from ghostsearch.measure.audit import FIT_MODELS, measured_correction
from ghostsearch.measure.cells import Correction
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.measure.devices.base import refusals
from ghostsearch.measure.devices.executorch_xnnpack import ExecutorchXnnpackInt8, LoweredProgram
from ghostsearch.measure.inputs import batched
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.latency_table import LatencyTable
from ghostsearch.measure.onnx_graph.int8_module import FloatFile, int8_module, single_images
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.names import require_layers
from ghostsearch.measure.onnx_graph.quantize import Int8Graph, Int8Options
from ghostsearch.measure.profiling import Network, latency_table
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import LoadedModel, example_input, load_model
from ghostsearch.records import Cost, Latency, Score
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Anatomy, Architecture, SearchSpace
from ghostsearch.space.preset import load_preset
from ghostsearch.study.config import RunConfig
from ghostsearch.study.devices import check_names, runs_programs
from ghostsearch.study.earlier import Earlier, open_earlier
from ghostsearch.study.fingerprint import fingerprint_of
from ghostsearch.study.images import calibration_of, for_ranges, open_data
from ghostsearch.study.scores import score_of
from ghostsearch.study.steps import seconds_of_an_epoch
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.convert import convert, fit_settings
from ghostsearch.surgery.distill_images import kept_to_judge
from ghostsearch.surgery.sites import find_sites
from ghostsearch.training.checks import check_run
from ghostsearch.training.evaluate import meter_over, torch_device
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.table import task_for

TABLE_IMAGES, TABLE_VALUES = 128, 32 * 3 * 224 * 224
"""Calibration images that a candidate of the table is fitted to, or as many as hold so many values."""
TABLE_ROWS = 4096, 8192
"""Positions that each layer of a candidate is fitted to, least and most."""
TABLE_REACH = 3
"""Layers refitted behind a candidate: rank correlation with refitted architectures is 0.70 with one, 0.85 with three,
0.86 with all.
"""


def call_here(place: str, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:  # noqa: ARG001
    """Measure in this process."""
    return function(*args, **options)


@dataclass(frozen=True)
class Setup:
    """The baseline with what its descendants are made from and judged by."""

    config: RunConfig
    baseline: LoadedModel
    data: Data
    task: Task
    anatomy: Anatomy
    space: SearchSpace
    example: Tensor
    calibration: Sequence[Tensor] | None
    baseline_cost: Cost
    table: CostTable
    earlier: Earlier | None = None
    """The study of `--from`."""
    on_device: Callable[..., Any] = call_here
    """Calls a function that measures: `on_device(device, function, *its_arguments)`; a cluster does it where the
    device is."""

    def copied(self, architecture: Architecture) -> nn.Module:
        """The model of an architecture with weights copied where they fit: enough to count and to time it."""
        return self._convert(architecture, None, 0)

    def peak_memory(self, architecture: Architecture) -> int | None:
        """Peak memory in bytes of an architecture, built for it; None where it cannot be built or counted."""
        try:
            return measure_cost(self.copied(architecture), self.example).peak_memory_bytes
        except Exception:  # noqa: BLE001 - whatever refuses it, another may be built
            return None

    def convert(self, architecture: Architecture, progress: Progress | None = None) -> nn.Module:
        """The model of an architecture with inherited weights: closed form, or copies where no images are given."""
        known = None if architecture.is_baseline else self.statistics
        return self._convert(architecture, self.calibration, self.config.distill_steps, progress, statistics=known)

    @cached_property
    def statistics(self) -> BaselineStatistics | None:
        """The baseline's values on the calibration images, which all trials of this process share."""
        if not self.calibration:
            return None
        settings = fit_settings(self.config)
        images, judging = kept_to_judge(self.calibration, self.config.distill_steps)
        return BaselineStatistics(self.baseline.module, images, settings, judging=judging)

    def convert_quickly(self, architecture: Architecture, statistics: BaselineStatistics | None = None) -> nn.Module:
        """For the candidate table: from few images, TABLE_REACH layers refitted behind the change, not distilled.

        statistics: the baseline's values on `few_images`, stopped before the change.
        """
        return self._convert(architecture, self.few_images, 0, None, self.quick_settings, statistics)

    @property
    def quick_settings(self) -> FitSettings:
        """How `convert_quickly` fits."""
        return fit_settings(self.config, relu_rounds=1, joint_rounds=1, reach=TABLE_REACH, rows=TABLE_ROWS)

    @cached_property
    def few_images(self) -> Sequence[Tensor] | None:
        """The calibration images that `convert_quickly` looks at."""
        if not self.calibration:
            return None
        images = images_within(TABLE_VALUES, self.example, TABLE_IMAGES)
        return self.calibration[: max(1, images // len(self.calibration[0]))]

    def _convert(
        self, architecture: Architecture, calibration: Sequence[Tensor] | None, steps: int,
        progress: Progress | None = None, settings: FitSettings | None = None,
        statistics: BaselineStatistics | None = None,
    ) -> nn.Module:  # fmt: skip
        return convert(
            self.baseline.module, architecture, example=self.example, anatomy=self.anatomy, calibration=calibration,
            width_multiple=self.space.width_multiple, distill_steps=steps, seed=self.config.seed,
            settings=settings, progress=progress, statistics=statistics,
        )  # fmt: skip

    def cost(self, architecture: Architecture) -> Cost:
        """Exact params, MACs and bytes of an architecture by formula; peak memory needs the built model."""
        return self.table.predict(architecture)

    def score(self, model: nn.Module, split: Literal["validation", "test"], epochs: float) -> Score:
        """The task's score of a model on `validation` or `test`, with its standard error and what was right.

        Where a device of the run is int8, it is the quantized network's score: what the user will deploy.
        """
        if self.config.scores_int8:
            return self.score_as_it_is(self.quantized(model), split, epochs)
        return self.score_as_it_is(model, split, epochs)

    def score_as_it_is(self, model: nn.Module, split: Literal["validation", "test"], epochs: float) -> Score:
        """The task's score of a module, or of a file on the CPU, in whatever precision it computes."""
        device = torch_device("cpu" if isinstance(model, OnnxModule | LoweredProgram) else self.config.compute_device)
        meter, images = meter_over(model, getattr(self.data, split), self.task, device)
        return score_of(
            meter, self.task.metric, split=split, epochs=epochs, images=images, seed=self.config.seed,
            classes=self.data.classes or self.baseline.categories,
        )  # fmt: skip

    def deployed(self, model: nn.Module) -> nn.Module:
        """What is scored of a finalist: where a device of the run is int8 the file that `export --int8` writes of it.

        Raises what the quantizer raises.
        """
        if runs_programs(self.config):
            return ExecutorchXnnpackInt8().lower(model, self.example, single_images(self.int8_images))
        return self.quantized(model) if self.config.scores_int8 else model

    def quantized(self, model: nn.Module) -> OnnxModule:
        """The model in int8, its ranges from a part of the calibration images; raises what the quantizer raises."""
        return OnnxModule(self.int8_graph(model).graph, threads=self.config.threads)

    def int8_graph(self, model: nn.Module) -> Int8Graph:
        """The graph of `quantized`, with what it was made from."""
        with refusals("int8"):
            file = FloatFile.of(model, self.example)
            file.check(model, self.int8_images[0])
            return file.int8(self.int8_images, self.int8_options())

    @cached_property
    def int8_images(self) -> Sequence[Tensor]:
        """The calibration images that set the activations' ranges in int8: kept, as every trial needs them."""
        assert self.calibration
        return list(for_ranges(self.calibration))

    def int8_options(self, *kept: str) -> Int8Options:
        """How the run quantizes; `kept`: layers that stay in float besides those that the run keeps there."""
        return Int8Options(keep_float=(*self.config.keep_float, *kept))

    def _as_run(self, model: nn.Module, device: str) -> nn.Module:
        """What a device is given: with layers kept in float, the quantized graph (a latency needs no ranges)."""
        if not device.endswith(":int8") or not self.config.keep_float or isinstance(model, OnnxModule):
            return model
        example = batched(self.example, self.config.batch)
        with refusals(device):
            return int8_module(model, example, [example], self.int8_options())

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What the images and the file of weights are known by."""
        return fingerprint_of(self.config, self.data)

    @cached_property
    def epoch_s(self) -> float:
        """Seconds of an epoch of a descendant's training, by one measured step; 0 where the images tell no number."""
        return seconds_of_an_epoch(self)

    def train(self, model: nn.Module, epochs: float, progress: Progress | None = None) -> None:
        """Train a descendant in place, distilled from the baseline."""
        recipe = self.config.part(Recipe, epochs=epochs)
        train(model, self.data, recipe, task=self.task, teacher=self.baseline.module, progress=progress)

    def latencies(self, models: dict[str, nn.Module], seconds: float) -> dict[str, tuple[Latency, ...]]:
        """Each model's latency on every device of the run, interleaved with the baseline, in `seconds` per device."""
        # The baseline may be among them, to be timed beside itself.
        named = {f"model {name}": model for name, model in models.items()}
        found: dict[str, list[Latency]] = {name: [] for name in models}
        for device in self.config.device:
            run = {name: self._as_run(model, device) for name, model in named.items()}
            baseline = self._as_run(self.baseline.module, device)
            timings = self.on_device(
                device, measure_latency, run, self.example, baseline=baseline, device=device,
                setting=self.config.part(Setting, time_limit=seconds),
            )  # fmt: skip
            for name in models:
                found[name].append(timings[f"model {name}"])
        return {name: tuple(found[name]) for name in models}

    def latency_table(self, device: str, *, cell_s: float | None, progress: Progress | None = None) -> LatencyTable:
        """The latency table of the whole space on a device; cells timed before come from the user's cache.

        With `cell_s`, each missing cell is timed for so many seconds at most; without, nothing is timed.
        """
        return self.on_device(
            device, latency_table, Network(self.baseline.module, self.example, self.anatomy), self.space, device=device,
            setting=self.config.part(Setting), cell_s=cell_s, progress=progress,
        )  # fmt: skip

    @property
    def corrected_by(self) -> int:
        """Random architectures that are timed for the latency table's correction."""
        return min(FIT_MODELS, self.config.trials // 2)

    def correction(self, table: LatencyTable, progress: Progress | None = None) -> Correction:
        """What the sum of a table's layers misses, by `corrected_by` architectures of the space."""
        return self.on_device(
            table.store.device.name, measured_correction, table,
            Network(self.baseline.module, self.example, self.anatomy), model_s=self.config.time_limit,
            count=self.corrected_by, progress=progress,
        )  # fmt: skip


@dataclass(frozen=True)
class Given:
    """A network and its images in memory, in the place of those that a config names."""

    model: LoadedModel
    data: Data


def open_setup(config: RunConfig, progress: Progress | None = None, given: Given | None = None) -> Setup:
    """Load model, data and space, and count the baseline's cost.

    Raises GhostsearchError for anything that does not fit together.
    """
    check_names(config)
    earlier = open_earlier(config)
    loaded = given.model if given else load_model(
        config.model, weights=config.weights, classes=config.classes, size=config.size, seed=config.seed
    )  # fmt: skip
    require_layers(config.keep_float, (name for name, _ in loaded.module.named_modules()))
    preset = load_preset(config.space)
    example = example_input(loaded.input)
    anatomy = find_sites(loaded.module, example, include_first=preset.include_first)
    if not anatomy.sites:
        reasons = "; ".join(f"{s.path}: {s.reason}" for s in anatomy.skipped[:3])
        raise GhostsearchError(
            f"{config.model} has no convolution that can be replaced ({reasons or 'it has none at all'})"
        )
    space = preset.resolve(anatomy)
    data = given.data if given else open_data(config, loaded.input, progress)
    if not data.labelled and config.baseline_training():
        raise GhostsearchError(
            f"{config.data} has no labels to train the baseline on; add --weights, or --baseline-epochs 0"
        )
    if loaded.fresh and not config.baseline_training():
        raise GhostsearchError(
            f"the classifier starts from random weights, since {loaded.weights} are for other classes than "
            f"{config.classes}; add --baseline-epochs to train it first"
        )
    task = task_for(config.task, labelled=data.labelled, baseline=loaded.module)
    config.check_score(task.metric)
    check_run(loaded.module, data, task)
    loaded = dataclasses.replace(loaded, categories=loaded.categories or data.classes)
    return Setup(
        config, loaded, data, task, anatomy, space, example,
        calibration=calibration_of(config, data, example) if config.calibration_images else None,
        baseline_cost=measure_cost(loaded.module, example),
        table=CostTable(loaded.module, example, anatomy, width_multiple=space.width_multiple),
        earlier=earlier.facing(fingerprint_of(config, data)) if earlier else None,
    )  # fmt: skip
