"""Training: one loop on Lightning Fabric for proxy epochs, fine-tuning and training from random weights."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from ghostsearch.data.load import Data
from ghostsearch.data.user_loaders import generators_of
from ghostsearch.errors import GhostsearchError, TrainingError
from ghostsearch.graph.capture import memory_order, moved, to_order
from ghostsearch.machine import memory_kept
from ghostsearch.models.stored import read_checkpoint, write_checkpoint
from ghostsearch.shown import Progress, quiet
from ghostsearch.training.average import moving_average
from ghostsearch.training.evaluate import enough_values, evaluate, length, mode, placed, to_device, torch_device
from ghostsearch.training.recipe import Epoch, Recipe, TrainResult
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.classification import Classification

CHECK_EVERY = 16
"""Steps between checks of the loss on a GPU, each of which waits for the device."""


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the epochs trained so far, and whether the training shall stop."""

    file: Path
    asked: Callable[[], bool]
    """Whether to stop after the epoch at work."""


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    task: Task | None = None,
    teacher: nn.Module | None = None,
    progress: Progress | None = None,
    kept: Checkpoint | None = None,
) -> TrainResult:
    """Train a model in place on the training split by a recipe; its epochs may be fractional.

    With a teacher, its outputs are distilled at the recipe's share. The same seed gives the same weights on the same
    machine, whatever ran before; the caller's random state, the model's device and modes stay. The `kept` file is
    written after each epoch; the same call goes on from it, and the caller removes it.
    Raises KeyboardInterrupt after an epoch where `kept` asks to stop, TrainingError when the loss is not finite,
    GhostsearchError for an absent device or an empty split.
    """
    training, started = Training(model, data, recipe, task or Classification(), teacher), time.perf_counter()
    with training.under_way():
        if kept and kept.file.exists():
            training.load_state(read_checkpoint(kept.file))
        while not training.finished:
            training.epoch(progress)
            if kept:
                write_checkpoint(training.state(), kept.file)
                if kept.asked():
                    raise KeyboardInterrupt
        training.keep_average()
    per_epoch = length(data.train)
    return TrainResult(
        epochs=training.total / per_epoch if per_epoch else float(len(training.history)),
        steps=training.total,
        seconds=time.perf_counter() - started,
        device=str(training.device),
        precision=training.precision,
        history=tuple(training.history),
    )


