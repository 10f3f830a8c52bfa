"""Training and scoring: proxy epochs for the search, whole runs for baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ghostsearch.busy import breathe, working
from ghostsearch.data.load import Data
from ghostsearch.errors import GhostsearchError, TrainingError
from ghostsearch.graph.capture import batch_size
from ghostsearch.training.tasks.base import Meter, Task, score_value
from ghostsearch.training.tasks.classification import Classification

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of SGD with Nesterov momentum under one cycle of the learning rate."""

    lr: float = 0.05
    """The highest learning rate."""
    warmup: float = 0.1
    """Share of the steps in which the rate climbs linearly; then it falls to zero along a cosine."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """On weights of convolutions and linear layers; not on biases or BatchNorm."""
    clip_norm: float = 1.0
    """Longest gradient; 0 leaves gradients alone."""
    distillation: float = 0.5
    """Share of the distillation loss where there is a teacher; the labels' loss is the rest."""

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("lr", self.lr > 0, "above 0"),
            ("warmup", 0 <= self.warmup < 1, "at least 0 and below 1"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("clip_norm", self.clip_norm >= 0, "at least 0"),
            ("distillation", 0 <= self.distillation <= 1, "from 0 to 1"),
        ):
            if not (holds and math.isfinite(getattr(self, name))):
                raise GhostsearchError(f"{name} must be {rule}, got {getattr(self, name)}")

    def lr_share(self, step: int, steps: int) -> float:
        """Learning rate of a step (from 0) over the highest: up in a line, down along a cosine to zero."""
        climb = round(self.warmup * steps)
        if step < climb:
            return (step + 1) / (climb + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1, steps - climb)))


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training came to."""

    epoch: int
    """From 1."""
    steps: int
    """Steps taken so far."""
    loss: float
    """Mean over the epoch's batches."""
    lr: float
    """Learning rate at its end."""
    seconds: float
    """Since training began."""
    score: float | None = None
    """On the validation split; None where it was not asked for."""


@dataclass(frozen=True)
class TrainResult:
    """What a training came to; the model itself was trained in place."""

    epochs: float
    steps: int
    seconds: float
    device: str
    precision: str
    """Lightning's name, such as `32-true` or `bf16-mixed`."""
    history: tuple[Epoch, ...]


def train(
    model: nn.Module,
    data: Data,
    *,
    epochs: float = 1.0,
    task: Task | None = None,
    lr: float | None = None,
    recipe: Recipe | None = None,
    teacher: nn.Module | None = None,
    device: str = "cpu",
    seed: int = 0,
    steps: int | None = None,
    validate: bool = False,
    precision: str | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a model in place on the training split for `epochs` (parts allowed), at most `steps` batches.

    `lr` overrides the recipe's. With a teacher, its outputs are distilled at the recipe's share. The same
    seed gives the same weights on the same machine, whatever ran before. Precision by Lightning's names
    (`bf16-mixed`), by default mixed on a GPU and float32 elsewhere; channels_last.
    Raises TrainingError when the loss is not finite, GhostsearchError for bad arguments or an absent device.
    """
    from ghostsearch.training.loop import fit

    recipe = recipe or Recipe()
    if lr is not None:
        recipe = Recipe(**{**recipe.__dict__, "lr": lr})
    total = _count_steps(data, epochs, steps)
    started = time.perf_counter()
    with working():
        used, history = fit(
            model, data, task or Classification(), recipe, total=total, teacher=teacher,
            device=torch_device(device), seed=seed, validate=validate, precision=precision,
            progress=progress,
        )  # fmt: skip
    per_epoch = _length(data.train)
    return TrainResult(
        epochs=total / per_epoch if per_epoch else float(len(history)),
        steps=total,
        seconds=time.perf_counter() - started,
        device=device,
        precision=used,
        history=tuple(history),
    )


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    task: Task | None = None,
    device: str = "cpu",
    *,
    progress: Progress | None = None,
) -> float:
    """The task's score of a model over a loader, in eval mode without gradients; mode and device stay.

    Raises GhostsearchError when the device is absent or the loader empty, TrainingError when the score is
    NaN.
    """
    task = task or Classification()
    meter, _ = meter_over(model, loader, task, torch_device(device), progress=progress)
    return score_value(meter)


def meter_over(
    model: nn.Module, loader: Iterable[Any], task: Task, device: torch.device, *, progress: Progress | None = None
) -> tuple[Meter, int]:
    """The task's meter after a loader, and the images in it, as `evaluate` takes them; raises what that raises."""
    meter, total, images = task.meter(), _length(loader) or 0, 0
    with working(), torch.inference_mode(), placed(model, device), mode(model, training=False):
        for done, (inputs, target) in enumerate(loader, 1):
            breathe()
            inputs = to_device(inputs, device)
            target = task.target(inputs, to_device(target, device))
            meter.update(task.forward(model, inputs, target), target)
            images += batch_size(inputs)
            if progress:
                progress(done, total, "evaluating")
        if math.isnan(score_value(meter)):
            raise TrainingError(f"the {task.metric} is not a number")
    return meter, images


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or eval mode within; every module's own mode restored after."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model on a device within, back where it was after."""
    first = next(iter(model.parameters()), None)
    before = first.device if first is not None else device
    model.to(device)
    try:
        yield
    finally:
        model.to(before)


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors of a batch, however nested, on a device; image batches (N, C, H, W) in channels_last."""
    if isinstance(value, torch.Tensor):
        if value.ndim == 4 and value.is_floating_point():
            return value.to(device, memory_format=torch.channels_last, non_blocking=True)
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(v, device) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)([to_device(v, device) for v in value])
    return value


def torch_device(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one. Raises GhostsearchError when it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GhostsearchError(f"cannot train on {name!r}: {reason}; use cpu, cuda, cuda:1 or auto") from None
    if device.type == "meta":
        raise GhostsearchError("cannot train on 'meta': it computes nothing; use cpu, cuda, cuda:1 or auto")
    return device


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def _count_steps(data: Data, epochs: float, steps: int | None) -> int:
    if not (epochs > 0 and math.isfinite(epochs)):
        raise GhostsearchError(f"epochs must be above 0, got {epochs}")
    if steps is not None and steps < 1:
        raise GhostsearchError(f"steps must be at least 1, got {steps}")
    per_epoch = _length(data.train)
    if per_epoch is None:
        if steps is None:
            raise GhostsearchError(f"the training loader of {data.name} has no length; say how many steps to train")
        return steps
    if per_epoch == 0:
        raise GhostsearchError(f"the training split of {data.name} is empty")
    wanted = max(1, round(epochs * per_epoch))
    return min(wanted, steps) if steps else wanted
