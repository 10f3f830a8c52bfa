"""What a model is trained and scored for. Nothing else in the package knows of labels or losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghostsearch.errors import GhostsearchError
from ghostsearch.usercode import import_object

AUXILIARY_WEIGHT = 0.3
"""Weight of each auxiliary head's loss (Szegedy et al. 2015, section 5)."""


class Meter(Protocol):
    """Accumulates a score over batches; every `torchmetrics.Metric` is one."""

    def update(self, output: Any, target: Any) -> None:
        """Take in a batch."""

    def compute(self) -> Any:
        """The score over all batches so far; a number or a scalar tensor."""


class Task(ABC):
    """A loss and a score; subclass it and name the subclass by `--task package.module:object`."""

    metric: str
    """Name of the score."""
    maximize: bool = True
    """Whether a higher score is better."""

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """The training loss of a batch, a scalar; `output` is what the model returns in training mode."""

    @abstractmethod
    def meter(self) -> Meter:
        """A fresh accumulator of the score."""

    def forward(self, model: nn.Module, images: Any, target: Any) -> Any:  # noqa: ARG002
        """The model's output on a batch; override where the model wants the target too, as detectors do."""
        return model(images)

    def distillation_loss(self, output: Any, teacher_output: Any) -> Tensor:
        """How far the output is from the teacher's, a scalar; mean squared error unless overridden."""
        return F.mse_loss(main_output(output), main_output(teacher_output))


class Classification(Task):
    """One label an image: cross entropy and accuracy."""

    metric = "accuracy"

    def __init__(self, label_smoothing: float = 0.0, temperature: float = 4.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise GhostsearchError(f"label smoothing must be at least 0 and below 1, got {label_smoothing}")
        if temperature <= 0:
            raise GhostsearchError(f"the distillation temperature must be above 0, got {temperature}")
        self.label_smoothing, self.temperature = label_smoothing, temperature

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Cross entropy, auxiliary heads added at 0.3 each; logits (N, classes), target (N,)."""
        main, auxiliary = split_output(output)
        if main.ndim != 2:
            raise GhostsearchError(f"classification wants logits (N, classes), the model gave {tuple(main.shape)}")
        total = F.cross_entropy(main, target, label_smoothing=self.label_smoothing)
        for head in auxiliary:
            extra = F.cross_entropy(head, target, label_smoothing=self.label_smoothing)
            total = total + AUXILIARY_WEIGHT * extra
        return total

    def meter(self) -> Meter:
        """Share of images whose largest logit is at their label."""
        return Accuracy()

    def distillation_loss(self, output: Any, teacher_output: Any) -> Tensor:
        """KL divergence of outputs softened by a temperature T, times T² (Hinton et al. 2015, section 2)."""
        t = self.temperature
        student = F.log_softmax(main_output(output) / t, dim=1)
        teacher = F.log_softmax(main_output(teacher_output) / t, dim=1)
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * t**2


class Accuracy:
    """Share of right answers, from 0 to 1."""

    def __init__(self) -> None:
        self.right, self.images = 0, 0

    def update(self, output: Any, target: Tensor) -> None:
        """Take in logits (N, classes) and labels (N,)."""
        self.right += int((main_output(output).argmax(1) == target).sum())
        self.images += len(target)

    def compute(self) -> float:
        """The share so far; raises GhostsearchError when there was no image."""
        if not self.images:
            raise GhostsearchError("accuracy of no images: the split is empty")
        return self.right / self.images


def split_output(output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The main tensor of a model's output and its auxiliary heads'.

    A tensor is its own main; of a (named) tuple or list the first is, as GoogLeNet gives them; of a mapping
    `out` or `logits` (else the first), the auxiliaries being the entries whose names start with `aux`.
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


def load_task(name: str = "classification") -> Task:
    """The task of a name: `classification`, or the user's own `package.module:object`, which runs that code.

    The object may be a Task, or a class or function that makes one without arguments.
    Raises GhostsearchError when it is neither.
    """
    if name == "classification":
        return Classification()
    found = import_object(name, "task")
    task = found if isinstance(found, Task) or not callable(found) else found()
    if not isinstance(task, Task):
        raise GhostsearchError(f"task {name!r} is a {type(task).__name__}; subclass ghostsearch.training.tasks.Task")
    if not isinstance(getattr(task, "metric", None), str):
        raise GhostsearchError(f"task {name!r} names no metric; set the class attribute metric = 'mIoU' or the like")
    return task


def score_value(meter: Meter) -> float:
    """A meter's score as a number."""
    value = meter.compute()
    return float(value.detach()) if isinstance(value, torch.Tensor) else float(value)
