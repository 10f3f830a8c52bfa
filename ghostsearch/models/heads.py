"""Another number of classes: the layers that a network's outputs come from are replaced."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.blocks.own_conv import resized
from ghostsearch.errors import GhostsearchError, in_a_line
from ghostsearch.graph.capture import output_channels, tensors
from ghostsearch.graph.exchange import exchange


def set_classes(module: nn.Module, classes: int, example: Tensor) -> None:
    """Give the classifier, and auxiliary ones, `classes` outputs, freshly initialised; in place.

    Classifiers are the linear layers and convolutions that outputs are computed from with no such layer in between, in
    either mode, and that have as many outputs as the first of them. A layer that has `classes` outputs keeps its
    parameters. example: (N, C, *dims), N at least 2. Raises GhostsearchError when there is no such layer, or the
    network does not run on the example, before or afterwards.
    """
    ends = [path for training in (False, True) for path in _ends(module, example, training=training)]
    if not ends:
        raise GhostsearchError("--classes: the model has no linear layer or convolution at its end to adapt")
    before = output_channels(module.get_submodule(ends[0]))
    heads = [path for path in dict.fromkeys(ends) if output_channels(module.get_submodule(path)) == before != classes]
    if "" in heads:
        raise GhostsearchError("--classes: the model is a single layer; put it into a torch.nn.Sequential")
    old = [module.get_submodule(path) for path in heads]
    exchange(module, {id(layer): _resized(layer, classes) for layer in old})
    _run(module, example, f" once {', '.join(heads)} {'have' if len(heads) > 1 else 'has'} {classes} outputs")


def _ends(module: nn.Module, example: Tensor, *, training: bool) -> list[str]:
    """Layers that outputs come from and that no other such layer reads, in the order of the outputs."""
    replica = copy.deepcopy(module).train(training).requires_grad_(True)
    made: dict[Any, str] = {}

    def note(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            made[output.grad_fn] = path

        return hook

    for path, layer in replica.named_modules():
        if _may_classify(layer):
            layer.register_forward_hook(note(path))
    outputs = _run(replica, example, grad=True)
    last = _nearest((x.grad_fn for x in outputs), made)
    inner, stack = set[Any](), last
    while stack:
        stack = [n for n in _nearest((f for node in stack for f, _ in node.next_functions), made) if n not in inner]
        inner.update(stack)
    return [made[node] for node in last if node not in inner]


def _nearest(nodes: Iterable[Any], made: dict[Any, str]) -> list[Any]:
    """The autograd nodes of layers that some nodes are computed from with no layer in between."""
    stack, seen = list(nodes)[::-1], set[Any]()
    found: list[Any] = []
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in made:
            found.append(node)
        else:
            stack.extend(before for before, _ in node.next_functions)
    return found


def _run(module: nn.Module, example: Tensor, when: str = "", *, grad: bool = False) -> list[Tensor]:
    try:
        with torch.set_grad_enabled(grad), torch.random.fork_rng(devices=[]):
            return list(tensors((module if grad else copy.deepcopy(module).eval())(example)))
    # A foreign forward may raise anything.
    except Exception as error:
        shown = in_a_line(error)
        raise GhostsearchError(
            f"--classes: the model does not run on {tuple(example.shape)}{when} ({shown}); let the function that "
            "builds it take num_classes"
        ) from error


def _may_classify(layer: nn.Module) -> bool:
    convolution = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1
    return isinstance(layer, nn.Linear) or convolution


def _resized(old: Any, classes: int) -> nn.Module:
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, classes, old.bias is not None)
    made: nn.Module = resized(old, classes)
    return made
