"""Random small networks with the habits of real ones, and what a conversion of one must keep.

A network is a short program: each step makes a value from earlier ones. What an output depends on is therefore known
without running anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE, BATCH = 8, 24
CHANNELS = (4, 6, 8, 12)
ACTIVATIONS = (F.relu, F.silu, torch.tanh, F.hardswish, nn.Identity())
"""The last is no child of the network: torch.fx cannot trace a network that calls it."""


class SamePadded(nn.Conv2d):
    """Pads by itself so that each stride divides the size, more behind than in front."""

    def forward(self, x: Tensor) -> Tensor:
        margins: list[int] = []
        for size, kernel, stride in reversed(list(zip(x.shape[2:], self.kernel_size, self.stride, strict=True))):
            need = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            margins += [need // 2, need - need // 2]
        return F.conv2d(F.pad(x, margins), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardised(nn.Conv2d):
    """Filters of mean zero and length one with a gain."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = self.gain * centred / centred.square().sum((1, 2, 3), keepdim=True).add(1e-6).sqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Scaled(nn.Conv2d):
    """A constant factor on the weight (equalised learning rate)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 1.5, self.bias, self.stride, self.padding, self.dilation, self.groups)


KINDS: tuple[Callable[..., nn.Conv2d], ...] = (nn.Conv2d, nn.Conv2d, nn.Conv2d, SamePadded, Standardised, Scaled)


@dataclass(frozen=True)
class Step:
    """One line of a network's program."""

    kind: str
    sources: tuple[int, ...]
    layer: str = ""
    form: int = 0


