"""The layers of a model that a choice or a width changes, each as a tiny model in the context it stands in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.activation import MultiheadAttention
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ghostsearch.blocks.base import CONVS
from ghostsearch.blocks.table import build_block
from ghostsearch.graph.capture import Shape, forward_copy, tensors
from ghostsearch.measure.cost_table import Channels, reached_layers
from ghostsearch.measure.onnx_graph.capture import onnx_module
from ghostsearch.measure.onnx_graph.names import matches
from ghostsearch.measure.streams import SUMS, Stream, WithSums, find_streams
from ghostsearch.space.architecture import Anatomy
from ghostsearch.space.choice import LayerChoice
from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.space.costs import passes_channels

ACTIVATIONS = tuple(
    kind
    for kind in vars(nn.modules.activation).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind not in (nn.Module, MultiheadAttention)
)


@dataclass(frozen=True)
class Cell:
    """One thing to time: a layer's shape, what follows it, a choice and its channels. Equal layers share a cell."""

    layer: str
    choice: str
    inputs: int
    outputs: int
    behind: str = ""
    """The sums behind it, when it is timed with them."""
    full: tuple[int, int] | None = None
    """Channels of the whole layer that it is timed beside, where it has fewer."""

    @property
    def key(self) -> str:
        """The cell's name in the store."""
        of = f" of {self.full[0]}->{self.full[1]}" if self.full else ""
        return f"{self.layer} | {self.choice} | {self.inputs}->{self.outputs}{of}{self.behind and ' | '}{self.behind}"


@dataclass(frozen=True)
class TimedLayer:
    """A convolution or linear layer with all that decides its time."""

    path: str
    name: str
    """Type, hyper-parameters, input sizes and followers; layers of one name take the same time."""
    module: Any
    inputs: Channels
    outputs: Channels
    shapes: tuple[Shape, ...]
    """Input shape (with batch) of each of its calls in one forward."""
    followers: tuple[nn.Module, ...]
    stream: Stream
    kept_float: bool = False
    """Whether it computes in float where the device computes in int8."""

    @property
    def depthwise(self) -> bool:
        """Whether it has as many outputs as inputs at any width, each made of one."""
        return isinstance(self.module, _ConvNd) and passes_channels(self.module)

    @property
    def work(self) -> float:
        """All its calls' work over that of the largest, which is the one that is timed."""
        sizes = [prod(shape) for shape in self.shapes]
        return sum(sizes) / max(sizes)

    def full_cell(self, choice: LayerChoice) -> Cell:
        """The cell of this layer under a choice at full width."""
        return self.cell(choice, self.inputs.total, self.outputs.total)

    def cell(self, choice: LayerChoice, inputs: int, outputs: int) -> Cell:
        """The cell of this layer under a choice at some channels."""
        whole = self.inputs.total, self.outputs.total
        return Cell(self.name, str(choice), inputs, outputs, full=None if (inputs, outputs) == whole else whole)

    def stream_cell(self, choice: LayerChoice) -> Cell:
        """The cell of this layer at full width, with the sums behind it."""
        behind = f"then {SUMS} sums{' with ReLU' * self.stream.relu}"
        return Cell(self.name, str(choice), self.inputs.total, self.outputs.total, behind)

    def tiny(self, cell: Cell, batch: int) -> tuple[nn.Module, Tensor]:
        """A cell's layer with its norm and activation, fresh weights, and a random input of its real size."""
        inputs, outputs = cell.inputs, cell.outputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            block = build_block(self._resized(inputs, outputs), parse_layer_choice(cell.choice))
            stack: nn.Module = nn.Sequential(
                block, *(_refit(follower, self.outputs.total, outputs) for follower in self.followers)
            )
            if cell.behind:
                # By the cell, not by this layer: a twin without a stream may build it too.
                stack = WithSums(stack, CONVS[self.module.weight.dim() - 2], outputs, relu="ReLU" in cell.behind)
            largest = max(self.shapes, key=prod)
            shape = (*largest[1:-1], inputs) if isinstance(self.module, nn.Linear) else (inputs, *largest[2:])
            x = torch.randn(batch, *shape)
        # An int8 device quantizes modules, and takes graphs as they are.
        return (onnx_module(stack.eval(), x) if self.kept_float else stack.eval()), x

    def _resized(self, inputs: int, outputs: int) -> Any:
        old = self.module
        if isinstance(old, nn.Linear):
            return nn.Linear(inputs, outputs, bias=old.bias is not None)
        groups = outputs if self.depthwise else old.groups
        return CONVS[old.weight.dim() - 2](
            inputs, outputs, old.kernel_size, old.stride, old.padding, old.dilation, groups,
            old.bias is not None, old.padding_mode,
        )  # fmt: skip


