"""Tasks: a loss and a score, and how targets and outputs are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghostsearch.errors import GhostsearchError, TrainingError
from ghostsearch.graph.capture import call

AUXILIARY_WEIGHT = 0.3
"""Weight of each auxiliary head's loss (Szegedy et al. 2015, section 5)."""


class Meter(Protocol):
    """Accumulates a score over batches; every `torchmetrics.Metric` is one."""

    def update(self, output: Any, target: Any) -> None:
        """Take in a batch."""

    def compute(self) -> Any:
        """The score over all batches so far; a number or a scalar tensor."""


def not_nan(output: Tensor) -> Tensor:
    """The output itself; raises TrainingError for NaN, which would rank as the largest of numbers."""
    if output.isnan().any():
        raise TrainingError("the output of the network is not a number (NaN)")
    return output


class PerImage(ABC):
    """A meter whose score is the mean of one value per image, so that two models can be compared in pairs."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []

    @abstractmethod
    def values(self, output: Any, target: Any) -> Tensor:
        """One value per image of a batch, (N,)."""

    def update(self, output: Any, target: Any) -> None:
        """Take in a batch."""
        self._values.append(self.values(output, target).detach().double().cpu().flatten())

    def per_image(self) -> Tensor:
        """The value of each image so far, in order, (N,); raises GhostsearchError when there was no image."""
        if not self._values:
            raise GhostsearchError("a score of no images: the split is empty")
        return torch.cat(self._values)

    def compute(self) -> float:
        """The mean so far."""
        return float(self.per_image().mean())


class Task(ABC):
    """A loss and a score; subclass it and name the subclass by `--task package.module:object`."""

    metric: str
    """Name of the score."""
    maximize: bool = True
    """Whether a higher score is better."""
    kinds: ClassVar[tuple[str, ...]] = ()
    """Kinds of targets (`Data.kind`) that the task reads; empty: any."""

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """The training loss of a batch, a scalar; `output` is what the model returns in training mode."""

    @abstractmethod
    def meter(self) -> Meter:
        """A fresh accumulator of the score."""

    def forward(self, model: nn.Module, images: Any, target: Any) -> Any:  # noqa: ARG002
        """The model's output on a batch; a tuple of several inputs is positional, a dict by keyword.

        Override where the model wants the target too, as detectors do.
        """
        return call(model, images)

    def target(self, images: Any, target: Any) -> Any:  # noqa: ARG002
        """What loss and meter are given as a batch's target; raises GhostsearchError where the data have none."""
        if target is None:
            raise GhostsearchError(f"the data have no labels, and {self.metric} needs them; give labelled data")
        return target

    def distillation_loss(self, output: Any, teacher_output: Any) -> Tensor:
        """How far the output is from the teacher's, a scalar; mean squared error unless overridden."""
        return F.mse_loss(main_output(output), main_output(teacher_output))

    def as_target(self, output: Any) -> Any:
        """The target that a model's output stands for, such as its most likely class; the output unless overridden."""
        return main_output(output)


def split_output(output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The main tensor of a model's output and its auxiliary heads'.

    A tensor is its own main; of a (named) tuple or list the first is, as GoogLeNet gives them; of a mapping
    `out` or `logits` (else the first), the auxiliaries being the entries whose names start with `aux`. Raises
    GhostsearchError for any other output.
    """
    if isinstance(output, Tensor):
        return output, ()
    if isinstance(output, Mapping) and output:
        name = next((k for k in ("out", "logits") if k in output), next(iter(output)))
        return output[name], tuple(v for k, v in output.items() if k.startswith("aux") and v is not None)
    if isinstance(output, tuple | list) and output:
        return output[0], tuple(v for v in output[1:] if isinstance(v, Tensor))
    raise GhostsearchError(f"the task cannot read a model output of type {type(output).__name__}")


def main_output(output: Any) -> Tensor:
    """The main tensor of a model's output."""
    return split_output(output)[0]


def with_auxiliary(output: Any, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The loss of a model's main output, and 0.3 times that of each auxiliary head."""
    main, auxiliary = split_output(output)
    return sum((AUXILIARY_WEIGHT * loss(head) for head in auxiliary), loss(main))


def softened_divergence(output: Tensor, teacher_output: Tensor, temperature: float) -> Tensor:
    """KL divergence of logits (N, classes, …) softened by a temperature T, times T², a mean over all but the classes.

    Hinton et al. 2015, section 2.
    """
    student = F.log_softmax(output / temperature, dim=1)
    teacher = F.log_softmax(teacher_output / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean() * temperature**2


def score_value(meter: Meter) -> float:
    """A meter's score as a number."""
    value = meter.compute()
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def per_image(meter: Meter) -> Tensor | None:
    """The value of each image (N,), the score being their mean; None where the score is no such mean."""
    found = getattr(meter, "per_image", None)
    return found() if callable(found) else None
