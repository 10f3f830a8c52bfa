"""Convolution classes with a forward of their own (same padding, weight standardisation): what they compute."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ghostsearch.blocks.base import Conv
from ghostsearch.errors import text_of
from ghostsearch.fits.sampled_rows import per_dimension

PLAIN: tuple[type[Any], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PADDING_MODES = ("constant", "circular", "reflect", "replicate")
TOLERANCE = 1e-4


def is_plain(conv: nn.Module) -> bool:
    """Whether a convolution computes what its base class in `torch.nn` does."""
    base: Any = next(t for t in PLAIN if isinstance(conv, t))
    kind: Any = type(conv)
    own = kind.forward is not base.forward or kind._conv_forward is not base._conv_forward
    return not own and "forward" not in conv.__dict__


class _Twin1d(nn.Conv1d):
    """Plain, with margins of its own."""


class _Twin2d(nn.Conv2d):
    """Plain, with margins of its own."""


class _Twin3d(nn.Conv3d):
    """Plain, with margins of its own."""


def narrowed(conv: Any, keep: Sequence[int] | Tensor, *, bias: bool) -> Any:
    """A copy of a convolution of any class that has only some of its output channels.

    Every parameter and buffer whose first dimension counts the output channels is cut; the rest is copied.
    """
    clone: Any = copy.deepcopy(conv)
    n, keep = conv.out_channels, torch.as_tensor(keep, dtype=torch.long)
    for module in clone.modules():
        for table in (module._parameters, module._buffers):
            for name, value in table.items():
                if value is not None and value.dim() and value.shape[0] == n:
                    cut = value.detach()[keep.to(value.device)].clone()
                    table[name] = nn.Parameter(cut, value.requires_grad) if table is module._parameters else cut
    clone.out_channels = len(keep)
    if not bias:
        clone.bias = None
    return clone


def resized(conv: Any, out_channels: int, *, bias: bool | None = None) -> Any:
    """A fresh convolution of the same class (kernel, stride, padding, dilation, groups) with other output channels."""
    bias = conv.bias is not None if bias is None else bias
    if type(conv) not in PLAIN:
        clone = narrowed(conv, torch.arange(out_channels) % conv.out_channels, bias=bias)
        if not conv.weight.is_meta:
            clone.reset_parameters()
        return clone
    return type(conv)(
        conv.in_channels, out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,
        bias, conv.padding_mode, device=conv.weight.device, dtype=conv.weight.dtype,
    )  # fmt: skip


def copy_filters(conv: Any, new: Any, channels: Tensor) -> None:
    """Give a convolution of the same class and fewer output channels those filters of `conv`, in place."""
    source = conv.state_dict()
    with torch.no_grad():
        for name, value in new.state_dict().items():
            own = value.dim() and len(source[name]) == conv.out_channels
            value.copy_(source[name][channels.to(value.device)] if own else source[name])


def first_of_each_group(channels: int, wanted: int, groups: int) -> Tensor:
    """Output channels that a convolution with fewer of them keeps: the first of every group."""
    return torch.arange(channels).reshape(groups, -1)[:, : wanted // groups].flatten()


@dataclass(frozen=True)
class Convolved:
    """The one convolution that a module's forward runs."""

    x: Tensor
    """Its input, padded already where the module pads."""
    weight: Tensor
    """The filters as they are used."""
    padding: tuple[int, ...]


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Convolved] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.seen.append(Convolved(args[0], args[1], tuple(args[4])))
        return func(*args, **(kwargs or {}))


def convolved(conv: nn.Module, x: Tensor) -> tuple[Tensor, Convolved | None]:
    """A convolution module's output and what it convolves; None unless it convolves exactly once."""
    with torch.no_grad(), _Watch() as watch:
        y: Tensor = conv(x)
    return y, watch.seen[0] if len(watch.seen) == 1 else None


def smallest_input(conv: Any) -> Tensor:
    """A random input just large enough for a few outputs: (1, C, *spatial)."""
    windows = (per_dimension(conv, name) for name in ("dilation", "stride"))
    sizes = [2 * (k - 1) * d + 2 * s for k, d, s in zip(conv.kernel_size, *windows, strict=True)]
    return torch.randn(1, conv.in_channels, *sizes, device=conv.weight.device, dtype=conv.weight.dtype)


def effective_weight(conv: Any) -> Tensor:
    """The filters that a convolution uses: its weight, or what its class makes of it."""
    if is_plain(conv) or conv.weight.is_meta:
        return conv.weight.detach()
    found = convolved(conv, smallest_input(conv))[1]
    return conv.weight.detach() if found is None else found.weight.detach()


