"""How a model is trained: the options that every command and function that trains takes, and what training returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ghostsearch.options import Computing, Seeded, option

TRAINING = "Training"


class Recipe(Computing, Seeded):
    """SGD with Nesterov momentum: a linear warm-up to `lr`, then a cosine to zero."""

    epochs: float = option(20, "Epochs; parts allowed.", panel=TRAINING, gt=0)
    steps: int | None = option(None, "At most so many steps.", panel=TRAINING, cli=False, ge=1)
    batch_size: int = option(64, "Training batch size, in images.", panel=TRAINING, ge=1)
    lr: float = option(0.05, "Highest learning rate.", panel=TRAINING, gt=0)
    warmup: float = option(0.1, "Share of the steps in which the learning rate climbs.", panel=TRAINING, ge=0, lt=1)
    momentum: float = option(0.9, "Nesterov momentum.", panel=TRAINING, cli=False, ge=0, lt=1)
    weight_decay: float = option(
        5e-4, "Weight decay of convolutions and linear layers; biases and BatchNorm have none.", panel=TRAINING, ge=0,
    )  # fmt: skip
    clip_norm: float = option(1.0, "Maximum gradient norm; 0: no clipping.", panel=TRAINING, cli=False, ge=0)
    distillation: float = option(
        0.5, "Share of the distillation loss where there is a teacher.", panel=TRAINING, ge=0, le=1
    )
    ema: float = option(
        0.0, "Decay of the weights' moving average, which is what is scored and kept; 0: none.", panel=TRAINING,
        ge=0, lt=1,
    )  # fmt: skip
    train_precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = option(
        "auto", "32-true, bf16-mixed or 16-mixed; auto: mixed on a GPU, 32-true elsewhere.", panel=TRAINING
    )

    def lr_share(self, step: int, steps: int) -> float:
        """Learning rate of a step (from 0) over the highest: up in a line, down along a cosine to zero."""
        climb = round(self.warmup * steps)
        if step < climb:
            return (step + 1) / (climb + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1, steps - climb)))


class Tuning(Recipe):
    """A training to the best weights, scored after every epoch; it may be stopped and resumed."""

    epochs: int = option(20, "Epochs.", panel=TRAINING, ge=1)
    warmup: float = option(0.05, "Share of the steps in which the learning rate climbs.", panel=TRAINING, ge=0, lt=1)
    ema: float = option(
        0.999, "Decay of the weights' moving average, which is what is scored and kept; 0: none.", panel=TRAINING,
        ge=0, lt=1,
    )  # fmt: skip
    processes: int = option(1, "Processes to train in, one GPU each.", panel=TRAINING, ge=1)


FROM_SCRATCH = Tuning(warmup=0.1, ema=0.0)
"""A training from random weights."""


class Distillation(Tuning):
    """A fine-tuning that may have a teacher."""

    distill_from: str | None = option(
        None, "A teacher: a MODEL or a directory, such as models/baseline.", panel=TRAINING
    )
    distill_weights: str | None = option(None, "The teacher's weights, when it is named as a MODEL.", panel=TRAINING)


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch of training."""

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
    """The result of a training; the model itself was trained in place."""

    epochs: float
    steps: int
    seconds: float
    device: str
    precision: str
    """Lightning's name, such as `32-true` or `bf16-mixed`."""
    history: tuple[Epoch, ...]
