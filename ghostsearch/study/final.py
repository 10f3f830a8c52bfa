"""The final pass: the front is trained on, measured again beside the baseline, tested once, saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from ghostsearch.export.saved import load_directory, save
from ghostsearch.files import write_text
from ghostsearch.pareto import most_volume, pareto_front
from ghostsearch.records import Record
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.bench import Bench, latencies, timed
from ghostsearch.study.ledger import minimised

Progress = Callable[[int, int, str], None]
TRIAL_WEIGHTS, MODELS, FINALISTS, RECORD = "weights", "models", "finalists.json", "record.json"


def trial_front(bench: Bench, records: Sequence[Record]) -> list[Record]:
    """The non-dominated complete trials; the baseline only where it meets the limits itself."""
    complete = [r for r in records if r.state == "complete" and not (r.digest == "baseline" and bench.breaches(r))]
    return [complete[i] for i in pareto_front([minimised(r, bench.objectives) for r in complete])]


def choose_finalists(bench: Bench, records: Sequence[Record]) -> list[Record]:
    """The front's models to finish: at most `finalists` that together cover most; the baseline not counted."""
    front = [r for r in trial_front(bench, records) if r.digest != "baseline"]
    chosen = most_volume([minimised(r, bench.objectives) for r in front], bench.config.finalists)
    return [front[i] for i in chosen]


def run_final(
    bench: Bench, records: Sequence[Record], folder: Path, interrupted: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> list[Record] | None:  # fmt: skip
    """Finish the finalists and the baseline; returns their records, the baseline's first.

    None when it was interrupted between two of them.
    A finalist whose record is already there, with as many epochs, is not trained again. The latencies of all come
    from one interleaved run, so that they compare.
    """
    baseline = next(r for r in records if r.digest == "baseline")
    chosen = choose_finalists(bench, records)
    finished = [_finish(bench, baseline, folder, 0)]
    for done, record in enumerate(chosen, 1):
        if interrupted():
            return None
        if progress:
            progress(done - 1, len(chosen) + 1, f"finishing {record.digest} of {len(chosen)} finalists")
        finished.append(_finish(bench, record, folder, bench.config.final_epochs))
    if interrupted():
        return None
    if progress:
        progress(len(chosen), len(chosen) + 1, "measuring the finalists beside the baseline")
    return _measure(bench, finished, folder)


def _finish(bench: Bench, record: Record, folder: Path, epochs: int) -> Record:
    """Train a finalist on, score both splits, save it; the record last, so that a kill repeats no more than this."""
    target, architecture = folder / MODELS / record.digest, record.architecture
    before = record.score()
    total = (before.epochs if before else 0) + epochs
    if (target / RECORD).exists():
        kept = Record.model_validate_json((target / RECORD).read_text(encoding="utf-8"))
        test = kept.score("test")
        if test and test.epochs == total:
            return kept
    source = target if architecture.is_baseline else folder / TRIAL_WEIGHTS / record.digest
    if (source / "architecture.json").exists():
        model = load_directory(source, model=bench.baseline.module).module
    else:
        model = _make_again(bench, record)
    seconds = dict(record.seconds)
    if epochs:
        with timed(seconds, "train"):
            bench.train(model, epochs)
    with timed(seconds, "evaluate"):
        scores = (bench.score(model, "validation", total), bench.score(model, "test", total))
    kept_scores = record.scores if epochs else tuple(s for s in record.scores if s.epochs != total)
    update = {"scores": (*kept_scores, *scores), "seconds": seconds}
    if not architecture.is_baseline:
        save(
            model.eval(),
            target,
            source=bench.baseline,
            architecture=architecture,
            width_multiple=bench.space.width_multiple,
        )
    finished = record.model_copy(update=update)
    write_text(target / RECORD, finished.model_dump_json())
    return finished


def _make_again(bench: Bench, record: Record) -> nn.Module:
    """A trial's model from its architecture: its weights are on the machine that ran it, which shares no directory."""
    model, done = bench.convert(record.architecture), 0.0
    reached = record.score()
    for rung in bench.config.rungs():
        if reached and done < rung <= reached.epochs:
            bench.train(model, rung - done)
            done = rung
    return model


def _measure(bench: Bench, records: Sequence[Record], folder: Path) -> list[Record]:
    models = {r.digest: load_directory(folder / MODELS / r.digest, model=bench.baseline.module).module for r in records}
    timings = latencies(bench, models, bench.config.final_time_limit)
    measured = [r.model_copy(update={"latencies": timings[r.digest]}) for r in records]
    for record in measured:
        write_text(folder / MODELS / record.digest / RECORD, record.model_dump_json())
    return measured


def final_front(bench: Bench, finalists: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The finalists that meet every limit as measured at the end and are not dominated; the digests that miss one."""
    missed = [r.digest for r in finalists if bench.breaches(r)]
    kept = [r for r in finalists if r.digest not in missed]
    front = [kept[i] for i in pareto_front([minimised(r, bench.objectives) for r in kept])]
    return front, [d for d in missed if d != "baseline"]


def keep_trial(bench: Bench, model: nn.Module, record: Record, folder: Path) -> Path:
    """Keep the weights of a trial that may become a finalist; returns their directory."""
    architecture: Architecture = record.architecture
    target = folder / TRIAL_WEIGHTS / record.digest
    return save(
        model.eval(),
        target,
        source=bench.baseline,
        architecture=architecture,
        width_multiple=bench.space.width_multiple,
    )


def forget_dominated(bench: Bench, records: Sequence[Record], folder: Path) -> None:
    """Delete the weights of trials that fell behind the front, and models of finalists that no longer are any."""
    import shutil

    # Only of trials whose records are known: another process may just have written others.
    behind = {r.digest for r in records} - {r.digest for r in trial_front(bench, records)}
    for kept in sorted((folder / TRIAL_WEIGHTS).glob("*")):
        if kept.is_dir() and kept.name in behind:
            shutil.rmtree(kept, ignore_errors=True)
