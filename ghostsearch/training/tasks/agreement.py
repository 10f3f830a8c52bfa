"""No labels: the baseline's own output is the target, so that the score says how well a model agrees with it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.graph.capture import in_order, mapped, memory_order, tensors
from ghostsearch.training.tasks.base import Meter, PerImage, Task
from ghostsearch.training.tasks.classification import Accuracy
from ghostsearch.units import AGAINST_BASELINE, AGREEMENT


class Agreement(Task):
    """Another task judged against the baseline's output: agreement of the top class, distillation as the only loss.

    What it cannot know is whether the baseline was right.
    """

    def __init__(self, task: Task, baseline: nn.Module) -> None:
        self.task = task
        self.metric = AGREEMENT if task.metric == "accuracy" else task.metric + AGAINST_BASELINE
        self.maximize = task.maximize
        self.baseline = copy.deepcopy(baseline).eval().requires_grad_(False)
        self._order: torch.memory_format | None = None

    def forward(self, model: nn.Module, images: Any, target: Any) -> Any:
        """As the task's own."""
        return self.task.forward(model, images, target)

    def target(self, images: Any, target: Any) -> Any:
        """The baseline's output on the batch; labels are ignored."""
        # Not in inference mode, whose tensors no gradient may meet.
        with torch.no_grad():
            first = next(tensors(images), torch.empty(0))
            baseline = self.baseline.to(first.device)
            # The images stand in the judged model's order, in which this one need not run.
            order = self._order = self._order or memory_order(
                images, baseline, forward=lambda model, x: self.task.forward(model, x, None)
            )
            return self.task.forward(baseline, mapped(images, lambda x: in_order(x, order)), target)

    def loss(self, output: Any, target: Any) -> Tensor:
        """The task's distillation distance from the baseline's output."""
        return self.task.distillation_loss(output, target)

    def meter(self) -> Meter:
        """The task's score of an output against the baseline's prediction."""
        return AgreementMeter(self.task)

    def distillation_loss(self, output: Any, teacher_output: Any) -> Tensor:
        """As the task's own."""
        return self.task.distillation_loss(output, teacher_output)

    def as_target(self, output: Any) -> Any:
        """As the task's own."""
        return self.task.as_target(output)


class AgreementMeter:
    """The task's own meter, given the class (or value) that the baseline chose."""

    def __init__(self, task: Task) -> None:
        self.task, self.meter = task, task.meter()
        if isinstance(self.meter, PerImage):
            self.per_image = self.meter.per_image
        if isinstance(self.meter, Accuracy):
            self.class_counts = self.meter.class_counts

    def update(self, output: Any, target: Any) -> None:
        """Take in a model's output and the baseline's."""
        self.meter.update(output, self.task.as_target(target))

    def compute(self) -> Any:
        """The score against the baseline."""
        return self.meter.compute()
