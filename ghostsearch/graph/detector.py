"""What torchvision's detectors have in common: their input size, their classes, and maps that do not depend on what is
found in an image, by which two detectors are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.graph.capture import call, hooked, tensors

CLASS_COUNTS = (
    ("roi_heads", "box_predictor", "cls_score", "out_features"),
    ("head", "classification_head", "num_classes"),
    ("head", "classification_head", "num_columns"),
)
"""Where a detector keeps its number of classes, the background being one of them."""


FOUND = ("boxes", "labels", "scores")
"""What a detector gives for each image, by these names; an exported one as outputs, for one image."""


class OneImage(nn.Module):
    """A detector of one image: (1, C, H, W) -> boxes (M, 4), labels (M,), scores (M,)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.ghostsearched = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """What was found."""
        found = self.ghostsearched([image[0]])[0]
        return tuple(found[name] for name in FOUND)


def is_detector(model: nn.Module) -> bool:
    """Whether a model is built as torchvision's detectors are: a transform, a backbone, and a head or two stages."""
    return all(hasattr(model, part) for part in ("transform", "backbone")) and (
        hasattr(model, "head") or (hasattr(model, "rpn") and hasattr(model, "roi_heads"))
    )


def class_count(model: nn.Module) -> int | None:
    """Classes of a detector, the background included; None where it does not say."""
    for path in CLASS_COUNTS:
        found: Any = model
        for name in path:
            found = getattr(found, name, None)
        if isinstance(found, int):
            return found
    return None


def own_side(model: nn.Module) -> int | None:
    """The side in pixels that a detector resizes its images to; None where the model is no detector."""
    transform: Any = getattr(model, "transform", None)
    if not is_detector(model) or not hasattr(transform, "min_size"):
        return None
    return int(transform.fixed_size[0] if transform.fixed_size else transform.min_size[-1])


def set_side(model: nn.Module, dims: tuple[int, ...]) -> None:
    """Let a detector take images of (height, width) as they are, in place; it would resize them to its own size."""
    transform: Any = getattr(model, "transform", None)
    if not is_detector(model) or not hasattr(transform, "min_size"):
        return
    transform.min_size, transform.max_size = (min(dims),), max(dims)
    if transform.fixed_size:
        # torchvision's order is width before height.
        transform.fixed_size = (dims[1], dims[0])


class DenseOutputs:
    """The dense values of a detector's last forward: its heads' maps, and of two stages what they say of fixed regions.

    Which boxes a detector finds, and how many, changes with any weight; these values have the same shape for every
    detector that descends from one baseline.
    """

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def flat(self) -> Tensor:
        """(N, K): all parts of each image, scaled so that a squared distance is the sum of the parts' mean squares."""
        return torch.cat([part.flatten(1) / part[0].numel() ** 0.5 for part in self.parts], 1)


@contextmanager
def watched(model: nn.Module) -> Iterator[DenseOutputs]:
    """Within, a detector's forward leaves its dense values."""
    dense, two_stages = DenseOutputs(), hasattr(model, "rpn")
    stage: Any = model.rpn if two_stages else model

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        dense.parts = [x for x in tensors(output) if x.dim() > 1]

    def keep_regions(_: nn.Module, args: tuple[Any, ...], __: Any) -> None:
        dense.parts += _of_regions(model, args[1], args[0].image_sizes)

    with hooked([(stage.head, keep), *[(stage, keep_regions)] * two_stages]):
        yield dense


def _of_regions(model: Any, features: dict[str, Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
    """What the second stage says of each image as a whole and of its quarters, (N, regions, values) each."""
    first = next(iter(features.values()))
    boxes = [_quarters(height, width).to(first) for height, width in sizes]
    heads = model.roi_heads
    pooled = heads.box_roi_pool(features, boxes, sizes)
    return [x.unflatten(0, (len(sizes), -1)) for x in tensors(heads.box_predictor(heads.box_head(pooled)))]


def _quarters(height: int, width: int) -> Tensor:
    h, w = height / 2, width / 2
    corners = [(0, 0), (w, 0), (0, h), (w, h)]
    return torch.tensor([(0, 0, width, height), *((x, y, x + w, y + h) for x, y in corners)])


def compared_outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """What two nets are compared by: the tensors that a forward returns; of detectors their heads' maps, since what
    they find in an image has another length with any other weights.
    """
    if not is_detector(model):
        return list(tensors(call(model, example)))
    with watched(model) as dense:
        call(model, example)
    return dense.parts
