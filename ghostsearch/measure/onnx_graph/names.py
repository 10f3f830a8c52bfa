"""Which layer of the model a node of its ONNX graph belongs to, by the exporter's names."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import nearest_names

WRAPPER = "ghostsearched"
"""What the exported module is called inside what wraps it (`measure.inputs.Flat`): as no module of a user's."""


def layer_of(node: Any) -> str:
    """The dotted path of the module that a node was traced in; the weight's or the node's own name where none is told.

    The tracing exporter writes `/ghostsearched/layer1/layer1.0/conv1/Conv` for a node of `layer1.0.conv1`.
    """
    scopes = node.name.split("/")[1:-1]
    if scopes and scopes[0] == WRAPPER:
        path = last = ""
        # A container writes its own name before its items', a wrapped one the wrapper's name for it.
        for scope in (s.removeprefix(f"{WRAPPER}.") for s in scopes if s != WRAPPER):
            inside = last and scope.startswith(f"{last}.")
            path = path.removesuffix(last) + scope if inside else f"{path}.{scope}".lstrip(".")
            last = scope
        return path or node.name.rpartition("/")[2]
    weight = next((name for name in node.input[1:2] if name.endswith(".weight")), "")
    # The exporter over torch.export names no scopes.
    return weight.removesuffix(".weight").removeprefix(f"{WRAPPER}.") or node.name or node.output[0]


def name_repeated_calls(graph: Any, modules: Container[str]) -> None:
    """Name the nodes of a module's further calls, in place, after the module too: the tracing exporter numbers them.

    modules: paths of the model's modules.
    """
    for i, node in enumerate(graph.node):
        layer = layer_of(node)
        module = re.sub(r"_\d+$", "", layer)
        if layer not in modules and module in modules:
            node.name = f"/{WRAPPER}/{module}/{node.op_type}.call{i}"


def nodes_of(graph: Any, globs: Sequence[str]) -> list[str]:
    """Names of the nodes of the layers that a glob matches."""
    return [node.name for node in graph.node if any(matches(layer_of(node), glob) for glob in globs)]


def require_layers(globs: Sequence[str], layers: Iterable[str]) -> None:
    """Raise GhostsearchError, naming the nearest layers, for a glob that matches none."""
    known = sorted(set(layers) - {""})
    for glob in globs:
        if not any(matches(layer, glob) for layer in known):
            raise GhostsearchError(f"--keep-float {glob!r} matches no layer; nearest: {nearest_names(glob, known)}")


def matches(layer: str, glob: str) -> bool:
    """Whether a layer's path, or that of a module that it lies in, matches."""
    return fnmatchcase(layer, glob) or fnmatchcase(layer, f"{glob}.*")