class Training:
    """A training by a recipe, one epoch at a time; resumed from its `state` it ends at the same weights.

    `processes` share the steps of an epoch, each by its own batches.
    """

    def __init__(
        self, model: nn.Module, data: Data, recipe: Recipe, task: Task, teacher: nn.Module | None, processes: int = 1
    ) -> None:
        """Raises GhostsearchError for an absent device, an empty split, or a model of which nothing can be trained."""
        self.model, self.data, self.recipe, self.task, self.processes = model, data, recipe, task, processes
        self.teacher = teacher if recipe.distillation else None
        self.device = torch_device(recipe.compute_device)
        automatic = recipe.train_precision == "auto"
        self.precision = best_precision(self.device) if automatic else str(recipe.train_precision)
        if self.precision == "16-mixed" and self.device.type == "cpu":
            raise GhostsearchError("--train-precision 16-mixed needs a GPU; give bf16-mixed or 32-true")
        self.total = count_steps(data, recipe, processes)
        self.optimizer = sgd(model, recipe)
        self.average: AveragedModel | None = None
        self._order: torch.memory_format | None = None
        self.history: list[Epoch] = []
        self.step = 0
        self._started = self._told = 0.0

    @property
    def finished(self) -> bool:
        """Whether every step has been taken."""
        return self.step >= self.total

    def fabric(self) -> Any:
        """Lightning's Fabric for device, processes and precision; raises GhostsearchError where GPUs are too few."""
        from lightning.fabric import Fabric

        several, kind = self.processes > 1, self.device.type
        if several and kind == "cuda" and torch.cuda.device_count() < self.processes:
            raise GhostsearchError(f"{self.processes} GPUs asked for, this machine has {torch.cuda.device_count()}")
        one: Any = [self.device.index or 0] if kind == "cuda" else 1
        # Which of its two packages speaks depends on what was imported last.
        with quiet("lightning.fabric.utilities.rank_zero"), quiet("lightning.pytorch.utilities.rank_zero"):
            return Fabric(
                accelerator=kind, devices=self.processes if several else one, precision=self.precision,  # type: ignore[arg-type]
                strategy="ddp_spawn" if several else "auto",
            )  # fmt: skip

    @contextmanager
    def under_way(self, fabric: Any = None) -> Iterator[None]:
        """Model and teacher on the device and in their modes within; devices, modes and random state restored after."""
        fabric = fabric or self.fabric()
        self._fabric, device = fabric, fabric.device
        self._started = time.perf_counter()
        with memory_kept(), own_randomness(), placed(self.model, device), mode(self.model, training=True):
            to_order(self.model, torch.channels_last)
            if self.recipe.ema and self.average is None:
                self.average = moving_average(self.model, self.recipe.ema)
            wrapped, self._stepper = fabric.setup(self.model, self.optimizer)
            self._forward, self._rank = wrapped, fabric.global_rank
            self._loader = shared_loader(self.data.train, fabric, self.recipe.seed)
            try:
                if self.teacher is None:
                    yield
                else:
                    with placed(self.teacher, device), mode(self.teacher, training=False):
                        yield
            finally:
                to_order(self.model, torch.contiguous_format)

    def epoch(self, progress: Progress | None = None, log: Callable[[str, float, int], None] | None = None) -> Epoch:
        """One pass over the training split, or what is left of the steps; seeded by the epoch's number alone.

        Raises TrainingError when the loss is not finite, GhostsearchError for an empty split.
        """
        seed = int(np.random.SeedSequence((self.recipe.seed, len(self.history), self._rank)).generate_state(1)[0])
        seed_everything(seed, self._loader, epoch=len(self.history))
        total, batches, lr = torch.zeros((), device=self._fabric.device), 0, 0.0
        for batch in self._loader:
            lr = self._set_rate()
            batch = to_device(batch, self._fabric.device)
            self._order = self._order or self._agree_on_order(batch[0])
            total = total + self._step(*to_device(batch, self._fabric.device, self._order))
            batches, self.step = batches + 1, self.step + 1
            if self._fabric.device.type == "cpu" or self.finished or batches % CHECK_EVERY == 0:
                self._look(float(total) / batches, progress)
                if log and (self.finished or batches % CHECK_EVERY == 0):
                    log("loss", float(total) / batches, self.step)
                    log("lr", lr, self.step)
            if self.finished:
                break
        if not batches:
            raise GhostsearchError(f"the training split of {self.data.name} is empty")
        mean = float(total) / batches
        self._look(mean, progress)
        lr = self.recipe.lr * self.recipe.lr_share(self.step, self.total)
        seconds = time.perf_counter() - self._started
        self.history.append(Epoch(len(self.history) + 1, self.step, mean, lr, seconds))
        return self.history[-1]

    def _agree_on_order(self, images: Any) -> torch.memory_format:
        """The memory order in which model and teacher run, which the weights get too."""
        models = [self._forward, *([] if self.teacher is None else [self.teacher])]
        order = memory_order(images, *models, forward=lambda model, x: self.task.forward(model, x, None))
        for model in (self.model, self.kept):
            to_order(model, order)
        return order

    def score(self) -> float:
        """The validation score of the weights that would be kept, noted with the last epoch."""
        value = evaluate(self.kept, self.data.validation, self.task, str(self._fabric.device))
        self.history[-1] = replace(self.history[-1], score=value)
        return value

    @property
    def kept(self) -> nn.Module:
        """The module whose weights are scored and kept: their moving average where the recipe asks for one."""
        return self.model if self.average is None else self.average.module

    def keep_average(self) -> None:
        """Give the model the averaged weights, where there are any."""
        self.model.load_state_dict(self.kept.state_dict())

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs: tensors, numbers and names."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
            "step": self.step,
            "history": [vars(epoch) for epoch in self.history],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from a `state`, inside `under_way`."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._fabric.strategy.precision.load_state_dict(state["precision"])
        self.step, self.history = state["step"], [Epoch(**epoch) for epoch in state["history"]]

    def _set_rate(self) -> float:
        rate = self.recipe.lr * self.recipe.lr_share(self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _step(self, images: Any, target: Any) -> Tensor:
        """One step of the optimizer; the batch's loss, detached."""
        target = self.task.target(images, target)
        with enough_values():
            output = self.task.forward(self._forward, images, target)
        loss = self.task.loss(output, target)
        if self.teacher is not None:
            with torch.no_grad(), self._fabric.autocast():
                given = self.task.forward(self.teacher, images, target)
            wanted = moved(given, str(self._fabric.device), torch.float32)  # as the model's own output is
            share = self.recipe.distillation
            loss = (1 - share) * loss + share * self.task.distillation_loss(output, wanted)
        self.optimizer.zero_grad()
        self._fabric.backward(loss)
        if self.recipe.clip_norm:
            self._fabric.clip_gradients(
                self._forward, self._stepper, max_norm=self.recipe.clip_norm, error_if_nonfinite=False
            )
        self._stepper.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach()

    def _look(self, mean: float, progress: Progress | None) -> None:
        # Once a step's loss is not finite the sum never is again: no bad step escapes between two looks.
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss is not finite by step {self.step} of {self.total}; lower the learning rate (--lr), "
                "or look for images and targets that are not finite"
            )
        now = time.perf_counter()
        if progress and (self.finished or now - self._told > 0.1):
            self._told = now
            progress(self.step, self.total, f"loss {mean:.3f}")


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Nesterov SGD over the parameters that are not frozen; no decay of biases and norms.

    Raises GhostsearchError when all of them are frozen.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise GhostsearchError("every parameter of the model is frozen: there is nothing to train")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]], lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )


