"""Constant tensors of an ONNX graph, read and changed by name, and who makes and reads each value."""

from __future__ import annotations

from typing import Any

import numpy as np


class Initializers:
    """A graph's constant tensors by name."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph, self.helper = graph, numpy_helper
        self.arrays: dict[str, np.ndarray] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}

    def add(self, name: str, array: np.ndarray) -> str:
        """A new float tensor; returns its name."""
        self.arrays[name] = np.ascontiguousarray(array, np.float32)
        self.graph.initializer.append(self.helper.from_array(self.arrays[name], name))
        return name

    def replace(self, name: str, array: np.ndarray) -> None:
        """Give a tensor other values."""
        self.arrays[name] = np.ascontiguousarray(array, self.arrays[name].dtype)
        found = next(i for i in self.graph.initializer if i.name == name)
        found.CopyFrom(self.helper.from_array(self.arrays[name], name))

    def drop_unused(self) -> None:
        """Take out the tensors that no node reads any more."""
        used = {name for node in self.graph.node for name in reads(node)}
        kept = [i for i in self.graph.initializer if i.name in used]
        copies = [type(i).FromString(i.SerializeToString()) for i in kept]
        del self.graph.initializer[:]
        self.graph.initializer.extend(copies)


def inner_graphs(node: Any) -> list[Any]:
    """The graphs inside a node: the branches of an If, the body of a Loop."""
    return [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else a.graphs)]


def reads(node: Any) -> set[str]:
    """The values that a node reads, those of the graphs inside it included."""
    return {*node.input, *(name for graph in inner_graphs(node) for inner in graph.node for name in reads(inner))}


def unshare_constants(graph: Any) -> None:
    """Give every reader of equal constants its own copy, in place: an exporter writes them once, behind Identity."""
    values = Initializers(graph)
    copies = [n for n in graph.node if n.op_type == "Identity" and n.input[0] in values.arrays]
    for node in copies:
        graph.initializer.append(values.helper.from_array(values.arrays[node.input[0]], node.output[0]))
        graph.node.remove(node)


def drop_unread(graph: Any) -> None:
    """Take out the nodes that nothing reads, in place."""
    read = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(reads(node))
    if len(kept) < len(graph.node):
        copies = [type(node).FromString(node.SerializeToString()) for node in reversed(kept)]
        del graph.node[:]
        graph.node.extend(copies)


class Wiring:
    """Which node makes a value and which read it; what a graph inside a node reads counts as an output."""

    def __init__(self, graph: Any) -> None:
        self.maker = {name: node for node in graph.node for name in node.output}
        inner = [name for node in graph.node for name in reads(node) - set(node.input)]
        self.outputs = {o.name for o in graph.output}.union(inner)
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def only_reader(self, name: str) -> Any | None:
        """The one node that reads a value; None when there are several, or it is an output of the graph."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 and name not in self.outputs else None
