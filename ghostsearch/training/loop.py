"""How a training runs inside Lightning's Trainer; imported late, since importing Lightning takes seconds."""

from __future__ import annotations

import logging
import math
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ghostsearch.busy import breathe
from ghostsearch.data.load import Data
from ghostsearch.errors import GhostsearchError, TrainingError
from ghostsearch.training.tasks.base import Meter, Task, score_value
from ghostsearch.training.train import Epoch, Recipe, mode, placed, to_device

Progress = Callable[[int, int, str], None]

CHECK_EVERY = 16
"""Steps between looks at the loss on a GPU, where each look waits for the device."""


class Fitting(pl.LightningModule):
    """A model under training for a task by a recipe."""

    def __init__(
        self, model: nn.Module, task: Task, recipe: Recipe, total: int, teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model, self.task, self.recipe, self.total = model, task, recipe, total
        # In a tuple, so that the teacher is no submodule: it is neither trained nor saved.
        self.teachers = (teacher,) if teacher is not None and recipe.distillation else ()
        self.meter: Meter | None = None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Lightning's hook; channels_last is set on the way."""
        return to_device(batch, device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        """The loss of a batch: the labels' and, with a teacher, the distillation loss at its share."""
        breathe()
        images, target = batch
        target = self.task.target(images, target)
        output = self.task.forward(self.model, images, target)
        loss = self.task.loss(output, target)
        for teacher in self.teachers:
            with torch.no_grad():
                wanted = self.task.forward(teacher, images, target)
            share = self.recipe.distillation
            loss = (1 - share) * loss + share * self.task.distillation_loss(output, wanted)
        if self.trainer.loggers:
            self.log("loss", loss)
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start a fresh score."""
        self.meter = self.task.meter()

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Add a batch to the score."""
        images, target = batch
        assert self.meter is not None
        target = self.task.target(images, target)
        self.meter.update(self.task.forward(self.model, images, target), target)

    def on_validation_epoch_end(self) -> None:
        """Hand the score to Lightning, where callbacks find it."""
        assert self.meter is not None
        self.log("score", score_value(self.meter), sync_dist=self.trainer.world_size > 1)

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov momentum; the recipe's learning rate, step by step."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if not trained:
            raise GhostsearchError("every parameter of the model is frozen: there is nothing to train")
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(
            [g for g in groups if g["params"]], lr=self.recipe.lr, momentum=self.recipe.momentum,
            nesterov=self.recipe.momentum > 0,
        )  # fmt: skip
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.recipe.lr_share(step, self.total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Watch(pl.Callback):
    """Keeps the history, tells progress and stops on a loss that is not finite."""

    def __init__(self, total: int, progress: Progress | None = None) -> None:
        self.total, self.progress = total, progress
        self.history: list[Epoch] = []
        self.started = time.perf_counter()
        self._sum: Tensor | float = 0.0
        self._batches, self._told = 0, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Begin the epoch's mean."""
        self._sum, self._batches = 0.0, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Add the loss; look at it now and then."""
        self._sum = self._sum + outputs["loss"].detach()
        self._batches += 1
        last = trainer.global_step >= self.total
        if pl_module.device.type == "cpu" or last or self._batches % CHECK_EVERY == 0:
            self._look(trainer.global_step, last)

    def _look(self, step: int, last: bool) -> None:
        # Once a step's loss is not finite the sum never is again: no bad step escapes between two looks.
        mean = float(self._sum) / self._batches
        if not math.isfinite(mean):
            raise TrainingError(f"the loss is not finite by step {step} of {self.total}; lower the learning rate")
        now = time.perf_counter()
        if self.progress and (last or now - self._told > 0.1):
            self._told = now
            self.progress(step, self.total, f"loss {mean:.3f}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Note what the epoch came to."""
        self._look(trainer.global_step, False)
        score = trainer.callback_metrics.get("score")
        self.history.append(
            Epoch(
                epoch=trainer.current_epoch + 1,
                steps=trainer.global_step,
                loss=float(self._sum) / self._batches,
                lr=trainer.optimizers[0].param_groups[0]["lr"],
                seconds=time.perf_counter() - self.started,
                score=None if score is None else float(score),
            )
        )


def fit(
    model: nn.Module,
    data: Data,
    task: Task,
    recipe: Recipe,
    *,
    total: int,
    teacher: nn.Module | None,
    device: torch.device,
    seed: int,
    validate: bool,
    precision: str | None = None,
    progress: Progress | None,
) -> tuple[str, list[Epoch]]:
    """Train `model` in place for `total` steps; the precision used and the epochs' history."""
    watch = Watch(total, progress)
    chosen: Any = precision or best_precision(device)
    with contained(model, teacher, device, seed):
        reseed(data.train, seed)
        trainer = pl.Trainer(
            **placement(device), precision=chosen, max_steps=total, max_epochs=-1, callbacks=[watch],
            gradient_clip_val=recipe.clip_norm or None, limit_val_batches=1.0 if validate else 0,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, log_every_n_steps=0,
        )  # fmt: skip
        fitting = Fitting(model, task, recipe, total, teacher)
        run(trainer, fitting, data.train, data.validation if validate else None)
    return chosen, watch.history


def run(
    trainer: pl.Trainer,
    fitting: Fitting,
    loader: Iterable[Any] | None,
    validation: Iterable[Any] | None,
    **options: Any,
) -> None:
    """`trainer.fit`, but Ctrl-C arrives as KeyboardInterrupt.

    Lightning would end the whole process by SystemExit and leave SIGINT ignored.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(fitting, loader, validation, **options)
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


@contextmanager
def contained(model: nn.Module, teacher: nn.Module | None, device: torch.device, seed: int) -> Iterator[None]:
    """Quiet, seeded, model and teacher on the device in their modes; afterwards everything is as before."""
    channels_last = {"memory_format": torch.channels_last}
    with quiet(), own_randomness(), placed(model, device), mode(model, training=True):
        pl.seed_everything(seed, verbose=False)
        model.to(**channels_last)
        try:
            if teacher is None:
                yield
            else:
                with placed(teacher, device), mode(teacher, training=False):
                    yield
        finally:
            model.to(memory_format=torch.contiguous_format)


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


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning's advice and banners left out within; its errors stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def reseed(loader: Iterable[Any], seed: int) -> None:
    """Put a loader's shuffling back to where the seed starts it, whatever it has given out before."""
    if isinstance(loader, DataLoader) and loader.generator is not None:
        loader.generator.manual_seed(seed)


def best_precision(device: torch.device) -> Any:
    """Mixed precision where the device has it: bf16, else fp16, on a GPU; float32 elsewhere."""
    if device.type != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def placement(device: torch.device) -> dict[str, Any]:
    """The Trainer's arguments for one device."""
    if device.type == "cuda":
        return {"accelerator": "gpu", "devices": [device.index or 0]}
    return {"accelerator": device.type, "devices": 1}
