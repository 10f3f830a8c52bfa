"""One label per recording (N, channels, length), such as an electrocardiogram: balanced accuracy."""

from __future__ import annotations

import torch
from torch import Tensor

from ghostsearch.training.tasks.base import Meter
from ghostsearch.training.tasks.classification import Accuracy, Classification


class Signals(Classification):
    """One label per recording: cross entropy; the score is balanced accuracy, since rare classes are what is sought."""

    metric = "balanced accuracy"

    def meter(self) -> Meter:
        """Mean over the classes of the accuracy on each."""
        return BalancedAccuracy()


class BalancedAccuracy(Accuracy):
    """Mean over the classes that occur of the accuracy on each, from 0 to 1."""

    def per_image(self) -> Tensor:
        """1 or 0 per recording, weighted so that every class counts the same: the mean is the balanced accuracy."""
        right, labels = super().per_image(), torch.cat(self._labels)
        sizes = torch.bincount(labels)
        return right * len(labels) / (sizes[labels] * int((sizes > 0).sum()))
