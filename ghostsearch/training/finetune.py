"""After the search: train a chosen model to its best weights, in a run that may be stopped and resumed."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostsearch.data.load import Data, load_data
from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import check_writable, dated_directory, read_json, write_text
from ghostsearch.graph.detector import is_detector
from ghostsearch.models.input import InputSpec
from ghostsearch.models.options import ModelOptions
from ghostsearch.models.stored import read_checkpoint, weights_digest, write_checkpoint
from ghostsearch.options import without_effect
from ghostsearch.shown import Progress
from ghostsearch.surgery.saved import ARCHITECTURE_FILE, WEIGHTS_FILE, load_directory, open_model, save
from ghostsearch.training.checks import check_run, check_teacher
from ghostsearch.training.curves import draw_curves
from ghostsearch.training.evaluate import evaluate, length
from ghostsearch.training.loop import Training
from ghostsearch.training.recipe import Distillation, Epoch, Recipe, Tuning
from ghostsearch.training.tasks.agreement import Agreement
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.classification import Classification
from ghostsearch.training.tasks.table import load_task
from ghostsearch.yaml_files import RUN

RESULT_FILE, CHECKPOINTS = "finetune.json", "checkpoints"
SETTINGS_FILE, LAST, BEST = "settings.json", "last.ckpt", "best.ckpt"
ELSEWHERE = {"compute_device", "distill_from", "distill_weights"}
"""Options that a resumed run may change; the teacher's weights are known by themselves."""


@dataclass(frozen=True)
class FinetuneResult:
    """The result of a fine-tuning; the model itself holds the best weights."""

    metric: str
    before: float
    """Validation score of the weights it started from."""
    best_epoch: int
    """Epoch of the weights that were kept; 0 where none was better than the start."""
    validation: float
    """Their validation score."""
    test: float
    """Their test score, read once."""
    epochs: float
    seconds: float
    """Wall seconds of this call."""
    device: str
    processes: int
    precision: str
    history: tuple[Epoch, ...]

    def __str__(self) -> str:
        """One sentence for people."""
        kept = (
            f"epoch {self.best_epoch} of {self.epochs:g} kept" if self.best_epoch else "no epoch was better, start kept"
        )
        return (
            f"validation {self.metric} {self.before:.4f} -> {self.validation:.4f} ({kept}), "
            f"test {self.metric} {self.test:.4f}, {self.seconds:.0f} s on {self.device} ({self.precision})"
        )