def count_steps(data: Data, recipe: Recipe, processes: int = 1) -> int:
    """Steps of a whole training, which `processes` take side by side. Raises GhostsearchError for an
    empty split, a loader without length where the recipe has no `steps`, or one that several processes cannot share.
    """
    per_epoch, loader = length(data.train), data.train
    if per_epoch == 0:
        raise GhostsearchError(f"the training split of {data.name} is empty")
    if per_epoch is None:
        if recipe.steps is None:
            raise GhostsearchError(
                f"the training loader of {data.name} has no length; say how many steps to train "
                "(Recipe.steps), or give its data set a length"
            )
        return recipe.steps
    if processes > 1:
        if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, RandomSampler):
            raise GhostsearchError("several processes share only a torch DataLoader with shuffle=True for training")
        images, batch = len(loader.dataset) / processes, loader.batch_size or 1  # type: ignore[arg-type]
        per_epoch = int(images) // batch if loader.drop_last else math.ceil(math.ceil(images) / batch)
    wanted = max(1, round(recipe.epochs * per_epoch))
    return min(wanted, recipe.steps) if recipe.steps else wanted


def shared_loader(loader: Any, fabric: Any, seed: int) -> Iterable[Any]:
    """The loader, or this process's share of it, shuffled by a seed."""
    if fabric.world_size == 1:
        return loader
    drop, rank = loader.drop_last, fabric.global_rank
    sampler: Any = DistributedSampler(loader.dataset, fabric.world_size, rank, seed=seed, drop_last=drop)
    return DataLoader(
        loader.dataset, loader.batch_size, sampler=sampler, collate_fn=loader.collate_fn, drop_last=drop,
        num_workers=loader.num_workers, worker_init_fn=loader.worker_init_fn, generator=torch.Generator(),
    )  # fmt: skip


def seed_everything(seed: int, loader: Iterable[Any], *, epoch: int) -> None:
    """Start all randomness of an epoch from a seed, that of the loader and its samplers included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for generator in generators_of(loader):
        generator.manual_seed(seed)
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, DistributedSampler):
        loader.sampler.set_epoch(epoch)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Whatever draws random numbers within leaves the generators of Python, numpy and torch as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def best_precision(device: torch.device) -> str:
    """Mixed precision where the device has it: bf16, else fp16, on a GPU; float32 elsewhere."""
    if device.type != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
