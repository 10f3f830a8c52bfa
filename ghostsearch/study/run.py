"""`search`: the whole job, from a baseline to a front one can load; stopped or killed, it goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Latency, Record, StudyView, anatomy_dict
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.bench import Bench, latencies, open_bench, timed, train_baseline
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import (
    STUDY,
    add_seconds,
    check_directory,
    environment,
    load_study,
    read_study,
    write_outcome,
    write_records,
    write_run,
    write_study,
)
from ghostsearch.study.evidence import evidence
from ghostsearch.study.final import final_front, forget_dominated, keep_trial, run_final, trial_front
from ghostsearch.study.ledger import Ledger
from ghostsearch.study.seeds import seeds
from ghostsearch.study.store import open_storage
from ghostsearch.study.trial import Draft, run_trial, stops
from ghostsearch.study.veto import apply_veto, vetoed_choices

Progress = Callable[[int, int, str], None]
SETUP_LOCK, FINAL_LOCK = ".setup.lock", ".final.lock"
FAILURES_IN_A_ROW = 5
"""So many failed trials one after the other mean that something is wrong with the run and not with an architecture."""


def search(config: RunConfig, *, progress: Progress | None = None) -> StudyView:
    """Run or resume the study of a config; returns it as it then stands on disk.

    Interrupted once (Ctrl-C), it finishes the running trial and reports what there is; twice, it stops at once.
    Raises GhostsearchError for bad input, before anything is written, and when trial after trial fails.
    """
    folder, started, cpu = Path(config.out), time.perf_counter(), time.process_time()
    check_directory(folder, config)
    bench = open_bench(config, progress)
    bench.seconds["open"] = time.perf_counter() - started
    check_directory(folder, config, bench.space)
    explore = _explore
    if config.engine == "ray":
        from ghostsearch.study.ray_trials import explore, join_cluster

        join_cluster(bench)
    ledger = open_study(bench, folder, progress)
    with interruptible() as interrupted:
        explore(bench, ledger, folder, interrupted, progress)
        with FileLock(folder / FINAL_LOCK), timed(bench.seconds, "final"):
            _finish(bench, ledger, folder, interrupted, progress)
    view = load_study(folder)
    from ghostsearch.report.page import write_report

    with timed(bench.seconds, "report"):
        write_report(view, folder)
    total = {"total": time.perf_counter() - started, "total, CPU": time.process_time() - cpu}
    add_seconds(folder, bench.seconds | total)
    return view


def open_study(bench: Bench, folder: Path, progress: Progress | None = None) -> Ledger:
    """Everything before the first trial: run.yaml, the trained baseline, its latency, the seeds.

    What a former run or another process has done is taken over; one process at a time gets in.
    """
    config = bench.config
    write_run(folder, config)
    with FileLock(folder / SETUP_LOCK):
        with timed(bench.seconds, "baseline"):
            train_baseline(bench, folder, progress)
        name, bench.baseline_latencies, vetoed = _describe_study(bench, folder, progress)
        apply_veto(bench, vetoed)
        ledger = Ledger(
            open_storage(config.storage, folder), name, bench.space, bench.objectives,
            sampler=config.sampler, seed=config.seed,
        )  # fmt: skip
        ledger.enqueue(seeds(bench, folder, progress))
    return ledger


def _finish(
    bench: Bench, ledger: Ledger, folder: Path, interrupted: Callable[[], bool], progress: Progress | None
) -> None:
    """The final pass and the tables; of several processes the last one does it, the others write what there is."""
    records = ledger.records()
    if bench.config.storage:
        write_records(folder, records)
    finalists = None if interrupted() or ledger.running() else run_final(bench, records, folder, interrupted, progress)
    if finalists is None:
        write_outcome(folder, records, bench.objectives, (), trial_front(bench, records), ())
        return
    front, missed = final_front(bench, finalists)
    shown = [r.digest for r in (*finalists, *records) if r in finalists or r.origin == "uniform"]
    known = evidence(bench, records, list(dict.fromkeys(shown)), folder)
    write_outcome(folder, records, bench.objectives, finalists, front, missed, known)


def _explore(
    bench: Bench, ledger: Ledger, folder: Path, interrupted: Callable[[], bool], progress: Progress | None
) -> None:
    """Evaluate proposals until the study has as many trials as asked for."""
    while not interrupted():
        records = ledger.standings()
        if progress:
            progress(len(records), bench.config.trials, best_so_far(bench, records))
        proposal = ledger.ask(lambda a: feasible(bench, a), bench.config.trials)
        if proposal is None:
            break
        with ledger.working_on(proposal), timed(bench.seconds, "trials"):
            record = evaluate(bench, proposal.architecture, proposal.origin, records, folder)
        ledger.finish(proposal, record)
        records.append(record.with_medians())
        forget_dominated(bench, records, folder)
        stop_when_all_fails(records)


def evaluate(bench: Bench, architecture: Architecture, origin: str, records: Sequence[Record], folder: Path) -> Record:
    """Run one trial and keep the weights of a model that completed."""
    draft = Draft(len(records), architecture, origin)
    record, model = run_trial(bench, draft, lambda r, rung: stops(r, records, rung, bench.objectives))
    if model is not None and record.digest != "baseline":
        keep_trial(bench, model, record, folder)
    return record


def feasible(bench: Bench, architecture: Architecture) -> bool:
    """Whether an architecture's exact cost meets the limits on MACs and params; the baseline always may."""
    if architecture.is_baseline:
        return True
    cost = bench.cost(architecture)
    limits = {o.name: o.bound for o in bench.objectives if o.bound is not None}
    return all(getattr(cost, name) <= limits[name] for name in ("macs", "params") if name in limits)


