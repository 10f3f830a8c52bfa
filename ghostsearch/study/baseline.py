"""The second stage: the baseline timed on the run's devices, its limits checked there, then trained as the run asks."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ghostsearch.errors import GhostsearchError, GhostsearchWarning, failure_reason, release_memory
from ghostsearch.measure.cells import Correction
from ghostsearch.measure.latency_table import LatencyTable
from ghostsearch.measure.onnx_graph.quantize import float_nodes
from ghostsearch.records import Axis, Latency
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.study.budget import COSTS, check_budget
from ghostsearch.study.config import AXES, FREE, RunConfig
from ghostsearch.study.directory import (
    BASELINE_TRAINING,
    STUDY,
    baseline_directory,
    environment,
    load_study,
    note_command,
    read_study,
    write_run,
    write_study,
)
from ghostsearch.study.fingerprint import check_fingerprint, known_by
from ghostsearch.study.interactions import Additive, decompose
from ghostsearch.study.program import Problem, Program, UndecidedError
from ghostsearch.study.setup import Setup
from ghostsearch.study.veto import vetoed_rows, without_slow
from ghostsearch.study.watch import Watch
from ghostsearch.surgery.saved import load_directory, save
from ghostsearch.training.loop import Checkpoint, train
from ghostsearch.training.recipe import Recipe

COST_COLUMNS = {"macs": "macs", "params": "params", "memory": "peak_memory_bytes"}


@dataclass(frozen=True)
class Baseline:
    """The trained baseline with its latencies, and what the device says of its layers."""

    setup: Setup
    """With the trained module in place of the given one."""
    name: str
    """The study's name."""
    latencies: tuple[Latency, ...]
    """Timed beside itself: the ratio shows what the clock alone does."""
    tables: Mapping[str, LatencyTable]
    """By device, of the whole space; empty where latency does not count."""
    vetoed: tuple[Mapping[str, Any], ...]
    """Choices that are not faster; empty where latency does not count."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of the search with their limits: the objectives, then what else is limited."""
        config, setup = self.setup.config, self.setup
        limits = {x.axis: {"limit": x.value, "relative": x.relative} for x in config.limits()}
        made = []
        for name in config.axes():
            more: dict[str, Any] = limits.get(name, {})
            if name == "score":
                metric, maximize = setup.task.metric, setup.task.maximize
                made.append(Axis.of_score(metric, maximize=maximize, limit=config.min_accuracy))
            elif name == "latency":
                made += [Axis.of_latency(x.device, baseline=x.median_s, **more) for x in self.latencies]
            else:
                column = COST_COLUMNS[name]
                made.append(Axis.of_cost(column, baseline=getattr(setup.baseline_cost, column), **more))
        return tuple(made)

    @property
    def resource_names(self) -> tuple[str, ...]:
        """What the integer program can bound: params, MACs, and the latency on each device with a table."""
        return (*COSTS, *(axis.name for axis in self.axes if axis.device in self.tables))

    def resources(self, space: SearchSpace) -> Additive:
        """The `resource_names` of a space's architectures: exact counts, and predicted latencies in seconds."""
        counts = dataclasses.replace(self.setup, space=space).table
        latencies = {device: whole.within(space) for device, whole in self.tables.items()}
        baseline_s = {x.device: x.median_s for x in self.latencies}

        def predict(codes: np.ndarray) -> np.ndarray:
            params, macs, _ = counts.predict_codes(space, codes)
            return np.stack([params, macs, *(t.additive_ratios(codes) * baseline_s[d] for d, t in latencies.items())])

        return decompose(predict, sizes_of(space))


