"""Trials in this process, one after the other, until there are as many as asked for or the time is up."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.records import Record
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import kept_directory
from ghostsearch.study.int8_layers import TIMING_SHARE, judged_layers
from ghostsearch.study.kept import MODELS, RECORD, forget_dominated, save_model
from ghostsearch.study.ledger import Ledger, Proposal
from ghostsearch.study.plan import Plan
from ghostsearch.study.recommendation import BASELINE, BASELINES
from ghostsearch.study.rungs import stops
from ghostsearch.study.trial import Trial, run_trial
from ghostsearch.study.watch import Watch

FAILURES_IN_A_ROW = 5
"""So many failed trials one after the other mean that something is wrong with the run and not with an architecture."""


REPORT_S = 10.0
"""What writing the tables and the page takes at most."""


def run_trials(plan: Plan, ledger: Ledger, watch: Watch) -> None:
    """Evaluate proposals in this process until the study has as many trials as asked for, or the time is up."""
    longest = 0.0
    while not watch.interrupted():
        records = ledger.standings()
        if has_baseline(records) and is_late(plan, records, watch, longest):
            if not longest:
                _tell_end(plan, len(records), "the final pass takes the time budget; rerun with a longer --time-budget")
            return
        watch.tell(len(records), plan.config.trials, progress_text(plan, records))
        proposal = ledger.ask(plan.feasible, plan.config.trials, plan.fits_memory)
        if proposal is None:
            _tell_end(plan, len(records) + ledger.running(), "no other architecture was found that keeps the limits")
            return
        began = time.perf_counter()
        with ledger.working_on(proposal), watch.stage("trials"):
            record = evaluate(plan, proposal, records, watch.folder)
        longest = max(longest, time.perf_counter() - began)
        ledger.finish(proposal, record)
        records.append(record.summarised())
        forget_dominated(plan, records, watch.folder)
        stop_when_all_fails(records)
        watch.on_trial()


def _tell_end(plan: Plan, trials: int, why: str) -> None:
    """Warn where there are fewer trials than asked for."""
    if trials < plan.config.trials:
        text = f"the search ends after {trials} of {plan.config.trials} trials: {why}"
        warnings.warn(text, GhostsearchWarning, stacklevel=2)


def has_baseline(records: Sequence[Record]) -> bool:
    """Whether the baseline's trial is there, which runs however late it is: no study ends without its score."""
    return any(r.digest == BASELINE for r in records)


def evaluate(plan: Plan, proposal: Proposal, records: Sequence[Record], folder: Path) -> Record:
    """Run one trial and keep the weights of a model that completed."""
    trial = Trial(plan, len(records), proposal.architecture, proposal.origin)
    record, model = run_trial(trial, lambda r, rung: stops(r, records, rung, plan.axes))
    if model is not None and record.digest != BASELINE:
        save_model(plan.setup, model, record.architecture, kept_directory(folder, record.digest))
    return record


def is_late(plan: Plan, records: Sequence[Record], watch: Watch, longest: float) -> bool:
    """Whether a trial of so many seconds would leave the final pass too little of the time budget."""
    if plan.config.time_budget is None:
        return False
    return watch.left_s() <= longest + final_s(plan, records, unfinished(plan, records, watch))


def unfinished(plan: Plan, records: Sequence[Record], watch: Watch) -> int:
    """How many models the final pass may have to train: those that it finished before take no time."""
    # By the models that are kept, of which there are few: this is asked before every trial.
    finished = sum(f.parent.name not in BASELINES for f in (watch.folder / MODELS).glob(f"*/{RECORD}"))
    return max(0, min(plan.config.finalists, len(records)) - finished)


def final_s(plan: Plan, records: Sequence[Record], finalists: int) -> float:
    """Seconds that the final pass over so many models and the report will take.

    By the trials so far, an epoch by one measured step where none was trained; 0 without a time budget.
    """
    if plan.config.time_budget is None:
        return 0.0
    epoch_s, scoring_s = _seconds_of(records, "train"), _seconds_of(records, "evaluate")
    if finalists and plan.config.longest_training():
        epoch_s = epoch_s or plan.setup.epoch_s
    return final_pass_s(plan.config, finalists, epoch_s, scoring_s) + REPORT_S


def final_pass_s(config: RunConfig, finalists: int, epoch_s: float, scoring_s: float) -> float:
    """Seconds of the final pass over so many models and two baselines, by those of an epoch and of a scoring.

    Without a finalist nothing is trained, and the baseline alone is scored.
    """
    models, epochs = (finalists + 2, config.longest_training()) if finalists else (1, 0)
    timing_s = config.final_time_limit * len(config.device)
    layers = judged_layers(config, models - 1)
    layers_s = len(layers) and TIMING_SHARE * config.final_time_limit + sum(layers) * scoring_s
    # Two splits of each model are scored.
    return models * (epoch_s * epochs + 2 * scoring_s) + timing_s + layers_s


def _seconds_of(records: Sequence[Record], step: str) -> float:
    """Seconds of an epoch of training, or of one scoring, over the trials so far; 0 before any."""
    spent = [(r.seconds[step], r.scores) for r in records if step in r.seconds and r.scores]
    units = sum(scores[-1].epochs if step == "train" else len(scores) for _, scores in spent)
    return sum(seconds for seconds, _ in spent) / units if units else 0.0


def progress_text(plan: Plan, records: Sequence[Record]) -> str:
    """The progress bar's text: how large the front is, and the fewest MACs on it."""
    front = plan.front(records)
    macs = [r.cost.macs for r in front if r.cost]
    if not macs:
        return "trials"
    return f"trials: front {len(front)} · down to {min(macs) / plan.setup.baseline_cost.macs:.0%} of the MACs"


def stop_when_all_fails(records: Sequence[Record]) -> None:
    """Raise GhostsearchError when the newest trials all failed."""
    last = records[-FAILURES_IN_A_ROW:]
    if len(last) == FAILURES_IN_A_ROW and all(r.state == "failed" for r in last):
        raise GhostsearchError(
            f"the last {FAILURES_IN_A_ROW} trials failed, the newest with: {last[-1].reason}; "
            "all are recorded; fix the cause and run the same command again"
        )
