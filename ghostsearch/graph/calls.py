"""One forward that notes how often each layer is called, with which shapes, and who else reads its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from ghostsearch.graph.capture import Shape, forward_copy, tensors


@dataclass
class Calls:
    """What a forward did with the layers of some kinds."""

    shapes: dict[str, list[tuple[Shape, Shape]]] = field(default_factory=dict)
    """Per path the input and output shape (with batch) of each call."""
    read_elsewhere: dict[str, str] = field(default_factory=dict)
    """Per path why its parameters are not its own business: something outside its forward computes with them."""


def trace_calls(model: nn.Module, example: Any, kinds: tuple[type[nn.Module], ...]) -> Calls:
    """The calls of a model's layers on an example; the model is left untouched.

    Raises GhostsearchError when the forward fails.
    """
    found = Calls()

    def watch(replica: nn.Module) -> Any:
        found.shapes.clear()
        found.read_elsewhere.clear()
        readers = _Readers(found)
        for path, module in replica.named_modules():
            if isinstance(module, kinds):
                readers.owners |= {id(p): path for p in module.parameters(recurse=False)}
                module.register_forward_pre_hook(readers.entering(path))
                module.register_forward_hook(_noted(found.shapes.setdefault(path, []), readers), with_kwargs=True)
        return readers

    forward_copy(model, example, watch)
    return found


class _Readers(TorchFunctionMode):
    """Notes every function that takes a watched parameter outside the forward of the layer that owns it."""

    def __init__(self, found: Calls) -> None:
        super().__init__()
        self.found = found
        self.owners: dict[int, str] = {}
        self.inside: list[str] = []

    def entering(self, path: str) -> Callable[..., None]:
        """A hook that says whose forward runs."""

        def hook(*_: Any) -> None:
            self.inside.append(path)

        return hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Shapes, types and devices may be asked for by anybody.
        if next(tensors(result), None) is not None:
            for tensor in tensors((args, kwargs)):
                path = self.owners.get(id(tensor))
                if path is not None and path not in self.inside:
                    self.found.read_elsewhere[path] = (
                        "weight read elsewhere: another part of the forward computes with its weight (tied layers, "
                        "demodulation), which a replacement would not have"
                    )
        return result


def _noted(found: list[tuple[Shape, Shape]], readers: _Readers) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        readers.inside.pop()
        x = next(tensors((args, kwargs)))
        found.append((tuple(x.shape), tuple(output.shape)))

    return hook