def make_baseline(setup: Setup, watch: Watch) -> Baseline:
    """Time, check, then train; what a former run of the study has done is taken over.

    Raises GhostsearchError, before anything is written, when the study began with other images or weights, when nothing
    in the space can meet a latency limit, and when the veto leaves nothing to search or nothing that meets a limit.
    """
    study = read_study(watch.folder) if (watch.folder / STUDY).exists() else {}
    check_fingerprint(watch.folder, known_by(study), setup.fingerprint)
    # What a run that counted latency has found stands; an axis that is new when the study goes on has it found now.
    decided = bool(study) and ("latency" in study.get("axes", AXES) or bool(study.get("corrections")))
    tables = latency_tables(setup, watch, study.get("corrections", {}) if decided else None)
    if decided:
        rows = study.get("vetoed", []) if setup.config.counts_latency() else []
    else:
        rows = vetoed_rows(tables) if setup.config.veto else []
    if study:
        latencies = tuple(Latency.model_validate(x) for x in study["baseline_latencies"])
    else:
        latencies = setup.latencies({"baseline": setup.baseline.module}, setup.config.time_limit)["baseline"]
    found = Baseline(setup, "", latencies, tables, tuple(rows))
    unmet = not study or not _measured_within(found.axes, watch.folder)
    if unmet:
        check_latency(setup.config, tables, {x.device: x.median_s for x in latencies})
    check_left(setup, rows)
    if unmet:
        check_together(found)
    write_run(watch.folder, setup.config)
    if not decided:
        study = study or begun(setup, latencies)
        stores = [table.store for table in tables.values()]
        notes = dict.fromkeys(note for store in stores if (note := store.note or store.history))
        write_study(watch.folder, {
            **study, "vetoed": rows, "notes": [*study.get("notes", ()), *notes],
            # None: the table stands as it is; the next run measures nothing for it.
            "corrections": {d: c and c.model_dump(mode="json") for d, t in tables.items() for c in [t.correction]},
        })  # fmt: skip
    note_command(watch.folder)
    warning = setup.config.flattered(study.get("cut", ()))
    # Who says so knows it.
    if warning and setup.config.trained_on != "same":
        warnings.warn(warning, GhostsearchWarning, stacklevel=2)
    with watch.stage("baseline"):
        trained = trained_setup(setup, watch)
    return dataclasses.replace(found, setup=trained, name=study["name"])


def begun(setup: Setup, latencies: Sequence[Latency]) -> dict[str, Any]:
    """What study.json keeps of a study's first run, whatever its tables say."""
    return {
        "name": name_of(setup.config, setup.space), "space": setup.space.digest,
        "axes": list(setup.config.axes()), "width_multiple": setup.space.width_multiple,
        "anatomy": dataclasses.asdict(setup.anatomy), "fingerprint": setup.fingerprint,
        "baseline_latencies": [x.model_dump(mode="json") for x in latencies],
        "environment": environment(), "notes": _notes(setup),
        # Weights for other classes were trained on other images.
        "cut": list(setup.data.cut) if setup.data.labelled and not setup.baseline.fresh else [],
    }  # fmt: skip


def name_of(config: RunConfig, space: SearchSpace) -> str:
    """What a study is called in its storage, where others may be: its model, and a digest of all that makes it one."""
    fixed = {k: v for k, v in config.model_dump(mode="json").items() if k not in FREE | {"storage"}}
    text = json.dumps([space.digest, fixed], sort_keys=True)
    return f"{config.model} {hashlib.sha256(text.encode()).hexdigest()[:10]}"


def latency_tables(
    setup: Setup, watch: Watch, known: Mapping[str, Mapping[str, Any] | None] | None
) -> dict[str, LatencyTable]:
    """Each device's latency table of the whole space where latency counts; what is missing is timed.

    known: the corrections of a study that counted latency before; without, whole models are measured for them, whatever
    other commands have measured: the same search makes the same choices.
    """
    if not setup.config.counts_latency():
        return {}
    tables = {}
    with watch.stage("latency table"):
        told = watch.telling("latency table", kept=True)
        for device in setup.config.device:
            table = setup.latency_table(device, cell_s=setup.config.cell_time_limit, progress=told)
            if known is None and setup.corrected_by:
                _correct(setup, table, told)
            elif known and known.get(device):
                table.store.correct(table.digest, Correction.model_validate(known[device]))
            tables[device] = table
    return tables


def _correct(setup: Setup, table: LatencyTable, progress: Progress) -> None:
    """Correct a table by whole models; where one of them cannot be made or timed, warn and leave it as it is."""
    try:
        table.store.correct(table.digest, setup.correction(table, progress))
    except Exception as error:  # noqa: BLE001 - the choice that fails is found, and named, by the candidate table
        release_memory()
        text = f"latency table on {table.store.device.name}: not corrected by whole models ({failure_reason(error)})"
        warnings.warn(text, GhostsearchWarning, stacklevel=2)


def _measured_within(axes: Sequence[Axis], folder: Path) -> bool:
    """Whether a study has a model that was measured within today's latency limits."""
    limited = [axis for axis in axes if axis.device and axis.limit is not None]
    timed = [r for r in load_study(folder).records if r.latencies and r.digest != "baseline"]
    return any(not any(axis.breach(r) for axis in limited) for r in timed)


def check_latency(config: RunConfig, tables: Mapping[str, LatencyTable], baseline_s: Mapping[str, float]) -> None:
    """Raise GhostsearchError, naming the nearest feasible one, when the tables say that nothing meets the limit.

    A table may be wrong by as much as it was on the models that it was corrected by.
    """
    limit = next((x for x in config.limits() if x.axis == "latency"), None)
    if limit is None:
        return
    for device, table in tables.items():
        least, bound = least_ratio(table), limit.absolute(baseline_s[device]) / baseline_s[device]
        if least * (1 - (table.correction.error if table.correction else 0.0)) > bound:
            raise GhostsearchError(
                f"max_latency {config.max_latency}: no architecture of this space is predicted to be that fast on "
                f"{device}; the nearest feasible limit is about {least * 100:.0f}% "
                f"({least * baseline_s[device] * 1e3:.3g}ms)"
            )


