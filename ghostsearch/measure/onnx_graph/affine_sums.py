"""Makes one affine of a value and its affine added up, as dropped branches leave them in an ONNX graph."""

from __future__ import annotations

from typing import Any

from ghostsearch.measure.onnx_graph.initializers import Initializers, Wiring, unshare_constants


def fold_affine_sums(model: Any) -> int:
    """Rewrite x + (a·x + b) as (1 + a)·x + b, per channel, in place; returns how many sums were found.

    Exact but for rounding. Runtimes fuse the sum into the 1×1 depthwise convolution in float, not in int8.
    """
    graph = model.graph
    unshare_constants(graph)
    values, wiring, count = Initializers(graph), Wiring(graph), 0
    gone: list[Any] = []
    for add in [node for node in graph.node if node.op_type == "Add"]:
        for value, made in (tuple(add.input), tuple(add.input)[::-1]):
            conv = wiring.maker.get(made)
            if conv is None or conv.op_type != "Conv" or not wiring.only_reader(made):
                continue
            if value not in (conv.input[0], _before_relu(conv.input[0], wiring)):
                continue
            weight = values.arrays.get(conv.input[1])
            if weight is None or not _is_affine(conv, weight):
                continue
            if conv.input[0] != value and wiring.only_reader(conv.input[0]):
                gone.append(wiring.maker[conv.input[0]])
            conv.input[0] = value
            conv.input[1] = values.add(f"{add.output[0]}.factors", weight + 1)
            conv.output[0] = add.output[0]
            gone.append(add)
            count += 1
            break
    for node in gone:
        graph.node.remove(node)
    values.drop_unused()
    return count


def _before_relu(name: str, wiring: Wiring) -> str:
    """What a value is the ReLU of, where that is one's output already: the branch's own, which changes nothing."""
    relu = wiring.maker.get(name)
    before = wiring.maker.get(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
    return str(relu.input[0]) if relu is not None and before is not None and before.op_type == "Relu" else name


def _is_affine(conv: Any, weight: Any) -> bool:
    """Whether a convolution multiplies each channel by a number of its own."""
    given = {a.name: a for a in conv.attribute}
    whole = all(x == 1 for name in ("strides", "kernel_shape") if name in given for x in given[name].ints)
    padded = any(x for x in given["pads"].ints) if "pads" in given else False
    return bool("group" in given and given["group"].i == len(weight) == weight.size and whole and not padded)
