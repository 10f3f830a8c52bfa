"""Boxes with classes in each image: the detector's own training losses, and COCO's mean average precision."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError, MissingExtraError
from ghostsearch.graph.detector import class_count, is_detector, watched
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.training.tasks.base import Meter, Task, main_output

SURE = 0.5
"""A box that a model is at least this sure of counts as an object where models are compared without labels."""


class Detection(Task):
    """Objects in boxes, for torchvision's detectors: the sum of the model's own losses; the score is COCO's mAP.

    A batch's targets are a list with one mapping per image: `boxes` (M, 4) as x, y, x, y in pixels, `labels` (M,) from
    1, and perhaps `iscrowd` (M,), 1 for boxes that are neither trained on nor counted.
    """

    metric = "COCO mAP"
    kinds: ClassVar[tuple[str, ...]] = ("boxes",)

    def target(self, images: Any, target: Any) -> list[dict[str, Tensor]]:
        """The targets, one mapping per image; raises GhostsearchError for boxes or labels that cannot be."""
        found = super().target(images, target)
        if not isinstance(found, list | tuple) or len(found) != len(images):
            raise GhostsearchError(f"detection expects a list of {len(images)} targets, one per image")
        return [_checked(t) for t in found]

    def forward(self, model: nn.Module, images: Any, target: Any) -> dict[str, Any]:
        """`out` (N, K), the heads' values; in training mode `losses` too, else `found`: boxes, labels and scores.

        Of an ONNX graph only what it `found` is known. Raises GhostsearchError for a model that is no detector.
        """
        if isinstance(model, OnnxModule) and model.detects:
            return {"found": model(images)}
        if not is_detector(model):
            raise GhostsearchError(
                f"--task detection trains torchvision's detectors, {type(model).__name__} is none; "
                "write a task of your own: --task package.module:object"
            )
        with watched(model) as dense:
            if model.training:
                answer: Any = model(list(images), self._trainable(model, target))
            else:
                answer = model(list(images))
        return {"out": dense.flat(), "losses" if model.training else "found": answer}

    def _trainable(self, model: nn.Module, target: Any) -> list[dict[str, Tensor]]:
        # Without labels the target is the baseline's output.
        boxes = self.as_target(target) if isinstance(target, Mapping) else target
        classes = class_count(model)
        largest = max((int(t["labels"].max()) for t in boxes if len(t["labels"])), default=0)
        if classes is not None and largest >= classes:
            raise GhostsearchError(
                f"label {largest} with a detector of {classes} classes, of which 0 is the background; "
                f"add --classes {largest + 1}"
            )
        counted = [t.get("iscrowd", torch.zeros_like(t["labels"])) == 0 for t in boxes]
        return [{k: t[k][chosen] for k in ("boxes", "labels")} for t, chosen in zip(boxes, counted, strict=True)]

    def loss(self, output: Any, target: Any) -> Tensor:  # noqa: ARG002
        """The sum of the model's own losses, of its output in training mode."""
        total: Any = sum(output["losses"].values())
        return total

    def meter(self) -> Meter:
        """COCO's mean average precision, over IoU from 0.50 to 0.95; raises MissingExtraError without pycocotools."""
        if importlib.util.find_spec("pycocotools") is None:
            raise MissingExtraError("COCO mAP: pycocotools", "detection")
        return CocoMeanAveragePrecision()

    def distillation_loss(self, output: Any, teacher_output: Any) -> Tensor:
        """Squared distance of the heads' values, each map counting the same, a mean over the images."""
        return (main_output(output) - main_output(teacher_output)).square().sum(1).mean()

    def as_target(self, output: Any) -> list[dict[str, Tensor]]:
        """The boxes that a model is sure of, as targets."""
        found: Sequence[Mapping[str, Tensor]] = output["found"]
        sure = [(f["scores"] >= SURE) & (f["boxes"][:, 2:] > f["boxes"][:, :2]).all(1) for f in found]
        return [{k: f[k][chosen] for k in ("boxes", "labels")} for f, chosen in zip(found, sure, strict=True)]


class CocoMeanAveragePrecision:
    """COCO's mAP by torchmetrics: a mean over classes, and over IoU thresholds from 0.50 to 0.95."""

    def __init__(self) -> None:
        from torchmetrics.detection import MeanAveragePrecision

        self._metric = MeanAveragePrecision()
        self._metric.warn_on_many_detections = False
        self._boxes = 0

    def update(self, output: Any, target: Any) -> None:
        """Take in the boxes that were found in a batch, and those that are there."""
        self._metric.update(
            [{k: v.detach().cpu() for k, v in found.items() if k in ("boxes", "labels", "scores")}
             for found in output["found"]],
            [{k: v.detach().cpu() for k, v in wanted.items()} for wanted in target],
        )  # fmt: skip
        self._boxes += sum(int((w.get("iscrowd", torch.zeros_like(w["labels"])) == 0).sum()) for w in target)

    def compute(self) -> float:
        """The mAP, from 0 to 1; raises GhostsearchError when there is no box to be found."""
        if not self._boxes:
            raise GhostsearchError("mAP of no boxes: the split is empty, or nothing is marked in its images")
        return float(self._metric.compute()["map"])


def _checked(target: Any) -> dict[str, Tensor]:
    if not isinstance(target, Mapping) or not {"boxes", "labels"} <= set(target):
        raise GhostsearchError("a detection target is a mapping with `boxes` (M, 4) and `labels` (M,)")
    boxes, labels = target["boxes"].float().reshape(-1, 4), target["labels"].long()
    if len(labels) != len(boxes) or (labels < 1).any():
        raise GhostsearchError(f"{len(boxes)} boxes need as many labels from 1 (0 is the background), got {labels}")
    if (boxes[:, 2:] <= boxes[:, :2]).any():
        raise GhostsearchError("a box must have its left upper corner before its right lower one (x, y, x, y)")
    crowd = {"iscrowd": target["iscrowd"].long()} if "iscrowd" in target else {}
    return {"boxes": boxes, "labels": labels} | crowd
