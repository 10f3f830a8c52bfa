"""Scoring a model, and what training and scoring share: devices, modes and batches on their way to a device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.errors import GhostsearchError, TrainingError, first_line
from ghostsearch.graph.capture import batch_size, in_order, like, memory_order, modes_kept
from ghostsearch.machine import memory_kept
from ghostsearch.shown import Progress
from ghostsearch.surgery.norm_statistics import is_frozen
from ghostsearch.training.tasks.base import Meter, Task, score_value
from ghostsearch.training.tasks.classification import Classification


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    task: Task | None = None,
    device: str = "cpu",
    *,
    progress: Progress | None = None,
) -> float:
    """The task's score of a model over a loader, in eval mode without gradients; mode and device stay.

    Raises GhostsearchError when the device is absent or the loader empty, TrainingError when the score is not finite.
    """
    task = task or Classification()
    meter, _ = meter_over(model, loader, task, torch_device(device), progress=progress)
    return score_value(meter)


@memory_kept()
def meter_over(
    model: nn.Module, loader: Iterable[Any], task: Task, device: torch.device, *, progress: Progress | None = None
) -> tuple[Meter, int]:
    """The task's meter after a loader, and the images in it, as `evaluate` takes them; raises what that raises."""
    meter, total, images, order = task.meter(), length(loader) or 0, 0, None
    with torch.inference_mode(), placed(model, device), mode(model, training=False):
        for done, (inputs, target) in enumerate(loader, 1):
            inputs = to_device(inputs, device)
            order = order or memory_order(inputs, model, forward=lambda m, x: task.forward(m, x, None))
            inputs = to_device(inputs, device, order)
            target = task.target(inputs, to_device(target, device))
            meter.update(task.forward(model, inputs, target), target)
            images += batch_size(inputs)
            if progress:
                progress(done, total, "evaluating")
        if not math.isfinite(value := score_value(meter)):
            raise TrainingError(f"the {task.metric} is {'not a number' if math.isnan(value) else 'infinite'}")
    return meter, images


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or eval mode within, frozen BatchNorms always in the latter; every module's own mode restored after."""
    with modes_kept(model):
        model.train(training)
        for module in model.modules():
            if isinstance(module, _BatchNorm) and is_frozen(module):
                module.eval()
        yield


@contextmanager
def enough_values() -> Iterator[None]:
    """Within, raises TrainingError, which says the way out, where a BatchNorm gets one value of each channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "a batch of one image leaves a BatchNorm one value of each channel, from which it cannot learn; raise "
            "--batch-size, or give more training images"
        ) from None


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


def to_device(value: Any, device: torch.device, order: torch.memory_format = torch.channels_last) -> Any:
    """Tensors of a batch, however nested, on a device; image batches (N, C, H, W) in a memory order."""
    if isinstance(value, torch.Tensor):
        if value.ndim == 4 and value.is_floating_point():
            return in_order(value.to(device, memory_format=order, non_blocking=True), order)
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(v, device, order) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return like(value, [to_device(v, device, order) for v in value])
    return value


def torch_device(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one. Raises GhostsearchError when it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise GhostsearchError(f"cannot compute on {name!r}: {reason}; use cpu, cuda, cuda:1 or auto") from None
    if device.type == "meta":
        raise GhostsearchError("cannot compute on 'meta': it computes nothing; use cpu, cuda, cuda:1 or auto")
    return device


def length(loader: Iterable[Any]) -> int | None:
    """The number of a loader's batches; None where it is unknown."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None