class RandomNet(nn.Module):
    """The network of a seed; `outputs` are the values that it returns, as a tensor, tuple, list or dict."""

    def __init__(self, seed: int, steps: int = 9) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.steps: list[Step] = []
        self.shapes: list[tuple[int, int]] = [(3, SIZE)]
        self._conv(0)
        while len(self.steps) < steps:
            make = self.rng.choice(
                [self._conv, self._conv, self._conv, self._grouped, self._transposed, self._sum, self._sum, self._cat,
                 self._shared, self._pool, self._context, self._parameter]
            )  # fmt: skip
            make(self.rng.randrange(max(1, len(self.shapes) - 4), len(self.shapes)))
        read = {s for step in self.steps for s in step.sources}
        ends = [i for i in range(1, len(self.shapes)) if i not in read]
        if self.rng.random() < 0.3:
            ends.append(self.rng.randrange(1, len(self.shapes)))
        self.outputs, self.form = tuple(dict.fromkeys(ends)), self.rng.choice(["tuple", "list", "dict"])

    def _add(self, step: Step, channels: int, size: int) -> None:
        self.steps.append(step)
        self.shapes.append((channels, size))

    def _layer(self, layer: nn.Module) -> str:
        name = f"layer{len(self._modules)}"
        self.add_module(name, layer)
        return name

    def _conv(self, source: int) -> None:
        channels, size = self.shapes[source]
        made, kernel = self.rng.choice(CHANNELS), self.rng.choice([1, 3, 3])
        stride = self.rng.choice([1, 1, 1, 2]) if size > 4 else 1
        kind = self.rng.choice(KINDS) if source else nn.Conv2d
        padding = 0 if kind is SamePadded else kernel // 2
        keywords: dict[str, Any] = {"bias": self.rng.random() < 0.6}
        if kind is nn.Conv2d and self.rng.random() < 0.2:
            keywords["padding_mode"] = self.rng.choice(["circular", "replicate", "reflect"])
        conv = kind(channels, made, kernel, stride, padding, **keywords)
        after = -(-size // stride)
        if self.rng.random() < 0.5:
            layer = self._layer(conv)
            self._add(Step("call", (source,), layer, self.rng.randrange(2) if kind is nn.Conv2d else 0), made, after)
            self._add(Step("call", (len(self.shapes) - 1,), self._layer(nn.BatchNorm2d(made))), made, after)
        else:
            form = self.rng.randrange(2) if kind is nn.Conv2d else 0
            self._add(Step("call", (source,), self._layer(conv), form), made, after)
        self._add(Step("activate", (len(self.shapes) - 1,), form=min(self.rng.randrange(24) // 5, 4)), made, after)

    def _grouped(self, source: int) -> None:
        channels, size = self.shapes[source]
        groups = self.rng.choice([2, channels])
        if channels % groups == 0:
            conv = nn.Conv2d(channels, channels * self.rng.choice([1, 2]), 3, padding=1, groups=groups)
            self._add(Step("call", (source,), self._layer(conv)), conv.out_channels, size)

    def _transposed(self, source: int) -> None:
        channels, size = self.shapes[source]
        groups, made = self.rng.choice([1, 1, 2]), self.rng.choice(CHANNELS)
        if size <= SIZE and channels > 3:
            layer = nn.ConvTranspose2d(channels, made, 2, 2, groups=groups)
            self._add(Step("call", (source,), self._layer(layer)), made, 2 * size)

    def _sum(self, source: int) -> None:
        twins = [i for i, shape in enumerate(self.shapes) if i and shape == self.shapes[source]]
        self._add(Step("sum", (source, self.rng.choice(twins)), form=self.rng.randrange(5)), *self.shapes[source])

    def _cat(self, source: int) -> None:
        twins = [i for i, shape in enumerate(self.shapes) if i and shape[1] == self.shapes[source][1]]
        other = self.rng.choice(twins)
        channels = self.shapes[source][0] + self.shapes[other][0]
        if channels <= 32:
            self._add(Step("cat", (source, other)), channels, self.shapes[source][1])

    def _shared(self, source: int) -> None:
        """A layer that was called before, on another value."""
        calls = [s for s in self.steps if s.kind == "call" and self.shapes[s.sources[0]] == self.shapes[source]]
        if calls:
            step = self.rng.choice(calls)
            self._add(Step("call", (source,), step.layer), *self.shapes[self.steps.index(step) + 1])

    def _pool(self, source: int) -> None:
        channels, size = self.shapes[source]
        if size > 4:
            self._add(Step("pool", (source,)), channels, size // 2)

    def _context(self, source: int) -> None:
        """A pooled value that is added to, or multiplied with, every position."""
        channels, size = self.shapes[source]
        layer = self._layer(nn.Conv2d(channels, channels, 1))
        self._add(Step("context", (source,), layer, self.rng.randrange(2)), channels, size)

    def _parameter(self, source: int) -> None:
        channels, size = self.shapes[source]
        name = f"bias{len(self.steps)}"
        self.register_parameter(name, nn.Parameter(torch.randn(1, channels, 1, 1)))
        self._add(Step("parameter", (source,), name, self.rng.randrange(2)), channels, size)

    def forward(self, x: Tensor) -> Any:
        values = [x]
        for step in self.steps:
            values.append(self._value(step, [values[i] for i in step.sources]))
        found = [values[i] for i in self.outputs]
        if len(found) == 1:
            return found[0]
        if self.form == "dict":
            return {f"out{i}": value for i, value in enumerate(found)}
        return found if self.form == "list" else tuple(found)

    def _value(self, step: Step, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        if step.kind == "call":
            layer = getattr(self, step.layer)
            return layer(input=x) if step.form else layer(x)
        if step.kind == "activate":
            return ACTIVATIONS[step.form](x)
        if step.kind == "sum":
            return (
                lambda: x + inputs[1], lambda: torch.add(x, inputs[1], alpha=0.5), lambda: x.add(other=inputs[1]),
                lambda: torch.add(input=x, other=inputs[1]), lambda: x + x,
            )[step.form]()  # fmt: skip
        if step.kind == "cat":
            return torch.cat([x, inputs[1]], 1)
        if step.kind == "pool":
            return F.max_pool2d(x, 2)
        other = getattr(self, step.layer)
        if step.kind == "context":
            pooled = other(F.adaptive_avg_pool2d(x, 1))
            return x * torch.sigmoid(pooled) if step.form else x + pooled
        return other + x if step.form else x + other

    def depends(self, layers: set[str]) -> list[bool]:
        """Per output, whether it is computed from one of some layers."""
        reached = {0: False}
        for i, step in enumerate(self.steps, 1):
            reached[i] = step.layer in layers or any(reached[s] for s in step.sources)
        return [reached[i] for i in self.outputs]


def made(seed: int) -> tuple[RandomNet, Tensor]:
    """The network of a seed with usual statistics, in evaluation mode, and images (N, 3, 8, 8)."""
    torch.manual_seed(seed)
    net, x = RandomNet(seed), torch.randn(BATCH, 3, SIZE, SIZE)
    with torch.no_grad():
        net.train()
        for _ in range(3):
            net(x)
    return net.eval(), x
