"""The boxes of a detector's file are compared with the module's; ties that rounding decides are no difference."""

from pathlib import Path

import pytest
import torch

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.export.detector import IMAGES, compare_found
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.models.input import InputSpec

INPUT = InputSpec(64)


def found(scores, moved=()):
    """Boxes side by side, those in `moved` elsewhere, as a detector finds them in every image."""
    left = torch.arange(len(scores)).float()[:, None] * 2
    boxes = torch.cat([left, left, left + 9, left + 9], 1).reshape(-1, 4)
    boxes[list(moved)] += 500
    one = {"boxes": boxes, "labels": torch.ones(len(scores), dtype=torch.long), "scores": torch.tensor(scores)}
    return lambda images: [one] * IMAGES


TIED, APART = [1 / 3] * 20, [0.9 - i / 25 for i in range(20)]


@pytest.mark.parametrize(
    ("scores", "moved", "told"),
    [
        (APART, [], None),
        (TIED, [3, 4, 5], None),
        ([0.9, *TIED], [0], "computes something else: of 126 boxes both find 120"),
        (APART, [0], "computes something else: of 120 boxes both find 114"),
        (APART, [19], None),
    ],
)
def test_boxes_that_only_one_finds(scores, moved, told, monkeypatch):
    monkeypatch.setattr(OnnxModule, "read", lambda path: found(scores, moved))
    if told:
        with pytest.raises(GhostsearchError, match=told):
            compare_found(Path("net.onnx"), found(scores), INPUT)
    else:
        assert compare_found(Path("net.onnx"), found(scores), INPUT) == (0, 64)


@pytest.mark.parametrize(("scores", "moved"), [([], []), (TIED, range(20))])
def test_where_nothing_can_be_compared_it_is_said(scores, moved, monkeypatch):
    monkeypatch.setattr(OnnxModule, "read", lambda path: found(scores, moved))
    with pytest.warns(GhostsearchWarning, match="boxes were not compared"):
        compare_found(Path("net.onnx"), found(scores), INPUT)
