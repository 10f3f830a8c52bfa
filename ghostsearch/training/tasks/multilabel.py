"""Several labels per image: binary cross entropy and mean average precision over the labels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ghostsearch.errors import GhostsearchError
from ghostsearch.training.tasks.base import Meter, Task, main_output, not_nan


class MultiLabel(Task):
    """Each label is there or not: binary cross entropy; the score is the mean average precision (mAP)."""

    metric = "mAP"
    kinds: ClassVar[tuple[str, ...]] = ("labels",)

    def target(self, images: Any, target: Any) -> Tensor:
        """Zeros and ones (N, labels) as floats; raises GhostsearchError for anything else."""
        marks = super().target(images, target)
        if not isinstance(marks, Tensor) or marks.ndim != 2 or not ((marks == 0) | (marks == 1)).all():
            found = tuple(marks.shape) if isinstance(marks, Tensor) else type(marks).__name__
            raise GhostsearchError(f"several labels per image are zeros and ones of shape (N, labels), got {found}")
        return marks.float()

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Binary cross entropy of logits (N, labels)."""
        return F.binary_cross_entropy_with_logits(main_output(output), target)

    def meter(self) -> Meter:
        """Mean over the labels of the average precision."""
        return MeanAveragePrecision()

    def distillation_loss(self, output: Any, teacher_output: Any) -> Tensor:
        """Binary cross entropy towards the teacher's probabilities, less its own entropy: 0 at the teacher."""
        wanted = main_output(teacher_output).sigmoid()
        entropy = F.binary_cross_entropy(wanted, wanted)
        return F.binary_cross_entropy_with_logits(main_output(output), wanted) - entropy

    def as_target(self, output: Any) -> Tensor:
        """The labels that are more likely than not."""
        return (main_output(output) > 0).float()


class MeanAveragePrecision:
    """Mean over the labels that occur of the area under precision and recall, by torchmetrics."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._marks: list[Tensor] = []

    def update(self, output: Any, target: Tensor) -> None:
        """Take in logits and zeros and ones, (N, labels) both."""
        self._logits.append(not_nan(main_output(output)).detach().float().cpu())
        self._marks.append(target.detach().long().cpu())

    def compute(self) -> float:
        """The mean; raises GhostsearchError when no label occurs."""
        from torchmetrics.functional.classification import binary_average_precision

        marks = torch.cat(self._marks) if self._marks else torch.zeros(0, 0, dtype=torch.long)
        seen = marks.any(0).nonzero().flatten()
        if not len(seen):
            raise GhostsearchError("mAP of no labels: the split is empty or no image has a label")
        logits = torch.cat(self._logits)
        # Ranks alone count; the sigmoid of large logits is 1 for all of them.
        logits = torch.stack([x.unique(return_inverse=True)[1] for x in logits.T], 1).double() / max(1, len(logits))
        return float(torch.stack([binary_average_precision(logits[:, i], marks[:, i]) for i in seen]).mean())
