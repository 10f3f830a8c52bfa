"""Exact, device-free cost of a model: params, multiply-adds, bytes, peak activation memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ghostsearch.errors import GhostsearchError, in_a_line
from ghostsearch.graph.capture import batch_size, call, copied, forward_failed, meta_copy, moved
from ghostsearch.measure.memory import LivenessMode, weight_bytes
from ghostsearch.measure.onnx_graph.cost import graph_cost
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.records import Cost

aten = torch.ops.aten

MULTIPLYING = (
    "_fft", "linalg_", "_linalg", "_trilinear", "_cdist", "mkldnn_rnn", "_thnn_fused", "lstm", "gru",
    "grid_sampler", "_embedding_bag", "addbmm", "addr", "quantized", "_weight_int",
)  # fmt: skip
"""Beginnings of names of aten operators that multiply and have no formula in torch's counter."""


class CostWarning(UserWarning):
    """Some operator's work is missing from a count; the message names it."""


@dataclass(frozen=True)
class OperatorCount:
    """Multiply-adds of one forward of the example's whole batch, and what is not in them."""

    macs: int
    by_operator: dict[str, int]
    by_module: dict[str, int]
    """Per module path, its children's included; the empty path is the model."""
    uncounted: tuple[str, ...]
    """Operators that multiply (or come from a foreign library) and that the counter has no formula for."""
    peak_memory_bytes: int
    device: str
    """`meta`, or `cpu` when the model does not run on meta tensors."""
    reason: str = ""
    """Why it was not counted on meta tensors; empty when it was."""


def measure_cost(model: nn.Module, example: Any) -> Cost:
    """Cost of a model per image, exact; the model is left untouched.

    example: (N, C, H, W), a tuple of positional arguments, a dict of keywords or a list of images. Warns
    (CostWarning) with the names of operators that nothing counts. An ONNX graph is counted by its operators' shapes.
    Raises GhostsearchError when the forward fails.
    """
    if isinstance(model, OnnxModule):
        return graph_cost(model, example)
    count, images = count_operators(model, example), batch_size(example)
    if count.uncounted:
        warnings.warn(f"not in macs, no formula: {', '.join(count.uncounted)}", CostWarning, stacklevel=2)
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=count.macs // images,
        size_bytes=weight_bytes((*model.parameters(), *model.buffers())),
        peak_memory_bytes=count.peak_memory_bytes // images,
    )


def count_operators(model: nn.Module, example: Any) -> OperatorCount:
    """Every operator of one forward in eval mode by torch's FlopCounterMode (its FLOPs are 2·MACs).

    Runs on a copy on the meta device, else on the CPU with the reason kept. Raises GhostsearchError when both
    fail.
    """
    reason = ""
    for device in ("meta", "cpu"):
        try:
            replica = meta_copy(model) if device == "meta" else copied(model).to("cpu")
            return _counted(replica.eval().requires_grad_(False), moved(example, device), device, reason)
        # A foreign forward may raise anything: on meta tensors it is the reason to use the CPU, there it is
        # the user's.
        except Exception as error:  # noqa: BLE001
            trouble = error
            reason = reason or in_a_line(error)
    if isinstance(trouble, GhostsearchError):
        raise trouble
    raise forward_failed(model, example, trouble) from trouble


def _counted(replica: nn.Module, example: Any, device: str, reason: str) -> OperatorCount:
    flops = FlopCounterMode(display=False, custom_mapping=FURTHER_FORMULAS)
    unknown, liveness = UnknownOperators(), LivenessMode(replica, example)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), plain_attention(), liveness, unknown, flops:
        outputs = call(replica, example)
    per_module = {name: sum(ops.values()) // 2 for name, ops in flops.get_flop_counts().items()}
    total = {_short(op): n // 2 for op, n in flops.get_flop_counts().get("Global", {}).items()}
    return OperatorCount(
        macs=flops.get_total_flops() // 2,
        by_operator=total,
        by_module={_path(name): n for name, n in per_module.items() if name != "Global"},
        uncounted=tuple(sorted(unknown.names)),
        peak_memory_bytes=liveness.peak_bytes(outputs),
        device=device,
        reason=reason,
    )


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention as matrix products: fused kernels hide a third of a ViT from every counter."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class UnknownOperators(TorchDispatchMode):
    """Collects the names of operators whose multiply-adds no formula counts, so that none is a silent
    zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        if packet not in flop_registry and packet not in FURTHER_FORMULAS and _multiplies(func):
            self.names.add(str(packet).replace(".", "::", 1))
        return func(*args, **(kwargs or {}))


def _multiplies(func: Any) -> bool:
    if func.namespace not in ("aten", "prim", "prims", "profiler"):
        # It compares boxes, a handful of operations for each pair.
        return str(func.overloadpacket) != "torchvision.nms"
    return str(func.overloadpacket.__name__).startswith(MULTIPLYING)


FURTHER_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mv: lambda matrix, *_, **__: 2 * prod(matrix),
    aten.addmv: lambda _, matrix, *__, **___: 2 * prod(matrix),
    aten.dot: lambda vector, *_, **__: 2 * prod(vector),
    aten.vdot: lambda vector, *_, **__: 2 * prod(vector),
}
"""Matrix products that torch's counter leaves out: operator -> FLOPs (2·MACs) from the arguments' shapes."""


def _short(operator: Any) -> str:
    return str(operator).removeprefix("aten.")


def _path(name: str) -> str:
    """`ResNet.layer1.0.conv1` -> `layer1.0.conv1`."""
    return name.partition(".")[2]
