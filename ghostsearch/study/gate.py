"""The gate for CI: whether a model keeps limits, decided by 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ghostsearch.data.load import load_data
from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_pairs
from ghostsearch.measure.onnx_graph.file import check_device, example_of
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import LoadedModel
from ghostsearch.models.options import ModelOptions
from ghostsearch.records import Axis, Latency, Score
from ghostsearch.shown import Progress
from ghostsearch.space.limits import Limit
from ghostsearch.study.baseline import COST_COLUMNS
from ghostsearch.study.config import Gate
from ghostsearch.study.directory import baseline_directory, study_of
from ghostsearch.study.scores import score_of
from ghostsearch.study.split import split_for
from ghostsearch.study.statistics import Z, error_of_difference
from ghostsearch.study.subject import open_subject
from ghostsearch.surgery.saved import ARCHITECTURE_FILE
from ghostsearch.training.evaluate import meter_over, torch_device
from ghostsearch.training.tasks.table import task_for
from ghostsearch.units import interval_text, milliseconds, score_text

BATCH = 64


State = Literal["met", "missed", "not decided"]


@dataclass(frozen=True)
class Verdict:
    """One limit: what was asked, what was found, and whether the model keeps it."""

    limit: str
    asked: str
    found: str
    state: State
    """Not decided: the 95 % interval of what was found holds the limit."""


def _state(low: float, high: float, most: float) -> State:
    if high <= most:
        return "met"
    return "missed" if low > most else "not decided"


@dataclass(frozen=True)
class _Subjects:
    """The model, its baseline where there is one, and how they are judged."""

    gate: Gate
    model: LoadedModel
    baseline: LoadedModel | None
    progress: Progress | None


def check(name: str, gate: Gate, *, allow_code: bool = False, progress: Progress | None = None) -> list[Verdict]:
    """A verdict per limit; costs are exact, latencies and scores of the test split have intervals.

    Raises GhostsearchError where there is no limit, or one that cannot be judged.
    """
    wants_score = gate.min_accuracy is not None or gate.max_drop is not None
    if not gate.limits() and not wants_score:
        raise GhostsearchError("check needs a limit, such as --max-latency 12ms or --max-params 4M")
    beside = gate.baseline or _sibling(Path(name))
    relative = [f"--max-{x.axis}" for x in gate.limits() if x.relative] + ["--max-drop"] * (gate.max_drop is not None)
    if relative and beside is None:
        raise GhostsearchError(f"{relative[0]} refers to a baseline; add --baseline MODEL, DIR or FILE.onnx")
    if wants_score and "data" not in gate.model_fields_set:
        raise GhostsearchError("--min-accuracy and --max-drop are judged on images; add --data")
    model = open_subject(name, gate.part(ModelOptions), seed=gate.seed, allow_code=allow_code)
    baseline = open_subject(beside, seed=gate.seed, allow_code=allow_code) if beside else None
    for one in filter(None, (model, baseline)):
        check_device(one, gate.device)
    path = Path(name)
    if wants_score and path.exists():
        gate = gate.but(**split_for(path if path.is_dir() else path.parent, gate.data, gate.model_fields_set))
    subjects = _Subjects(gate, model, baseline, progress)
    verdicts = [_latency(subjects, x) if x.axis == "latency" else _cost(subjects, x) for x in gate.limits()]
    return verdicts + (_scores(subjects) if wants_score else [])


def _sibling(path: Path) -> str | None:
    """The baseline of the study that a path is, or that keeps it; None for what is on no disk, such as a name."""
    study = study_of(path) if path.exists() else None
    place = baseline_directory(study) if study else None
    found = place and (place / ARCHITECTURE_FILE).is_file() and place != path.resolve()
    return str(place) if found else None


def _latency(subjects: _Subjects, limit: Limit) -> Verdict:
    latency = _timed(subjects)
    if limit.relative:
        assert latency.ratio is not None
        low, high = latency.ratio_interval or (latency.ratio, latency.ratio)
        found = f"{latency.ratio * 100:.1f} %{interval_text((low, high))} of the baseline's"
        asked = f"{limit.value * 100:.4g} % of the baseline's"
    else:
        low, high = latency.interval_s
        found = f"{milliseconds(latency.median_s)} [{milliseconds(low)} – {milliseconds(high)}]"
        asked = milliseconds(limit.value)
    return Verdict(f"latency on {latency.device}", f"at most {asked}", found, _state(low, high, limit.value))


def _timed(subjects: _Subjects) -> Latency:
    gate, baseline = subjects.gate, subjects.baseline
    example = example_of(subjects.model, gate.batch)
    beside = None if baseline is None else (baseline.module, example_of(baseline, gate.batch))
    pairs = {"model": (subjects.model.module, example)}
    setting = gate.part(Setting)
    return measure_pairs(pairs, beside, device=gate.device, setting=setting, progress=subjects.progress)["model"]


def _cost(subjects: _Subjects, limit: Limit) -> Verdict:
    column = COST_COLUMNS[limit.axis]
    axis, value = Axis.of_cost(column), _counted(subjects.model, column)
    whole = _counted(subjects.baseline, column) if limit.relative and subjects.baseline else 0.0
    bound = limit.absolute(whole)
    return Verdict(axis.label, f"at most {axis.text(bound)}", axis.text(value), _state(value, value, bound))


def _counted(model: LoadedModel, column: str) -> float:
    value = getattr(measure_cost(model.module, example_of(model)), column)
    if value is None:
        raise GhostsearchError(f"{model.spec}: its {Axis.of_cost(column).label} cannot be computed")
    return float(value)


def _scores(subjects: _Subjects) -> list[Verdict]:
    gate, verdicts = subjects.gate, list[Verdict]()
    mine = _scored(subjects, subjects.model)
    if gate.min_accuracy is not None:
        error = Z * (mine.stderr or 0.0)
        state = _state(-mine.value - error, -mine.value + error, -gate.min_accuracy)
        found = score_text(mine.value, mine.metric, mine.stderr)
        verdicts.append(Verdict(mine.metric, f"at least {score_text(gate.min_accuracy, mine.metric)}", found, state))
    allowed = gate.drop()
    if allowed is not None and subjects.baseline is not None:
        theirs = _scored(subjects, subjects.baseline)
        lost, error = theirs.value - mine.value, error_of_difference(mine, theirs)
        state = _state(lost - Z * error, lost + Z * error, allowed)
        found = score_text(lost, mine.metric, error)
        asked = f"at most {score_text(allowed, mine.metric)}"
        verdicts.append(Verdict(f"drop of {mine.metric}", asked, found, state))
    return verdicts


def _says_how(model: LoadedModel) -> bool:
    return not isinstance(model.module, OnnxModule) or "mean" in model.module.notes


def _scored(subjects: _Subjects, model: LoadedModel) -> Score:
    """The score of a model on the test split, its images made as it, or else its baseline, wants them."""
    gate, baseline = subjects.gate, subjects.baseline
    known = [m.input for m in (model, baseline, subjects.model) if m is not None and _says_how(m)]
    if not known:
        raise GhostsearchError(f"{model.spec} does not say how its images are normalised; give the model as --baseline")
    first = next(iter(model.module.inputs.values()))[0] if isinstance(model.module, OnnxModule) else None
    batch = first if isinstance(first, int) else BATCH
    data = load_data(
        gate.data, input=known[0], batch=batch, seed=gate.seed, validation_list=gate.validation_list, trains=False
    )
    if not data.labelled and baseline is None:
        raise GhostsearchError(f"{gate.data} has no labels; add --baseline, which the model then must agree with")
    task = task_for(gate.task, labelled=data.labelled, baseline=(baseline or model).module)
    gate.check_score(task.metric)
    if not task.maximize:
        raise GhostsearchError(f"--min-accuracy and --max-drop need a score where higher is better, not {task.metric}")
    meter, images = meter_over(model.module, data.test, task, torch_device("cpu"), progress=subjects.progress)
    return score_of(meter, task.metric, split="test", epochs=0, images=images, seed=gate.seed)
