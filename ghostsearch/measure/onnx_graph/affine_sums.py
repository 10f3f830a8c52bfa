"""Folds the sums that dropped branches leave in an ONNX graph: a value and its affine, a value and nothing."""

from __future__ import annotations

from typing import Any

from ghostsearch.measure.onnx_graph.initializers import Initializers, Wiring, drop_unread, unshare_constants


def fold_affine_sums(model: Any) -> int:
    """Rewrite x + (a·x + b) as (1 + a)·x + b, per channel, and x + 0 as x, in place; returns how many were found.

    Exact but for rounding. Runtimes fuse the sum into the 1×1 depthwise convolution in float, not in int8.
    """
    graph = model.graph
    unshare_constants(graph)
    # A branch without its layers begins with a ReLU of what the shortcut is the ReLU of.
    _join_relus(graph)
    values, wiring = Initializers(graph), Wiring(graph)
    folded = [add for add in graph.node if add.op_type == "Add" and _fold(add, values, wiring)]
    for add in folded:
        graph.node.remove(add)
    _join_relus(graph)
    drop_unread(graph)
    values.drop_unused()
    return len(folded)


def _fold(add: Any, values: Initializers, wiring: Wiring) -> bool:
    """Give what a sum makes to the convolution before it, or to its readers the value that nothing is added to."""
    for value, made in (tuple(add.input), tuple(add.input)[::-1]):
        maker = wiring.maker.get(made)
        if _is_nothing(made, maker, values) and add.output[0] not in wiring.outputs:
            _read_instead(wiring, add.output[0], value)
            return True
        if maker is None or maker.op_type != "Conv" or not wiring.only_reader(made):
            continue
        weight = values.arrays.get(maker.input[1])
        if weight is None or value != maker.input[0]:
            continue
        if _is_affine(maker, weight):
            maker.input[1] = values.add(f"{add.output[0]}.factors", weight + 1)
            maker.output[0] = add.output[0]
            wiring.maker[add.output[0]] = maker
            return True
    return False


def _is_nothing(name: str, node: Any | None, values: Initializers) -> bool:
    """Whether a value is made of zeros."""
    if node is None:
        return name in values.arrays and not values.arrays[name].any()
    if node.op_type == "Expand":
        return node.input[0] in values.arrays and not values.arrays[node.input[0]].any()
    fill = next((a.t for a in node.attribute if a.name == "value"), None)
    if node.op_type == "Constant":
        return fill is not None and not values.helper.to_array(fill).any()
    return node.op_type == "ConstantOfShape" and (fill is None or not values.helper.to_array(fill).any())


def _join_relus(graph: Any) -> None:
    """Let what reads the ReLU of a ReLU read the first."""
    wiring = Wiring(graph)
    for relu in [node for node in graph.node if node.op_type == "Relu" and node.output[0] not in wiring.outputs]:
        before = wiring.maker.get(relu.input[0])
        if before is not None and before.op_type == "Relu":
            _read_instead(wiring, relu.output[0], relu.input[0])


def _read_instead(wiring: Wiring, name: str, other: str) -> None:
    """Let the readers of a value read another."""
    readers = wiring.readers.pop(name, [])
    for reader in readers:
        names = [other if x == name else x for x in reader.input]
        del reader.input[:]
        reader.input.extend(names)
    wiring.readers[other] = [*wiring.readers.get(other, []), *readers]


def _is_affine(conv: Any, weight: Any) -> bool:
    """Whether a convolution multiplies each channel by a number of its own."""
    given = {a.name: a for a in conv.attribute}
    whole = all(x == 1 for name in ("strides", "kernel_shape") if name in given for x in given[name].ints)
    padded = any(x for x in given["pads"].ints) if "pads" in given else False
    return bool("group" in given and given["group"].i == len(weight) == weight.size and whole and not padded)
