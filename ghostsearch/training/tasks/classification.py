"""One label per image (or recording): cross entropy and accuracy."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ghostsearch.errors import GhostsearchError
from ghostsearch.training.tasks.base import (
    Meter,
    PerImage,
    Task,
    main_output,
    not_nan,
    softened_divergence,
    with_auxiliary,
)


class Classification(Task):
    """One label per image: cross entropy and accuracy."""

    metric = "accuracy"
    kinds: ClassVar[tuple[str, ...]] = ("class",)

    def __init__(self, label_smoothing: float = 0.0, temperature: float = 4.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise GhostsearchError(f"label smoothing must be at least 0 and below 1, got {label_smoothing}")
        if temperature <= 0:
            raise GhostsearchError(f"the distillation temperature must be above 0, got {temperature}")
        self.label_smoothing, self.temperature = label_smoothing, temperature

    def target(self, images: Any, target: Any) -> Tensor:
        """Labels (N,) as integers from any usual form; class probabilities stay. Raises as `class_labels`."""
        return class_labels(super().target(images, target))

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Cross entropy, auxiliary heads added at 0.3 each; logits (N, classes), target (N,) or (N, classes).

        Raises GhostsearchError for other outputs, and for labels that the model has no output for.
        """
        main = main_output(output)
        if main.ndim != 2:
            raise GhostsearchError(f"classification expects logits (N, classes), the model gave {tuple(main.shape)}")
        # While a CUDA graph is recorded nothing can be asked of the values.
        recorded = target.is_cuda and torch.cuda.is_current_stream_capturing()
        if target.ndim == 1 and not recorded and int(target.max()) >= main.shape[1]:
            raise GhostsearchError(f"label {int(target.max())} with a model of {main.shape[1]} outputs; add --classes")
        return with_auxiliary(output, lambda x: F.cross_entropy(x, target, label_smoothing=self.label_smoothing))

    def meter(self) -> Meter:
        """Share of images whose largest logit is at their label."""
        return Accuracy()

    def distillation_loss(self, output: Any, teacher_output: Any) -> Tensor:
        """KL divergence of outputs softened by the temperature (Hinton et al. 2015, section 2)."""
        return softened_divergence(main_output(output), main_output(teacher_output), self.temperature)

    def as_target(self, output: Any) -> Tensor:
        """The most likely class, (N,)."""
        return main_output(output).argmax(1)


class Accuracy(PerImage):
    """Share of right answers, from 0 to 1; counts them for each class too."""

    def __init__(self) -> None:
        super().__init__()
        self._labels: list[Tensor] = []

    def values(self, output: Any, target: Tensor) -> Tensor:
        """1 where the largest logit (N, classes) is at the label, else 0; raises TrainingError for NaN."""
        labels = target.argmax(1) if target.ndim == 2 else target
        self._labels.append(labels.detach().cpu())
        return not_nan(main_output(output)).argmax(1) == labels

    def class_counts(self) -> dict[int, tuple[int, int]]:
        """Right images and all images of each class that occurs."""
        right, labels = torch.cat(self._values), torch.cat(self._labels)
        of_class = {int(label): labels == label for label in labels.unique()}
        return {label: (int(right[its].sum()), int(its.sum())) for label, its in of_class.items()}


def class_labels(target: Any) -> Tensor:
    """Labels (N,) as integers from floats, bytes, columns (N, 1) or one-hot rows (N, classes), which need not be hard.

    Raises GhostsearchError for what is no label.
    """
    if not isinstance(target, Tensor):
        raise GhostsearchError(f"labels must be a tensor (N,) of class numbers, got a {type(target).__name__}")
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if target.ndim == 1:
        return _whole(target)
    if target.ndim != 2 or not target.numel():
        raise GhostsearchError(f"labels must have shape (N,), (N, 1) or (N, classes), got {tuple(target.shape)}")
    hard = ((target == 0) | (target == 1)).all() and (target.sum(1) == 1).all()
    if hard:
        return target.long().argmax(1)
    soft = target.float()
    if not ((soft >= 0).all() and torch.allclose(soft.sum(1), torch.ones(len(soft), device=soft.device), atol=1e-3)):
        raise GhostsearchError(
            f"labels of shape {tuple(target.shape)} are neither one-hot nor probabilities; "
            "for several labels per image use --task multilabel"
        )
    return soft


def _whole(target: Tensor) -> Tensor:
    labels = target.long()
    if target.is_floating_point() and not torch.equal(labels.to(target.dtype), target):
        raise GhostsearchError(
            f"labels must be whole numbers, got {float(target[labels != target][0]):g}; use --task regression"
        )
    if len(labels) and int(labels.min()) < 0:
        raise GhostsearchError(f"labels count from 0, got {int(labels.min())}")
    return labels
