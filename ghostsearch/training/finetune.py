"""After the search: train a chosen model to its best weights, in a run that may be stopped and gone on with."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ghostsearch.data.load import Data
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.training.checks import check_run
from ghostsearch.training.curves import draw_curves
from ghostsearch.training.tasks.agreement import Agreement
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.classification import Classification
from ghostsearch.training.train import Epoch, Recipe, evaluate, torch_device

if TYPE_CHECKING:
    from ghostsearch.models.load import LoadedModel

Progress = Callable[[int, int, str], None]

RECIPE = Recipe(lr=0.05, warmup=0.05)
RESULT_FILE, CURVES_FILE = "finetune.json", "finetune.svg"


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning came to; the model itself carries the best weights."""

    metric: str
    before: float
    """Validation score of the weights it started from."""
    best_epoch: int
    """Epoch of the weights that were kept; 0 where none was better than the start."""
    validation: float
    """Their validation score."""
    test: float
    """Their test score, read once."""
    epochs: int
    seconds: float
    """Wall seconds of this call."""
    device: str
    devices: int
    precision: str
    history: tuple[Epoch, ...]

    def __str__(self) -> str:
        """One sentence for people."""
        kept = (
            f"epoch {self.best_epoch} of {self.epochs} kept" if self.best_epoch else "no epoch was better, start kept"
        )
        return (
            f"validation {self.metric} {self.before:.4f} -> {self.validation:.4f} ({kept}), "
            f"test {self.metric} {self.test:.4f}, {self.seconds:.0f} s on {self.device} ({self.precision})"
        )


def finetune(
    model: nn.Module,
    data: Data,
    folder: Path,
    *,
    epochs: int,
    task: Task | None = None,
    recipe: Recipe = RECIPE,
    ema: float = 0.999,
    teacher: nn.Module | None = None,
    device: str = "auto",
    devices: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train a model in place for `epochs` and leave the weights in it that scored best on the validation split.

    Warm-up, then a cosine to zero; the weights' moving average (decay `ema`, 0 for none) is what is scored and kept;
    mixed precision on a GPU; `devices` GPUs (or CPU processes) by Lightning's DDP. `folder` takes the checkpoints and,
    where tensorboard is installed, its log: called again with the same arguments, a stopped run goes on from its
    last whole epoch. Raises GhostsearchError when the folder holds another run's checkpoints, TrainingError when the
    loss is not finite.
    """
    from ghostsearch.training.finetune_run import best_state, fit, kept_history

    task, started = task or Classification(), time.perf_counter()
    if epochs < 1:
        raise GhostsearchError(f"epochs must be at least 1, got {epochs}")
    if not 0 <= ema < 1:
        raise GhostsearchError(f"ema must be at least 0 and below 1, got {ema}")
    _claim(folder, {"epochs": epochs, "recipe": asdict(recipe), "ema": ema, "seed": seed, "data": data.name})
    place = torch_device(device)
    before = evaluate(model, data.validation, task, str(place))
    start = copy.deepcopy(model.state_dict())
    precision = fit(
        model, data, folder, epochs=epochs, task=task, recipe=recipe, ema=ema, teacher=teacher,
        device=place, devices=devices, seed=seed, progress=progress,
    )  # fmt: skip
    history = kept_history(folder)
    best = _best(history, task)
    improved = best.score is not None and (best.score > before if task.maximize else best.score < before)
    model.load_state_dict(best_state(folder) if improved else start)
    return FinetuneResult(
        metric=task.metric,
        before=before,
        best_epoch=best.epoch if improved else 0,
        validation=float(best.score) if improved and best.score is not None else before,
        test=evaluate(model, data.test, task, str(place)),
        epochs=epochs,
        seconds=time.perf_counter() - started,
        device=str(place),
        devices=devices,
        precision=precision,
        history=history,
    )


def finetune_directory(
    directory: Path,
    data_spec: str,
    out: Path,
    *,
    epochs: int,
    batch: int = 64,
    validation_list: Path | None = None,
    train_images: int | None = None,
    task: Task | None = None,
    lr: float | None = None,
    ema: float = 0.999,
    distill_from: LoadedModel | None = None,
    device: str = "auto",
    devices: int = 1,
    seed: int = 0,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Fine-tune a model directory that ghostsearch wrote; the best weights and the record of it go to `out`.

    `out` is a directory like the first one, with `finetune.json`, `finetune.svg` and `checkpoints/` beside the model.
    Raises GhostsearchError for a bad directory, data or teacher, or when `out` is the directory itself.
    """
    from ghostsearch.data.load import load_data
    from ghostsearch.export.saved import load_directory, save

    if out.resolve() == directory.resolve():
        raise GhostsearchError(f"{out} is the model's own directory; choose another --out, so that it stays")
    loaded = load_directory(directory, allow_code=allow_code)
    data = load_data(
        data_spec, input=loaded.input, batch=batch, seed=seed, validation_list=validation_list,
        train_images=train_images, progress=progress,
    )  # fmt: skip
    task = task or Classification()
    if not data.labelled:
        if distill_from is None:
            raise GhostsearchError(f"{data_spec} has no labels; add --distill-from, such as models/baseline")
        task = Agreement(task, distill_from.module)
    check_run(loaded.module, data, task)
    recipe = RECIPE if lr is None else replace(RECIPE, lr=lr)
    result = finetune(
        loaded.module, data, out / "checkpoints", epochs=epochs, task=task, recipe=recipe, ema=ema,
        teacher=distill_from.module if distill_from else None, device=device, devices=devices, seed=seed,
        progress=progress,
    )  # fmt: skip
    save(loaded.module, out, source=loaded, architecture=loaded.architecture, width_multiple=loaded.width_multiple)
    draw_curves(result.history, out / CURVES_FILE, metric=result.metric, title=f"fine-tuning {directory.name}")
    about: dict[str, Any] = {"model": str(directory), "data": data_spec, "broken_images": list(data.broken)}
    write_text(out / RESULT_FILE, json.dumps(about | asdict(result), indent=1) + "\n")
    return result


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Note the run's settings in its folder; raises GhostsearchError when another run's stand there."""
    file = folder / "settings.json"
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    if file.is_file():
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise GhostsearchError(f"{file}: not readable ({error}); choose another folder") from None
        wanted = json.loads(text)
        differing = [k for k in wanted if not isinstance(there, dict) or there.get(k) != wanted[k]]
        if differing:
            raise GhostsearchError(
                f"{folder} holds a run with another {', '.join(differing)}; repeat its settings to go on, or choose "
                "another folder"
            )
        return
    write_text(file, text)


def _best(history: tuple[Epoch, ...], task: Task) -> Epoch:
    """The first of the best-scored epochs, as the checkpoint keeps it."""
    sign = 1 if task.maximize else -1
    return max(history, key=lambda e: (sign * float(e.score if e.score is not None else "nan"), -e.epoch))
