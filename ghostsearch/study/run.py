"""`search`: the whole job, from a baseline to a front one can load; stopped or killed, the same command resumes it.

    Setup -> Baseline -> Plan -> Trial, again and again -> Outcome

Each stage is a frozen value made from the one before it; the trials' records are the study's storage, beside them.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from ghostsearch.errors import GhostsearchError, GhostsearchWarning, needing
from ghostsearch.files import held
from ghostsearch.records import StudyView
from ghostsearch.study.baseline import make_baseline
from ghostsearch.study.budget import COSTS, cheapest, check_budget
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import (
    add_note,
    add_seconds,
    check_directory,
    claimed,
    load_study,
    name_for,
    note_axes,
    read_study,
    write_records,
)
from ghostsearch.study.earlier import Earlier
from ghostsearch.study.explore import run_trials
from ghostsearch.study.ledger import Ledger, distributions, records_of
from ghostsearch.study.outcome import make_outcome, write_outcome
from ghostsearch.study.plan import Plan, make_plan
from ghostsearch.study.sampler import TableSampler
from ghostsearch.study.setup import Given, Setup, open_setup
from ghostsearch.study.store import open_storage, other_studies
from ghostsearch.study.watch import Progress, Watch, interruptible
from ghostsearch.yaml_files import RUN

SETUP_LOCK, FINAL_LOCK = ".setup.lock", ".final.lock"


def search(
    config: RunConfig, *, progress: Progress | None = None, given: Given | None = None, live: bool = False
) -> StudyView:
    """Run or resume the study of a config; returns it as it then stands on disk, in `StudyView.directory`.

    given: network and images in memory, which only this process has. live: write the report after every trial too.

    Interrupted once (Ctrl-C), it finishes what is running, reports what there is and warns (GhostsearchWarning); twice,
    it stops at once. While a table is made or the baseline trains, KeyboardInterrupt ends it; the next run goes on from
    there.
    Raises GhostsearchError for bad input, before anything is written, and when trial after trial fails.
    """
    with claimed(config) as placed:
        return _search(placed, progress, given, live=live)


def _search(config: RunConfig, progress: Progress | None, given: Given | None, *, live: bool) -> StudyView:
    cpu, explore, on_device = time.process_time(), run_trials, None
    check_directory(Path(config.out), config)
    if given and config.engine == "ray":
        raise GhostsearchError("engine ray: its workers cannot see a network in memory; give model and data by name")
    if config.engine == "ray":
        with needing("ray[tune]", "engine ray"):
            from ghostsearch.study.ray_trials import explore, join_cluster
        on_device = join_cluster(config)
    with interruptible() as interrupted:
        watch = Watch(Path(config.out), progress, interrupted, budget_s=config.budget_s())
        with watch.stage("open"):
            setup = opened(config, progress, given)
        if on_device:
            setup = dataclasses.replace(setup, on_device=on_device)
        if config.storage:
            open_storage(config.storage, watch.folder)
        with locked(setup):
            plan = make_plan(make_baseline(setup, watch), watch)
            note_axes(watch.folder, plan.axes)
            ledger = open_ledger(plan, watch.folder)
        explore(plan, ledger, dataclasses.replace(watch, on_trial=reporting(plan, ledger, watch)) if live else watch)
        with held(FileLock(watch.folder / FINAL_LOCK)), watch.stage("final"):
            conclude(plan, ledger, watch)
    with watch.stage("report"):
        view = report(watch.folder)
    if interrupted() and not view.finalists:
        text = "interrupted: the front is that of the trials so far, without the final training; run the same command "
        warnings.warn(f"{text}again to go on", GhostsearchWarning, stacklevel=2)
    total = {"total": time.perf_counter() - watch.started, "total, CPU": time.process_time() - cpu}
    add_seconds(watch.folder, watch.seconds | total)
    return view


def opened(config: RunConfig, progress: Progress | None = None, given: Given | None = None) -> Setup:
    """A run's model, data and space; raises GhostsearchError where nothing there keeps its exact limits, or where its
    directory holds another study.
    """
    setup = open_setup(config, progress, given)
    check_budget(setup, setup.space)
    check_directory(Path(config.out), config, setup.space)
    return setup


def report(folder: Path, *, live: bool = False) -> StudyView:
    """Write the report of a study as it stands, `live` as in `write_report`; returns the study."""
    from ghostsearch.report.page import write_report

    view = load_study(folder)
    write_report(view, folder, live=live)
    return view


def reporting(plan: Plan, ledger: Ledger, watch: Watch) -> Callable[[], None]:
    """What writes tables and report of the trials so far, as an interrupted search leaves them."""
    so_far = dataclasses.replace(watch, interrupted=lambda: True)

    def write() -> None:
        with held(FileLock(watch.folder / FINAL_LOCK)):
            conclude(plan, ledger, so_far)
        report(watch.folder, live=True)

    return write


@contextmanager
def locked(setup: Setup) -> Iterator[None]:
    """One process at a time gets into a run's directory; what a refused command would leave behind goes again.

    Raises GhostsearchError where the directory cannot be written, or where another process has begun another study in
    it since it was opened.
    """
    folder = Path(setup.config.out)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GhostsearchError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    with held(FileLock(folder / SETUP_LOCK)):
        try:
            check_directory(folder, setup.config, setup.space)
            yield
        except BaseException:
            if not (folder / RUN).exists():
                (folder / SETUP_LOCK).unlink(missing_ok=True)
                with suppress(OSError):
                    for place in made:
                        place.rmdir()
            raise


def open_ledger(plan: Plan, folder: Path) -> Ledger:
    """The study's storage with its trials, those of other axes too, and the plan's seeds in the queue."""
    config, study = plan.config, read_study(folder)
    storage, name = open_storage(config.storage, folder), name_for(study, config)
    sampler = sampler_of(plan)
    exact = [limit.axis for limit in config.limits() if limit.axis in COSTS]
    # Our own sampler's program keeps the limits by itself.
    cheap = [cheapest(plan.setup, plan.space, axis) for axis in exact] if isinstance(sampler, str) else []
    ledger = Ledger(storage, name, plan.space, plan.axes, sampler=sampler, seed=config.seed, cheap=cheap)
    for other in other_studies(storage, str(study["name"]), name):
        ledger.adopt(records_of(storage, other))
    earlier = plan.setup.earlier
    if earlier and earlier.begun({r.digest for r in ledger.records()}, study.get("notes", ())):
        take_trials(plan, earlier, ledger, folder)
    ledger.retry_pruned()
    ledger.enqueue(plan.seeds)
    return ledger


def take_trials(plan: Plan, earlier: Earlier, ledger: Ledger, folder: Path) -> None:
    """Begin with the trials of the study of `--from`, and say in one line what of it was taken."""
    baseline = plan.setup.score(plan.setup.baseline.module, "validation", 0)
    records = earlier.trials(plan.config, plan.space, baseline)
    earlier.copy_weights(records, folder)
    ledger.adopt(records)
    add_note(folder, earlier.told())
    warnings.warn(earlier.told(), GhostsearchWarning, stacklevel=2)


def sampler_of(plan: Plan) -> str | TableSampler:
    """The run's sampler: ours over the plan's program, or the name of one of Optuna's."""
    if plan.config.sampler != "table":
        return plan.config.sampler
    assert plan.problem is not None, "the plan has a program where the sampler is ours"
    parameters = {name: [str(c) for c in d.choices] for name, d in distributions(plan.space).items()}
    modelled = [axis for axis in plan.axes if axis.name in plan.problem.names]
    limits = {axis.name: bound for axis in modelled if (bound := axis.bound) is not None}
    names = [axis.name for axis in plan.axes]
    return TableSampler(plan.problem, parameters, names, limits=limits, seed=plan.config.seed)


def conclude(plan: Plan, ledger: Ledger, watch: Watch) -> None:
    """The final pass and the tables; of several processes the last one does it, the others write what there is."""
    records = ledger.records()
    if plan.config.storage:
        write_records(watch.folder, records)
    if ledger.running():
        watch = dataclasses.replace(watch, interrupted=lambda: True)
    write_outcome(watch.folder, make_outcome(plan, records, watch), plan.axes)
