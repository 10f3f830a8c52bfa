"""The last stage: the finalists and the baseline trained equally long, measured side by side, tested once, saved."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ghostsearch.errors import GhostsearchWarning, failure_reason, release_memory
from ghostsearch.files import atomic_path, read_json, write_text
from ghostsearch.pareto import pareto_front
from ghostsearch.records import Axis, Record
from ghostsearch.study.directory import OUTCOME, kept_directory
from ghostsearch.study.evidence import evidence
from ghostsearch.study.explore import final_s
from ghostsearch.study.int8_layers import int8_layers
from ghostsearch.study.kept import MODELS, RECORD, finished_module, save_model
from ghostsearch.study.other_precision import Reference, make_reference
from ghostsearch.study.plan import Plan
from ghostsearch.study.recommendation import (
    BASELINE,
    BASELINES,
    FLOAT,
    INT8,
    TRAINED,
    longest_training,
    recommended,
    worth_finishing,
)
from ghostsearch.study.trials_table import frame
from ghostsearch.study.watch import Watch, timed
from ghostsearch.surgery.saved import load_directory
from ghostsearch.units import counted

EVIDENCE = ("candidates", "audit", "layers", "int8_layers")
"""What an outcome holds besides its models."""
TIMINGS = "timings.json"
"""Every timed call of the finalists' interleaved run; the other files keep five figures of each."""


@dataclass(frozen=True)
class Outcome:
    """What a study comes to, as it is written to outcome.json."""

    records: tuple[Record, ...]
    finalists: tuple[Record, ...] = ()
    front: tuple[Record, ...] = ()
    """Non-dominated and within every limit; best score first."""
    chosen: str = ""
    missed: tuple[str, ...] = ()
    """Digests of finalists that broke a limit as measured at the end."""
    evidence: dict[str, Any] = field(default_factory=dict)


def make_outcome(plan: Plan, records: Sequence[Record], watch: Watch) -> Outcome:
    """Train, measure and test the finalists; interrupted between two of them, those of a former run stand, where there
    are any, else the front of the last rung.

    A finalist whose record is already there, with as many epochs, is not trained again.
    """
    finalists = None if watch.interrupted() else finish(plan, records, watch)
    if finalists is None and (former := former_outcome(plan, records, watch.folder)):
        return former
    if finalists is None:
        within = [r for r in records if not plan.breaches(r)]
        front = sorted(next(iter(plan.rung_fronts(within).values()), []), key=plan.score_axis.minimised)
        chosen = recommended(front, [r for r in records if r.digest == BASELINE], plan.axes, plan.config.drop())
        return Outcome(tuple(records), front=tuple(front), chosen=chosen)
    front, missed = final_front(plan, finalists)
    shown = [r.digest for r in (*finalists, *records) if r in finalists or r.origin == "uniform"]
    known = evidence(plan, records, list(dict.fromkeys(shown)), watch.folder)
    known["int8_layers"] = [
        x.model_dump(mode="json") for x in int8_layers(plan, [r for r in finalists if r.state != "failed"], watch)
    ]
    return Outcome(
        tuple(records), tuple(finalists), tuple(front), recommended(front, finalists, plan.axes, plan.config.drop()),
        tuple(missed), known,
    )  # fmt: skip


def former_outcome(plan: Plan, records: Sequence[Record], folder: Path) -> Outcome | None:
    """The finalists of a former run under today's limits; None where there are none with today's training and axes,
    or where one of them breaks a limit that it kept.
    """
    old: Any = read_json(folder / OUTCOME) if (folder / OUTCOME).exists() else {}
    finalists = [Record.model_validate(r) for r in old.get("finalists", ())]
    measured = [r for r in finalists if r.state != "failed"]
    lacking = any(axis.value(r) is None for axis in plan.axes for r in measured)
    if not measured or lacking or longest_training(finalists) != plan.config.longest_training():
        return None
    front, missed = final_front(plan, finalists)
    if set(missed) - set(old["missed"]):
        return None
    return Outcome(
        tuple(records), tuple(finalists), tuple(front), recommended(front, finalists, plan.axes, plan.config.drop()),
        tuple(missed), {name: old[name] for name in EVIDENCE if name in old},
    )  # fmt: skip