def timed_layers(model: nn.Module, example: Any, anatomy: Anatomy, keep_float: Sequence[str] = ()) -> list[TimedLayer]:
    """Every convolution and linear layer that is a site or that a group of changeable width reaches, in forward order.

    Transposed convolutions keep the baseline's time: they are left out. keep_float: globs of the layers that stay in
    float on an int8 device.
    """
    reached = reached_layers(model, example, anatomy)
    sites = {site.path for site in anatomy.sites}
    calls, followers = _trace(model, example)
    streams = find_streams(model)
    layers = []
    for path, module in model.named_modules():
        ins, outs = reached.get((path, "in"), ()), reached.get((path, "out"), ())
        wanted = path in sites or ins or outs
        plain_kind = isinstance(module, _ConvNd | nn.Linear) and not isinstance(module, _ConvTransposeNd)
        if not (wanted and plain_kind and calls.get(path)):
            continue
        c, n = _channels(module)
        if isinstance(module, _ConvNd) and passes_channels(module):
            ins = outs = outs or ins
        after = tuple(model.get_submodule(name) for name in followers.get(path, ()))
        shapes = tuple(calls[path])
        stream = streams.get(path, Stream()) if isinstance(module, _ConvNd) else Stream()
        kept = any(matches(path, glob) for glob in keep_float)
        name = _name(module, shapes, after) + " in float" * kept
        layers.append(TimedLayer(path, name, module, Channels(c, ins), Channels(n, outs), shapes, after, stream, kept))
    return layers


def _channels(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


def _name(module: Any, shapes: Sequence[Shape], followers: Sequence[nn.Module]) -> str:
    after = "".join(f" + {type(f).__name__}" for f in followers)
    sizes = ", ".join("x".join(map(str, s[1:-1] if isinstance(module, nn.Linear) else s[2:])) for s in shapes)
    if isinstance(module, nn.Linear):
        return f"Linear bias={module.bias is not None} on {sizes or 1}{after}"
    groups = "depthwise" if passes_channels(module) else module.groups
    what = " ".join(
        f"{key}={'x'.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in {
            "kernel": module.kernel_size, "stride": module.stride, "padding": module.padding,
            "dilation": module.dilation, "groups": groups, "bias": module.bias is not None,
            "mode": module.padding_mode,
        }.items()
    )  # fmt: skip
    return f"{type(module).__name__} {what} on {sizes}{after}"


def _refit(follower: nn.Module, whole: int, channels: int) -> nn.Module:
    """A copy of a norm or activation for the first of its channels."""
    twin: Any = copy.deepcopy(follower)
    for name, tensor in [*twin.named_parameters(recurse=False), *twin.named_buffers(recurse=False)]:
        # A PReLU has one slope, or one for each channel.
        if tensor.dim() == 1 and len(tensor) == whole:
            getattr(twin, name).data = tensor.data[:channels].clone()
    if isinstance(twin, _BatchNorm):
        twin.num_features = channels
    return twin


def _trace(model: nn.Module, example: Any) -> tuple[dict[str, list[Shape]], Mapping[str, tuple[str, ...]]]:
    """Per layer the input shapes of its calls, and the norm and activation that read its output and nothing else's.

    Runtimes fold these into a convolution, but not through the concatenation that ends a ghost block: a layer timed
    without them would favour ghosts.
    """
    calls: dict[str, list[Shape]] = {}
    readers: dict[str, list[str]] = {}

    def watch(replica: nn.Module) -> None:
        calls.clear()
        readers.clear()
        # Tensors are held, so that no identity is used twice in one forward.
        made: dict[int, tuple[str, Tensor, int]] = {}

        def before(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            first = next(tensors((args, kwargs)))
            if isinstance(module, _ConvNd | nn.Linear):
                calls.setdefault(path, []).append(tuple(first.shape))
            source = made.get(id(first))
            # A residual sum in place leaves another value in the same tensor.
            if source is not None and source[2] == first._version:
                readers.setdefault(source[0], []).append(path)

        def after(path: str, output: Any) -> None:
            if isinstance(output, Tensor):
                made[id(output)] = (path, output, output._version)

        for path, module in replica.named_modules():
            if not list(module.children()):
                module.register_forward_pre_hook(
                    lambda m, args, kwargs, path=path: before(path, m, args, kwargs), with_kwargs=True
                )
                module.register_forward_hook(lambda _, __, output, path=path: after(path, output))

    forward_copy(model, example, watch)
    return calls, {path: _chain(model, readers, path) for path in calls}


def _chain(model: nn.Module, readers: Mapping[str, list[str]], path: str) -> tuple[str, ...]:
    chain: list[str] = []
    for kinds in ((_BatchNorm,), ACTIVATIONS):
        nexts = readers.get(chain[-1] if chain else path, [])
        if len(nexts) == 1 and isinstance(model.get_submodule(nexts[0]), kinds):
            chain.append(nexts[0])
    return tuple(chain)