def check_together(found: Baseline) -> None:
    """Raise GhostsearchError when limits that can be met one by one are predicted not to be met together."""
    config, names = found.setup.config, found.resource_names
    errors = {device: t.correction.error if t.correction else 0.0 for device, t in found.tables.items()}
    bounds = {
        axis.name: axis.bound / (1 - errors.get(axis.device or "", 0.0))
        for axis in found.axes
        if axis.bound is not None and axis.name in names
    }
    if len(bounds) < 2:
        return
    space = without_slow(found.setup.space, found.vetoed, config.device)
    free = [np.zeros(size) for size in sizes_of(space)]
    try:
        answer = Program(Problem(free, found.resources(space), names)).solve(bounds)
    except UndecidedError:
        return
    if answer is None:
        limits = " and ".join(f"max_{x.axis} {getattr(config, f'max_{x.axis}')}" for x in config.limits())
        raise GhostsearchError(f"{limits}: no architecture of this space is predicted to meet them together; widen one")


def sizes_of(space: SearchSpace) -> list[int]:
    """Options of each of a space's sites and groups."""
    return [len(options) for options in (*space.sites.values(), *space.groups.values())]


def check_left(setup: Setup, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise GhostsearchError when what the veto's rows leave of the space is nothing, or nothing that meets a limit."""
    left = without_slow(setup.space, rows, setup.config.device)
    if left is setup.space:
        return
    try:
        check_budget(setup, left)
    except GhostsearchError as error:
        raise GhostsearchError(
            f"{error}; choices that are not faster on {', '.join(setup.config.device)} were left out (a search begun "
            "with --no-veto keeps them)"
        ) from None


def least_ratio(table: LatencyTable) -> float:
    """The least latency that a table predicts for any architecture of its space, as a share of the baseline's."""
    sizes = sizes_of(table.space)
    resources = decompose(lambda codes: np.asarray(table.additive_ratios(codes))[None], sizes)
    return Program(Problem([np.zeros(n) for n in sizes], resources, ("ratio",))).least("ratio")


def trained_setup(setup: Setup, watch: Watch) -> Setup:
    """The setup with the trained baseline: trained now, or as a former run or the study of `--from` left it.

    Ctrl-C ends the training after the epoch at work with KeyboardInterrupt; the next run goes on from there.
    """
    checkpoint = Checkpoint(watch.folder / BASELINE_TRAINING, watch.interrupted)
    kept, epochs = baseline_directory(watch.folder), setup.config.baseline_training()
    earlier = setup.earlier.baseline(setup.config, setup.baseline.module) if setup.earlier else None
    if (kept / "architecture.json").exists():
        return with_baseline(setup, load_directory(kept, model=setup.baseline.module).module.state_dict())
    module = copy.deepcopy(setup.baseline.module)
    if earlier:
        module.load_state_dict(earlier)
    elif epochs:
        recipe = setup.config.part(Recipe, epochs=epochs)
        told = watch.telling("baseline")
        train(module, setup.data, recipe, task=setup.task, progress=told, kept=checkpoint)
    save(module.eval(), kept, source=setup.baseline, architecture=Architecture())
    checkpoint.file.unlink(missing_ok=True)
    return dataclasses.replace(setup, baseline=dataclasses.replace(setup.baseline, module=module))


def with_baseline(setup: Setup, weights: Mapping[str, Any]) -> Setup:
    """The setup with these weights in its baseline; the given module stays as it is."""
    module = copy.deepcopy(setup.baseline.module)
    module.load_state_dict(weights)
    return dataclasses.replace(setup, baseline=dataclasses.replace(setup.baseline, module=module.eval()))


def _notes(setup: Setup) -> list[str]:
    """What the report should say besides."""
    data, epochs = setup.data, setup.config.baseline_training()
    notes = [*data.notes, *data.warnings]
    if data.broken:
        notes.append(f"{len(data.broken)} broken images left out")
    if epochs:
        notes.append(f"the baseline was trained for {epochs} epochs first")
    notes.append("descendants are distilled from the baseline while they train")
    if setup.config.scores_int8:
        notes.append("scores are those of networks quantized to int8, the baseline's too")
        left = ", ".join(float_nodes(setup.int8_graph(setup.baseline.module).graph))
        notes.append(f"in float within the int8 baseline: {left or 'nothing'}")
    if setup.anatomy.width_note:
        notes.append(setup.anatomy.width_note)
    return notes