def finetune(
    model: nn.Module,
    data: Data,
    folder: Path,
    recipe: Tuning,
    *,
    task: Task | None = None,
    teacher: nn.Module | None = None,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train a model in place by a recipe and leave the weights in it that scored best on the validation split.

    The weights' moving average is what is scored and kept, where the recipe has one. `folder` takes the checkpoints
    and, where tensorboard is installed, its log: called again with the same arguments, a stopped run resumes after
    its last whole epoch; the model is left as it was. Raises GhostsearchError when the folder holds another run's
    checkpoints, and as `train` does.
    """
    task, started = task or Classification(), time.perf_counter()
    training = Training(model, data, recipe, task, teacher, recipe.processes)
    batches = [length(split) for split in (data.train, data.validation, data.test)]
    shapes = [[name, *value.shape] for name, value in model.state_dict().items()]
    own = {
        "shapes": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16], "batches": batches,
        "starting weights": weights_digest(model),
    }  # fmt: skip
    known = {"set of images": dict(data.fingerprint)} if data.fingerprint else {}
    claim(folder, {**_settings(recipe, data.name), **own, **known, "metric": task.metric})
    device, start = str(training.device), copy.deepcopy(model.state_dict())
    before = evaluate(model, data.validation, task, device)
    fabric = training.fabric()
    try:
        if recipe.processes == 1:
            _run(fabric, training, folder, progress)
        else:
            with _shared_by_name():
                fabric.launch(partial(_run, training=training, folder=folder))
    except BaseException:
        # By its starting weights the run is known again.
        model.load_state_dict(start)
        raise
    history = tuple(Epoch(**epoch) for epoch in read_checkpoint(folder / LAST)["history"])
    best = _best(history, task)
    improved = best.score is not None and (best.score > before if task.maximize else best.score < before)
    model.load_state_dict(read_checkpoint(folder / BEST) if improved else start)
    return FinetuneResult(
        metric=task.metric,
        before=before,
        best_epoch=best.epoch if improved else 0,
        validation=float(best.score) if improved and best.score is not None else before,
        test=evaluate(model, data.test, task, device),
        epochs=recipe.epochs,
        seconds=time.perf_counter() - started,
        device=device,
        processes=recipe.processes,
        precision=training.precision,
        history=history,
    )


def finetune_directory(
    directory: Path,
    images: ImageOptions,
    out: Path,
    recipe: Distillation,
    *,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Fine-tune a model directory that ghostsearch wrote; the best weights and the record of it go to `out`.

    `out` is a directory like the first one, with `finetune.json`, `finetune.svg` and `checkpoints/` beside the model.
    Raises GhostsearchError for a bad directory, data or teacher, or when `out` holds another model or a study.
    """
    if out.resolve() == directory.resolve():
        raise GhostsearchError(f"{out} is the model's own directory; choose another --out, so that it stays")
    if recipe.distill_weights and not recipe.distill_from:
        raise without_effect("distill_weights", "--distill-from")
    check_writable(out)
    check_untaken(out)
    teacher = None
    if recipe.distill_from:
        teacher = open_model(
            recipe.distill_from, ModelOptions(weights=recipe.distill_weights), allow_code=allow_code
        ).module
    loaded = load_directory(directory, allow_code=allow_code)
    data = load_images(images, loaded.input, recipe, progress)
    task = load_task(images.task)
    if not data.labelled:
        if teacher is None:
            raise GhostsearchError(f"{images.data} has no labels; add --distill-from, such as models/baseline")
        task = Agreement(task, teacher)
    check_run(loaded.module, data, task)
    if teacher is not None and recipe.distillation and not is_detector(loaded.module):
        check_teacher(teacher, loaded.module, data)
    claim(out / CHECKPOINTS, run_of(str(directory), images) | taught_by(recipe))
    result = finetune(loaded.module, data, out / CHECKPOINTS, recipe, task=task, teacher=teacher, progress=progress)
    save(loaded.module, out, source=loaded, architecture=loaded.architecture, width_multiple=loaded.width_multiple)
    about = {"model": str(directory), "data": images.data, "broken_images": list(data.broken)}
    write_result(result, out / RESULT_FILE, about, title=f"fine-tuning {directory.name}")
    return result


def load_images(images: ImageOptions, spec: InputSpec, recipe: Recipe, progress: Progress | None) -> Data:
    """The data that options name, for a model's input and a recipe; raises GhostsearchError as `load_data` does."""
    return load_data(
        images.data, input=spec, batch=recipe.batch_size, seed=recipe.seed, train_images=images.train_images,
        validation_list=images.validation_list, progress=progress,
    )  # fmt: skip


def write_result(result: FinetuneResult, file: Path, about: dict[str, Any], *, title: str) -> None:
    """Write what a training came to, and `about` it, as JSON, and its curves as SVG under the same name."""
    draw_curves(result.history, file.with_suffix(".svg"), metric=result.metric, title=title)
    write_text(file, json.dumps(about | asdict(result), indent=1) + "\n")


def _run(fabric: Any, training: Training, folder: Path, progress: Progress | None = None) -> None:
    """The epochs that are left, each with its checkpoint; in a process of its own, on a copy of the model."""
    if fabric.world_size > 1:
        # Sent over, its tensors are shared with the other processes.
        training = Training(
            copy.deepcopy(training.model), training.data, training.recipe, training.task, training.teacher,
            training.processes,
        )  # fmt: skip
    writer = _log_writer(folder) if fabric.is_global_zero else None
    with training.under_way(fabric):
        if (folder / LAST).exists():
            training.load_state(read_checkpoint(folder / LAST))
        while not training.finished:
            training.epoch(progress, writer.add_scalar if writer else None)
            if fabric.is_global_zero:
                score = training.score()
                if writer:
                    writer.add_scalar("score", score, training.step)
                if _best(tuple(training.history), training.task) is training.history[-1]:
                    write_checkpoint(training.kept.state_dict(), folder / BEST)
                # Last, so that a stop in between repeats the epoch.
                write_checkpoint(training.state(), folder / LAST)
            fabric.barrier()
    if writer:
        writer.close()


@contextmanager
def _shared_by_name() -> Iterator[None]:
    """Tensors go to other processes by file name within: by descriptor, two views of one storage cannot be sent."""
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    try:
        yield
    finally:
        torch.multiprocessing.set_sharing_strategy(before)


def _log_writer(folder: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


def _settings(recipe: Tuning, data: str) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude=ELSEWHERE) | {"data": data}


def run_of(
    model: str, images: ImageOptions, *, classes: int | None = None, size: int | str | None = None
) -> dict[str, Any]:
    """What a command's run is known by besides its recipe and data: the model as it is made, the choice of images.

    A directory is known by its weights, so that it may be moved.
    """
    made = {"model": _known_by(model), "classes": classes, "size": size}
    return made | images.model_dump(mode="json", exclude={"data"})


def taught_by(recipe: Tuning) -> dict[str, str | None]:
    """What the teacher of a command's run is known by, which may be moved too; nothing is known by no teacher."""
    if not isinstance(recipe, Distillation) or not recipe.distill_from:
        return {"teacher": None}
    weights = recipe.distill_weights
    given = f" {_digest(Path(weights)) if Path(weights).is_file() else weights}" if weights else ""
    return {"teacher": _known_by(recipe.distill_from) + given}


def _known_by(model: str) -> str:
    file = Path(model) / WEIGHTS_FILE
    return _digest(file) if file.is_file() else model


def _digest(file: Path) -> str:
    return f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note some settings of the run in its folder; raises GhostsearchError when another run's stand there."""
    there = _claimed(folder) if (folder / SETTINGS_FILE).is_file() else {}
    if differing := [name for name, value in settings.items() if name in there and there[name] != value]:
        raise GhostsearchError(
            f"{folder} holds a run with another {', '.join(differing)}; repeat its settings to resume, or choose "
            "another folder"
        )
    if settings.keys() - there.keys():
        write_text(folder / SETTINGS_FILE, json.dumps({**there, **settings}, indent=1, sort_keys=True) + "\n")


def check_untaken(out: Path) -> None:
    """Raise GhostsearchError where a directory holds what a training would overwrite: a study, or no training's model.

    Of a training's own directory the settings decide (`claim`).
    """
    if (out / RUN).exists():
        raise GhostsearchError(f"{out} holds a study, which a training does not write into; choose another --out")
    if (out / ARCHITECTURE_FILE).exists() and not (out / CHECKPOINTS / SETTINGS_FILE).is_file():
        raise GhostsearchError(f"{out} holds another model, which the training would overwrite; choose another --out")


def placed(
    model: str, images: ImageOptions, recipe: Tuning, *, what: str, classes: int | None = None,
    size: int | str | None = None,
) -> Path:  # fmt: skip
    """The default directory of a training: this model's newest one here that it would resume, else a new one."""

    wanted = run_of(model, images, classes=classes, size=size) | taught_by(recipe) | _settings(recipe, images.data)

    def holds(folder: Path) -> bool:
        with suppress(GhostsearchError):
            there = _claimed(folder / CHECKPOINTS)
            # One of before teachers were noted had none, as far as anyone knows.
            return all(there.get(name) == value for name, value in wanted.items())
        return False

    return dated_directory(model, holds, what=what)


def _claimed(folder: Path) -> dict[str, Any]:
    """The settings of the run of a folder's checkpoints; raises GhostsearchError where unreadable."""
    there = read_json(folder / SETTINGS_FILE)
    if not isinstance(there, dict):
        raise GhostsearchError(f"{folder / SETTINGS_FILE} holds no settings; choose another folder")
    return there


def _best(history: tuple[Epoch, ...], task: Task) -> Epoch:
    """The first of the best-scored epochs, as the checkpoint keeps it."""
    sign = 1 if task.maximize else -1
    return max(history, key=lambda e: (sign * float(e.score if e.score is not None else "nan"), -e.epoch))
