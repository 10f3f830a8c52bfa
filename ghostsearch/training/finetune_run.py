"""How a fine-tuning runs inside Lightning: moving average, checkpoints, several devices. Imported late."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from ghostsearch.data.load import Data
from ghostsearch.errors import GhostsearchError
from ghostsearch.training.loop import Fitting, Watch, best_precision, contained, placement, run
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.train import Epoch, Recipe

LAST, BEST = "last", "best"


class MovingAverage(WeightAveraging):
    """Exponential moving average whose decay climbs to `decay`, so that short runs forget the start too."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        super().__init__(multi_avg_fn=self.average)

    def average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor) -> None:
        """One update in place; after n of them the decay is min(decay, (1 + n) / (10 + n))."""
        n = float(count)
        get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))(averaged, current, count)


class KeptWatch(Watch):
    """A Watch whose history is part of every checkpoint, so that a resumed run has all of it."""

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: what goes into a checkpoint."""
        return {"history": [asdict(epoch) for epoch in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook: what comes out of one."""
        self.history = [Epoch(**epoch) for epoch in state_dict["history"]]

    def __getstate__(self) -> dict[str, Any]:
        # A progress bar stays in the process that drew it.
        return self.__dict__ | {"progress": None}


class SharedFitting(Fitting):
    """A Fitting whose epochs depend on seed and number alone, resumed or not, and are dealt out to all processes."""

    def __init__(self, data: Data, seed: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.data, self.seed = data, seed
        self.loader: DataLoader[Any] | None = None

    def train_dataloader(self) -> Any:
        """The data's loader with a sampler of ours in place of shuffling; other samplers stay."""
        loader = self.data.train
        if not (isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler)):
            return loader
        sampler: Any = DistributedSampler(
            loader.dataset,
            self.trainer.world_size,
            self.trainer.global_rank,
            seed=self.seed,
            drop_last=loader.drop_last,
        )
        self.loader = DataLoader(
            loader.dataset, loader.batch_size, sampler=sampler, collate_fn=loader.collate_fn,
            drop_last=loader.drop_last, num_workers=loader.num_workers, worker_init_fn=loader.worker_init_fn,
            generator=torch.Generator().manual_seed(self._epoch_seed()),
        )  # fmt: skip
        return self.loader

    def on_train_epoch_start(self) -> None:
        """Seed the epoch. The iterator of a run's first epoch exists by now, those of the others do not."""
        pl.seed_everything(self._epoch_seed(), verbose=False)
        if self.loader is not None and self.loader.generator is not None:
            self.loader.generator.manual_seed(self._epoch_seed())

    def _epoch_seed(self) -> int:
        words = (self.seed, self.trainer.current_epoch, self.trainer.global_rank)
        return int(np.random.SeedSequence(words).generate_state(1)[0])


def fit(
    model: nn.Module,
    data: Data,
    folder: Path,
    *,
    epochs: int,
    task: Task,
    recipe: Recipe,
    ema: float,
    teacher: nn.Module | None,
    device: torch.device,
    devices: int,
    seed: int,
    progress: Callable[[int, int, str], None] | None,
) -> str:
    """Train for `epochs`, or go on to there, with checkpoints in `folder`; the precision used."""
    steps = _steps(data, devices)
    watch = KeptWatch(epochs * steps, progress)
    callbacks: list[pl.Callback] = [watch, *_checkpoints(folder, task)]
    if ema:
        callbacks.insert(0, MovingAverage(ema))
    precision = best_precision(device)
    spread = placement(device) if devices == 1 else _several(device, devices)
    with contained(model, teacher, device if devices == 1 else torch.device("cpu"), seed):
        trainer = pl.Trainer(
            **spread, precision=precision, max_epochs=epochs, callbacks=callbacks, logger=_logger(folder),
            gradient_clip_val=recipe.clip_norm or None, num_sanity_val_steps=0, log_every_n_steps=max(1, steps // 10),
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        )  # fmt: skip
        fitting = SharedFitting(data, seed, model, task, recipe, epochs * steps, teacher)
        last = folder / f"{LAST}.ckpt"
        with shared_by_name():
            resumed = str(last) if last.exists() else None
            run(trainer, fitting, None, data.validation, ckpt_path=resumed, weights_only=True)
    return str(precision)


@contextmanager
def shared_by_name() -> Iterator[None]:
    """Tensors go to other processes by file name within: by descriptor, two views of one storage cannot be sent."""
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    try:
        yield
    finally:
        torch.multiprocessing.set_sharing_strategy(before)


def kept_history(folder: Path) -> tuple[Epoch, ...]:
    """The epochs' history in the last checkpoint."""
    callbacks = _read(folder / f"{LAST}.ckpt")["callbacks"]
    return tuple(Epoch(**epoch) for epoch in callbacks[KeptWatch.__qualname__]["history"])


def best_state(folder: Path) -> dict[str, Tensor]:
    """The model's weights in the best checkpoint: the moving average where there was one."""
    state = _read(folder / f"{BEST}.ckpt")["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items()}


def _read(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True)


def _checkpoints(folder: Path, task: Task) -> list[pl.Callback]:
    always: dict[str, Any] = {
        "dirpath": str(folder), "save_top_k": 1, "enable_version_counter": False,
        # Saved at the validation's end, a checkpoint would count the epoch as begun, and resuming skip its hooks.
        "save_on_train_epoch_end": True,
    }  # fmt: skip
    best = ModelCheckpoint(
        **always, filename=BEST, monitor="score", mode="max" if task.maximize else "min", auto_insert_metric_name=False
    )
    return [best, ModelCheckpoint(**always, filename=LAST)]


def _logger(folder: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=str(folder), name="tensorboard", version="")


def _several(device: torch.device, devices: int) -> dict[str, Any]:
    """The Trainer's arguments for several devices; the processes end with the training."""
    if device.type == "cuda" and torch.cuda.device_count() < devices:
        raise GhostsearchError(f"{devices} GPUs asked for, this machine has {torch.cuda.device_count()}")
    kind = "gpu" if device.type == "cuda" else device.type
    return {"accelerator": kind, "devices": devices, "strategy": "ddp_spawn"}


def _steps(data: Data, devices: int) -> int:
    """Steps an epoch; each device takes its own batches."""
    if devices < 1:
        raise GhostsearchError(f"devices must be at least 1, got {devices}")
    loader: Any = data.train
    if not hasattr(loader, "__len__"):
        raise GhostsearchError(f"the training loader of {data.name} has no length, so its epochs have none")
    if devices == 1:
        return len(loader)
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, RandomSampler):
        raise GhostsearchError("several devices share out only a torch DataLoader with shuffle=True for training")
    images, batch = len(loader.dataset), loader.batch_size or 1  # type: ignore[arg-type]
    return images // devices // batch if loader.drop_last else math.ceil(math.ceil(images / devices) / batch)