def choose_finalists(plan: Plan, records: Sequence[Record], count: int) -> list[Record]:
    """The trials to finish: at most `count`, from the highest rung's front down."""
    baseline, chosen = next(r for r in records if r.digest == BASELINE), list[Record]()
    for front in plan.rung_fronts(records).values():
        room = count - len(chosen)
        chosen += worth_finishing(front, baseline, plan.axes, plan.config.drop(), room)
    return chosen


def fitting_finalists(plan: Plan, records: Sequence[Record], watch: Watch) -> list[Record] | None:
    """The trials to finish in what is left of the time budget; those that are finished already take none of it.

    Warns of those that are left out; None where there are trials to finish and no time for any.
    """
    wanted, total = choose_finalists(plan, records, plan.config.finalists), plan.config.longest_training()
    for count in range(len(wanted), -1, -1):
        chosen = wanted if count == len(wanted) else choose_finalists(plan, records, count)
        new = sum(_finished(r, watch.folder, total) is None for r in chosen)
        if not new or final_s(plan, records, new) <= watch.left_s():
            break
    if len(chosen) < len(wanted):
        warnings.warn(
            f"the time budget has room for {len(chosen)} of {counted(len(wanted), 'finalist')}; to finish all, rerun "
            "the same command with a longer --time-budget or without one", GhostsearchWarning, stacklevel=2,
        )  # fmt: skip
    return None if wanted and not chosen else chosen


def finish(plan: Plan, records: Sequence[Record], watch: Watch) -> list[Record] | None:
    """The records of the baseline, the baseline after the finalists' training, and the finalists; None if interrupted,
    or if the time budget has no room for any.

    All but the first have had equal training; without a finalist nothing is trained. The baseline in the other
    precision comes last where the run asks for it. What fails in its training or scoring is recorded as failed, without
    figures; the next run tries it again.
    Their latencies come from one interleaved run, so that they compare.
    """
    baseline, epochs = next(r for r in records if r.digest == BASELINE), plan.config.longest_training()
    work, chosen = [(baseline, 0.0)], fitting_finalists(plan, records, watch)
    if chosen is None:
        return None
    if epochs and chosen:
        trained = baseline.model_copy(update={"digest": TRAINED, "seconds": {}})
        work.append((trained, float(epochs)))
    work += [(r, float(epochs)) for r in chosen]
    told, finished = watch.telling("final training"), []
    for done, (record, total) in enumerate(work):
        if watch.interrupted():
            return None
        told(done, len(work), "trained baseline" if record.digest == TRAINED else record.digest)
        finished.append(_tried(plan, record, watch.folder, total))
    if watch.interrupted():
        return None
    told(len(work), len(work), "measuring the finalists beside the baseline")
    return _measured(plan, finished, make_reference(plan.setup, baseline, watch.folder), watch.folder)


def _tried(plan: Plan, record: Record, folder: Path, total: float) -> Record:
    """As `_finish`; a failure is recorded and warned of. Without the baseline's scores there is nothing to compare."""
    try:
        return _finish(plan, record, folder, total)
    except Exception as error:
        if record.digest == BASELINE:
            raise
        release_memory()
        reason = failure_reason(error)
        text = f"{record.digest}: the final training failed ({reason}); the other finalists go on"
        warnings.warn(text, GhostsearchWarning, stacklevel=2)
        return record.model_copy(update={"state": "failed", "reason": reason, "scores": (), "latencies": ()})


def _finish(plan: Plan, record: Record, folder: Path, total: float) -> Record:
    """Train a model up to `total` epochs, score both splits, save it; the record last: a kill repeats no more."""
    target = folder / MODELS / record.digest
    if kept := _finished(record, folder, total):
        return kept
    model, setup, seconds = _model_of(plan, record, folder), plan.setup, dict(record.seconds)
    reached = record.score()
    done = reached.epochs if reached else 0.0
    if total > done:
        with timed(seconds, "train"):
            setup.train(model, total - done)
    with timed(seconds, "evaluate"):
        file = setup.deployed(model)
        scores = tuple(setup.score_as_it_is(file, split, total) for split in ("validation", "test"))
    before = tuple(s for s in record.scores if s.epochs != total)
    if record.digest != BASELINE:
        save_model(plan.setup, model, record.architecture, target)
    finished = record.model_copy(update={"scores": (*before, *scores), "seconds": seconds})
    write_text(target / RECORD, finished.model_dump_json())
    return finished