def best_so_far(bench: Bench, records: list[Record]) -> str:
    """The progress bar's text: how large the front is, and its quickest model that scores like the baseline."""
    front = trial_front(bench, records)
    baseline = next((r for r in records if r.digest == "baseline"), None)
    if baseline is None or not front:
        return "trials"
    goal = baseline.score()
    near = [r for r in front if r.cost and (s := r.score()) and goal and s.value >= goal.value - 0.01]
    if not near:
        return f"front {len(front)}"
    best = min(near, key=lambda r: r.cost.macs if r.cost else 0)
    assert best.cost
    share = best.cost.macs / bench.baseline_cost.macs
    score = best.score()
    return f"front {len(front)} · best {share:.0%} of the MACs at {score.value if score else 0:.1%}"


def _describe_study(
    bench: Bench, folder: Path, progress: Progress | None
) -> tuple[str, tuple[Latency, ...], list[dict[str, Any]]]:
    """The study's name, the baseline's latencies and the vetoed choices: measured and written once, then read."""
    if not (folder / STUDY).exists():
        timings = latencies(bench, {"baseline": bench.baseline.module}, bench.config.time_limit, beside_baseline=False)[
            "baseline"
        ]
        with timed(bench.seconds, "latency table"):
            vetoed = vetoed_choices(bench, progress)
        name = f"{bench.config.model} {bench.space.digest}"
        write_study(folder, {
            "name": name, "space": bench.space.digest, "anatomy": anatomy_dict(bench.anatomy),
            "baseline_latencies": [x.model_dump(mode="json") for x in timings],
            "vetoed": vetoed, "environment": environment(), "notes": _notes(bench),
        })  # fmt: skip
    study = read_study(folder)
    timings = tuple(Latency.model_validate(x) for x in study["baseline_latencies"])
    return study["name"], timings, study.get("vetoed", [])


def _notes(bench: Bench) -> list[str]:
    config = bench.config
    notes = (
        [*bench.data.notes, f"{len(bench.data.broken)} broken images left out"]
        if bench.data.broken
        else [*bench.data.notes]
    )
    if config.baseline_training():
        notes.append(f"the baseline was trained for {config.baseline_training()} epochs first")
    notes.append("descendants are distilled from the baseline while they train")
    notes += bench.notes
    if bench.anatomy.width_note:
        notes.append(bench.anatomy.width_note)
    return notes


def stop_when_all_fails(records: Sequence[Record]) -> None:
    """Raise GhostsearchError when the newest trials all failed."""
    last = records[-FAILURES_IN_A_ROW:]
    if len(last) == FAILURES_IN_A_ROW and all(r.state == "failed" for r in last):
        raise GhostsearchError(
            f"the last {FAILURES_IN_A_ROW} trials failed, the newest with: {last[-1].reason}; "
            "all are recorded; mend the cause and run the same command again"
        )


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C is only remembered; the second raises KeyboardInterrupt."""
    asked = False

    def remember(number: int, stack: object) -> None:  # noqa: ARG001
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = signal.signal(signal.SIGINT, remember)
    except ValueError:
        # Not the main thread (a notebook's worker, a test): interrupts go where they always went.
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
