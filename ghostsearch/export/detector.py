"""Detectors as ONNX files for one image, checked by what file and module find."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.export.formats.onnx_format import with_notes
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.module import INPUT_NAME, OnnxModule
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import example_input

IMAGES, AGREEING, CLOSE, TIED = 6, 0.98, 1e-2, 1e-4
"""Images that are compared; the share of their boxes that both must find; by how much positions, as a share of the
image's side, and scores may differ. A few boxes stand at a threshold that rounding crosses; of a detector that has
hardly learned, all boxes may score the same, and rounding decides which of those within TIED of the lowest are kept.
"""


def write_detector(module: nn.Module, input_spec: InputSpec, path: Path, notes: Mapping[str, str]) -> None:
    """Write an ONNX file that takes `image` (1, C, H, W) and gives boxes (M, 4), labels (M,) and scores (M,)."""
    import onnx

    graph, _ = onnx_bytes(module, example_input(input_spec), input_names=(INPUT_NAME,))
    path.write_bytes(with_notes(onnx.load_from_string(graph), notes).SerializeToString())


def compare_found(path: Path, module: nn.Module, input_spec: InputSpec) -> tuple[float, float]:
    """Largest distance in pixels of boxes that file and module find in synthetic images, and those images' side.

    Warns where there is nothing to compare. Raises GhostsearchError when too few boxes are found by both.
    """
    images, side = _blobs(input_spec), float(max(input_spec.dims))
    with torch.no_grad():
        wanted, found = module(list(images)), OnnxModule.read(path)(images)
    total, agreeing, difference = 0, 0, 0.0
    for theirs, ours in zip(wanted, found, strict=True):
        apart = (theirs["boxes"][:, None] - ours["boxes"]).abs().amax(2)
        same = (theirs["labels"][:, None] == ours["labels"]) & (apart <= CLOSE * side)
        same &= (theirs["scores"][:, None] - ours["scores"]).abs() <= CLOSE
        matched, lowest = same.any(1), theirs["scores"].sort().values[:1]
        by_chance = ~matched & (theirs["scores"] <= lowest + TIED)
        total += max(len(theirs["labels"]), len(ours["labels"])) - int(by_chance.sum())
        agreeing += int(matched.sum())
        if matched.any():
            nearest = apart.masked_fill(~same, torch.inf).amin(1)
            difference = max(difference, float(nearest[matched].max()))
    if agreeing < AGREEING * total:
        raise GhostsearchError(f"the file computes something else: of {total} boxes both find {agreeing}")
    if not agreeing:
        warnings.warn(
            f"{path.name}: no box stands out in {IMAGES} synthetic images, so boxes were not compared; test the "
            "file on images of your own", GhostsearchWarning, stacklevel=2,
        )  # fmt: skip
    return difference, side


def _blobs(input_spec: InputSpec) -> Tensor:
    """Images of soft spots at three scales from 0 to 1, normalised: detectors find more in them than in noise."""
    from torchvision.transforms.functional import normalize

    made: Tensor = torch.zeros(IMAGES, *input_spec.shape)
    for cells in (2, 4, 8):
        rough = example_input(InputSpec(cells, input_spec.channels), IMAGES)
        made = made + nn.functional.interpolate(rough, input_spec.dims, mode="bicubic")
    images: Tensor = normalize((made / 4 + 0.5).clamp(0, 1), input_spec.mean, input_spec.std)
    return images