def _finished(record: Record, folder: Path, total: float) -> Record | None:
    """The record that a former final pass left of a model after so many epochs."""
    file = folder / MODELS / record.digest / RECORD
    if not file.exists():
        return None
    kept = Record.model_validate_json(file.read_text(encoding="utf-8"))
    test = kept.score("test")
    return kept if test and test.epochs == total else None


def _model_of(plan: Plan, record: Record, folder: Path) -> nn.Module:
    """A trial's model: the baseline's copy, the weights that its trial kept, or made again from its architecture.

    The last where a trial ran on a machine that shares no directory, or fell behind the front for a while.
    """
    setup, source = plan.setup, kept_directory(folder, record.digest)
    if record.architecture.is_baseline:
        return copy.deepcopy(setup.baseline.module)
    if (source / "architecture.json").exists():
        return load_directory(source, model=setup.baseline.module).module
    model, done = setup.convert(record.architecture), 0.0
    reached = record.score()
    for rung in plan.config.rungs():
        if reached and done < rung <= reached.epochs:
            setup.train(model, rung - done)
            done = rung
    return model


def _measured(plan: Plan, records: list[Record], reference: Reference | None, folder: Path) -> list[Record]:
    models = {r.digest: finished_module(plan.setup, r.digest, folder) for r in records if r.state != "failed"}
    if reference:
        models[reference.record.digest] = reference.module
        records = [*records, reference.record]
    timings = plan.setup.latencies(models, plan.config.final_time_limit)
    measured = [r.model_copy(update={"latencies": timings[r.digest]}) for r in records if r.digest in models]
    raw = {r.digest: {x.device: x.model_dump(mode="json") for x in r.latencies} for r in measured}
    write_text(folder / TIMINGS, json.dumps(raw))
    for record in measured:
        write_text(folder / MODELS / record.digest / RECORD, record.summarised().model_dump_json())
    return [*(r.summarised() for r in measured), *(r for r in records if r.digest not in models)]


def final_front(plan: Plan, finalists: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The non-dominated finalists within every limit as measured at the end, best first; the digests that miss one.

    The baseline competes after the same training, and is on the front only where no model is.
    """
    equal = longest_training(finalists)
    compared = [r for r in finalists if (s := r.score()) and s.epochs == equal and r.digest not in (INT8, FLOAT)]
    missed = [r.digest for r in compared if plan.breaches(r) and r.digest not in BASELINES]
    kept = [r for r in compared if r.digest not in missed]
    best = sorted((kept[i] for i in pareto_front(plan.points(kept))), key=plan.score_axis.minimised)
    models = [r for r in best if r.digest not in BASELINES]
    return models or [r for r in finalists if r.digest == BASELINE and not plan.breaches(r)], missed


def write_outcome(folder: Path, outcome: Outcome, axes: Sequence[Axis]) -> None:
    """Write the tables and the outcome; each file whole or not at all."""
    content = {
        "objectives": [axis.model_dump() for axis in axes],
        "finalists": [r.model_dump(mode="json") for r in outcome.finalists],
        "front": [r.digest for r in outcome.front],
        "chosen": outcome.chosen,
        "missed": list(outcome.missed),
        **outcome.evidence,
    }
    write_text(folder / OUTCOME, json.dumps(content))
    table = frame(outcome.records)
    write_text(folder / "trials.csv", table.to_csv(index=False))
    with atomic_path(folder / "trials.parquet") as path:
        table.to_parquet(path, index=False)
    baselines = [r for r in (outcome.finalists or outcome.records) if r.architecture.is_baseline]
    front = frame([*baselines, *(r for r in outcome.front if r not in baselines)])
    front.insert(2, "chosen", front["digest"] == outcome.chosen)
    write_text(folder / "front.csv", front.to_csv(index=False))
