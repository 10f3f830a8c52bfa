"""Brings the channels of an activation to one range before they share one int8 scale.

Cross-layer equalization (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, section 4.1), with ranges measured on calibration images: a channel's filters are multiplied by d and the
weights that read it divided by d. ReLU, pooling, concatenation and depthwise convolutions let a positive factor pass,
so the float network computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ghostsearch.measure.onnx_graph.initializers import Initializers, Wiring, unshare_constants
from ghostsearch.measure.onnx_graph.module import cpu_session

PASSES = ("Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")
"""Operators f with f(d·x) = d·f(x) per channel for d > 0."""
LARGEST_FACTOR = 1e3
"""A dead channel is not raised beyond this: its range is noise."""


def equalize_ranges(model: Any, feeds: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Rescale channels between convolutions of an ONNX model in place; returns how many activations changed.

    model: a ModelProto whose BatchNorms are folded; feeds: calibration inputs by name.
    """
    unshare_constants(model.graph)
    values, wiring = Initializers(model.graph), Wiring(model.graph)
    found = [(node, readers) for node in model.graph.node if (readers := _readers(node, values, wiring)) is not None]
    ranges = channel_ranges(model, [node.output[0] for node, _ in found], feeds)
    top: dict[int, float] = {}
    for node, readers in found:
        for reader, _ in readers:
            top[id(reader)] = max(top.get(id(reader), 0.0), float(ranges[node.output[0]].max()))
    changed = 0
    for node, readers in found:
        own = ranges[node.output[0]]
        # Branches of a concatenation share one scale, so they get one range.
        wanted = max(top[id(reader)] for reader, _ in readers)
        if own.max() <= 0:
            continue
        factor = np.clip(wanted / np.maximum(own, wanted / LARGEST_FACTOR), 1.0, LARGEST_FACTOR)
        _scale_rows(node, factor, values)
        for reader, start in readers:
            _scale_columns(reader, factor, start, values)
        changed += 1
    return changed


def channel_ranges(
    model: Any, names: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Largest value of each channel behind its ReLU, or magnitude where none follows, over all images: name -> (C,)."""
    if not names:
        return {}
    copy = type(model).FromString(model.SerializeToString())
    known = {o.name for o in copy.graph.output}
    for name in names:
        if name not in known:
            copy.graph.output.add().name = name
    wiring = Wiring(model.graph)
    clipped = {n for n in names if all(r.op_type == "Relu" for r in wiring.readers.get(n, []))}
    session, found = cpu_session(copy.SerializeToString(), 1), dict[str, np.ndarray]()
    for feed in feeds:
        for name, value in zip(names, session.run(list(names), dict(feed)), strict=True):
            magnitude = np.maximum(value, 0) if name in clipped else np.abs(value)
            top = magnitude.max(axis=(0, *range(2, magnitude.ndim)))
            found[name] = np.maximum(found[name], top) if name in found else top
    return found


def _readers(node: Any, values: Initializers, wiring: Wiring) -> list[tuple[Any, int]] | None:
    """The convolutions that read a convolution's channels, with the position of its first channel there.

    None when something else sees them (a sum, an output, an operator that a factor does not pass).
    """
    if node.op_type != "Conv" or not all(_its_own(name, values, wiring) for name in node.input[1:]):
        return None
    channels = len(values.arrays[node.input[1]])
    found: list[tuple[Any, int]] = []
    stack = [(node.output[0], 0)]
    while stack:
        name, start = stack.pop()
        if name in wiring.outputs or name not in wiring.readers:
            return None
        for reader in wiring.readers[name]:
            step = _step(reader, name, (start, channels), values, wiring)
            if step is None:
                return None
            if step >= 0:
                stack.append((reader.output[0], step))
            else:
                found.append((reader, start))
    return found or None


def _its_own(name: str, values: Initializers, wiring: Wiring) -> bool:
    """Whether a tensor is a constant that one node alone reads."""
    return name in values.arrays and wiring.only_reader(name) is not None


def _step(reader: Any, name: str, at: tuple[int, int], values: Initializers, wiring: Wiring) -> int | None:
    """Where channels stand behind a reader that lets factors pass; -1 for one that absorbs them; None for neither.

    at: position of the first channel, and how many there are.
    """
    start, channels = at
    if reader.op_type in PASSES:
        return start
    if reader.op_type == "Concat" and list(reader.input).count(name) == 1 and reader.attribute[0].i == 1:
        widths = [_channels(other, values, wiring) for other in reader.input]
        before = widths[: list(reader.input).index(name)]
        return None if None in before else start + sum(w for w in before if w is not None)
    if reader.op_type in ("Conv", "Gemm") and reader.input[0] == name and _its_own(reader.input[1], values, wiring):
        return -1 if _absorbs(reader, start, channels, values) else None
    return None


def _absorbs(reader: Any, start: int, channels: int, values: Initializers) -> bool:
    weight = values.arrays[reader.input[1]]
    if reader.op_type == "Gemm":
        transposed = next((a.i for a in reader.attribute if a.name == "transB"), 0) == 1
        # Behind a Flatten of whole maps a channel has many columns: left alone.
        return transposed and start == 0 and weight.shape[1] == channels
    return _groups(reader) == 1 or weight.shape[1] == 1


def _channels(name: str, values: Initializers, wiring: Wiring) -> int | None:
    """How many channels a value has, from the convolution that makes it."""
    node = wiring.maker.get(name)
    while node is not None and node.op_type in PASSES:
        node = wiring.maker.get(node.input[0])
    if node is None or node.op_type != "Conv" or node.input[1] not in values.arrays:
        return None
    return int(values.arrays[node.input[1]].shape[0])


def _groups(node: Any) -> int:
    return int(next((a.i for a in node.attribute if a.name == "group"), 1))


def _scale_rows(node: Any, factor: np.ndarray, values: Initializers) -> None:
    weight = values.arrays[node.input[1]]
    values.replace(node.input[1], weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
    if len(node.input) > 2:
        values.replace(node.input[2], values.arrays[node.input[2]] * factor)


def _scale_columns(reader: Any, factor: np.ndarray, start: int, values: Initializers) -> None:
    weight = values.arrays[reader.input[1]].copy()
    if reader.op_type == "Conv" and _groups(reader) > 1:
        per_group = len(weight) // _groups(reader)
        rows = slice(start * per_group, (start + len(factor)) * per_group)
        weight[rows] /= np.repeat(factor, per_group).reshape(-1, *[1] * (weight.ndim - 1))
    else:
        weight[:, start : start + len(factor)] /= factor.reshape(1, -1, *[1] * (weight.ndim - 2))
    values.replace(reader.input[1], weight)
