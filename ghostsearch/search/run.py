"""`search`: the whole job, from a plain model to a front one can load; stopped or killed, it goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Record, StudyView, anatomy_dict
from ghostsearch.search.bench import Bench, latencies, open_bench, train_baseline
from ghostsearch.search.config import RunConfig
from ghostsearch.search.final import final_front, forget_dominated, keep_trial, run_final, trial_front
from ghostsearch.search.ledger import Ledger, Proposal, sqlite_url
from ghostsearch.search.seeds import solver_seeds, uniform_seeds
from ghostsearch.search.trial import Draft, run_trial
from ghostsearch.search.view import (
    DATABASE,
    STUDY,
    check_directory,
    environment,
    load_study,
    read_study,
    write_outcome,
    write_run,
    write_study,
)
from ghostsearch.space import Architecture

Progress = Callable[[int, int, str], None]
FAILURES_IN_A_ROW = 5
"""So many failed trials one after the other mean that something is wrong with the run and not with an architecture."""


def search(config: RunConfig, *, progress: Progress | None = None) -> StudyView:
    """Run or resume the study of a config; returns it as it then stands on disk.

    Interrupted once (Ctrl-C), it finishes the running trial and reports what there is; twice, it stops at once.
    Raises GhostsearchError for bad input, before anything is written, and when trial after trial fails.
    """
    folder = Path(config.out)
    check_directory(folder, config)
    bench = open_bench(config, progress)
    check_directory(folder, config, bench.space)
    write_run(folder, config)
    train_baseline(bench, folder, progress)
    study = _open_study(bench, folder)
    bench.plain_latencies = tuple(study["plain_latencies"])
    ledger = Ledger(
        sqlite_url(folder / DATABASE),
        study["name"],
        bench.space,
        bench.objectives,
        sampler=config.sampler,
        seed=config.seed,
    )
    ledger.recover()
    ledger.enqueue(uniform_seeds(bench.space))
    if config.solver:
        ledger.enqueue(solver_seeds(bench, folder, progress))
    with interruptible() as interrupted:
        _explore(bench, ledger, folder, interrupted, progress)
        records = ledger.records()
        if interrupted():
            write_outcome(folder, records, bench.objectives, (), trial_front(bench, records), ())
        else:
            finalists = run_final(bench, records, folder, progress)
            front, missed = final_front(bench, finalists)
            write_outcome(folder, records, bench.objectives, finalists, front, missed)
    view = load_study(folder)
    from ghostsearch.report.page import write_report

    write_report(view, folder)
    return view


def _explore(
    bench: Bench, ledger: Ledger, folder: Path, interrupted: Callable[[], bool], progress: Progress | None
) -> None:
    """Evaluate proposals until the study has as many trials as asked for."""
    records = ledger.records()
    while len(records) < bench.config.trials and not interrupted():
        if progress:
            progress(len(records), bench.config.trials, best_so_far(bench, records))
        proposal = ledger.ask(lambda a: feasible(bench, a))
        if proposal is None:
            break
        record = _evaluate(bench, proposal, records, folder)
        ledger.finish(proposal, record)
        records.append(record)
        forget_dominated(bench, records, folder)
        _stop_when_all_fails(records)


def _evaluate(bench: Bench, proposal: Proposal, records: list[Record], folder: Path) -> Record:
    draft = Draft(len(records), proposal.architecture, proposal.origin)
    record, model = run_trial(bench, draft, records)
    if model is not None and record.digest != "plain":
        keep_trial(bench, model, record, folder)
    return record


def feasible(bench: Bench, architecture: Architecture) -> bool:
    """Whether an architecture's exact cost meets the limits on MACs and params; the plain model always may."""
    if architecture.is_plain:
        return True
    cost = bench.cost(architecture)
    limits = {o.name: o.limit for o in bench.objectives if o.limit is not None}
    return all(getattr(cost, name) <= limits[name] for name in ("macs", "params") if name in limits)


def best_so_far(bench: Bench, records: list[Record]) -> str:
    """The progress bar's text: how large the front is, and its quickest model that scores like the plain one."""
    front = trial_front(bench, records)
    plain = next((r for r in records if r.digest == "plain"), None)
    if plain is None or not front:
        return "trials"
    goal = plain.score()
    near = [r for r in front if r.cost and (s := r.score()) and goal and s.value >= goal.value - 0.01]
    if not near:
        return f"front {len(front)}"
    best = min(near, key=lambda r: r.cost.macs if r.cost else 0)
    assert best.cost
    share = best.cost.macs / bench.plain_cost.macs
    score = best.score()
    return f"front {len(front)} · best {share:.0%} of the MACs at {score.value if score else 0:.1%}"


def _open_study(bench: Bench, folder: Path) -> dict[str, object]:
    """study.json: made at the first run, when the plain model's latency is measured; read afterwards."""
    from ghostsearch.records import Latency

    if not (folder / STUDY).exists():
        timings = latencies(bench, {"plain": bench.plain.module}, bench.config.time_limit, beside_plain=False)["plain"]
        name = f"{bench.config.model} {bench.space.digest}"
        write_study(folder, {
            "name": name, "space": bench.space.digest, "anatomy": anatomy_dict(bench.anatomy),
            "plain_latencies": [x.model_dump(mode="json") for x in timings],
            "environment": environment(), "notes": _notes(bench),
        })  # fmt: skip
    study = read_study(folder)
    return {
        "name": study["name"],
        "plain_latencies": [Latency.model_validate(x) for x in study["plain_latencies"]],
    }


def _notes(bench: Bench) -> list[str]:
    config = bench.config
    notes = (
        [*bench.data.notes, f"{len(bench.data.broken)} broken images left out"]
        if bench.data.broken
        else [*bench.data.notes]
    )
    if config.plain_epochs():
        notes.append(f"the plain model was trained for {config.plain_epochs()} epochs first")
    notes.append("descendants are distilled from the plain model while they train")
    if bench.anatomy.width_note:
        notes.append(bench.anatomy.width_note)
    return notes


def _stop_when_all_fails(records: list[Record]) -> None:
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