def trouble_of(conv: Any, shape: Sequence[int]) -> str:
    """Why a convolution class cannot be narrowed to some of its filters; empty when it can.

    Found by running it on random weights and images, not by its name. shape: (N, C, *spatial) of what it reads.
    """
    kind, groups = type(conv).__name__, conv.groups
    if shape[1] != conv.in_channels:
        return f"{kind}: a convolution class that reads {shape[1]} channels and convolves {conv.in_channels}"
    keep = first_of_each_group(conv.out_channels, groups * max(1, conv.out_channels // groups // 2), groups)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = _randomised(conv)
        x = torch.randn(1, *shape[1:])
        try:
            with torch.no_grad():
                y, nothing, twice = probe(x), probe(torch.zeros_like(x)), probe(2 * x)
                other = torch.randn_like(x)
                both, alone = probe(x + other), probe(other)
                part = narrowed(probe, keep, bias=probe.bias is not None)(x)
        # A foreign forward may raise anything.
        except Exception as error:  # noqa: BLE001
            return (
                f"{kind}: a convolution class that does not run with some of its filters alone ({text_of(error, 80)})"
            )
    if not isinstance(y, Tensor) or y.shape[1] != conv.out_channels:
        return f"{kind}: a convolution class whose forward does not give its output channels"
    if not (_close(twice - nothing, 2 * (y - nothing)) and _close(both - nothing, y + alone - 2 * nothing)):
        return f"{kind}: a convolution class whose forward is not linear in what it reads"
    if not _close(part, y[:, keep]):
        return f"{kind}: a convolution class whose output channels do not depend on their own filters alone"
    return ""


def needs_bias(conv: Any, shape: Sequence[int]) -> bool:
    """Whether a convolution's class does not run without its bias. shape: (N, C, *spatial) of what it reads."""
    if is_plain(conv) or conv.bias is None:
        return False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            narrowed(_randomised(conv), torch.arange(conv.out_channels), bias=False)(torch.randn(1, *shape[1:]))
    # A foreign forward may raise anything.
    except Exception:  # noqa: BLE001
        return True
    return False


def _randomised(conv: Any) -> Any:
    """A float copy on the CPU with random parameters, in evaluation mode."""
    probe = copy.deepcopy(conv)
    probe = (probe.to_empty(device="cpu") if conv.weight.is_meta else probe.cpu()).float().eval()
    for parameter in probe.parameters():
        parameter.data = torch.randn(parameter.shape)
    return probe.requires_grad_(False)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * b.abs().max().clamp_min(1e-6))


def plain_twin(conv: Any, x: Tensor) -> Conv | None:
    """A convolution of `torch.nn` that shares the parameters and computes the same on inputs of one size.

    x: (N, C, *spatial) of that size. None when there is none: where the class computes its filters from the weight
    (weight standardisation, a mask), or pads in a way that `F.pad` does not know.
    """
    if x.shape[1] != conv.in_channels or set(conv.state_dict()) - {"weight", "bias"}:
        return None
    _, found = convolved(conv, x)
    if found is None or not torch.equal(found.weight, conv.weight):
        return None
    twin: Any = {3: _Twin1d, 4: _Twin2d, 5: _Twin3d}[x.dim()](
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, 0, conv.dilation, conv.groups,
        conv.bias is not None, device="meta",
    )  # fmt: skip
    twin.weight, twin.bias, twin.training = conv.weight, conv.bias, conv.training
    for margins, mode in _paddings(x, found):
        twin._reversed_padding_repeated_twice, twin.padding_mode = margins, mode
        with torch.no_grad():
            if _close(twin(x), conv(x)):
                return twin
    return None


def _paddings(x: Tensor, found: Convolved) -> list[tuple[list[int], str]]:
    """Margins (in F.pad's order) and modes that would make the padded input's size of the input's."""
    extra = [p - s + 2 * own for p, s, own in zip(found.x.shape[2:], x.shape[2:], found.padding, strict=True)]
    if any(e < 0 for e in extra):
        return []
    sides = [[(left, e - left) for left in sorted(range(e + 1), key=lambda v, e=e: abs(2 * v - e))] for e in extra]  # type: ignore[misc]
    return [
        ([m for pair in reversed(choice) for m in pair], mode) for choice in product(*sides) for mode in PADDING_MODES
    ][:400]
