"""Which kinds of layer hold a model's params and multiply-adds."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ghostsearch.graph.capture import batch_size
from ghostsearch.measure.cost import count_operators
from ghostsearch.space.costs import is_depthwise


def shares_by_kind(model: nn.Module, example: Any) -> list[dict[str, Any]]:
    """Rows `kind`, `layers`, `params`, `macs`, `params_share`, `macs_share`; most multiply-adds first, per
    image.

    A layer is a module that owns parameters itself; products that no such module makes (attention) are
    `functional`.
    """
    count, images = count_operators(model, example), batch_size(example)
    rows: dict[str, dict[str, Any]] = {}
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    counted = 0
    for module, names in paths.items():
        params = sum(p.numel() for p in module.parameters(recurse=False))
        if not params:
            continue
        row = rows.setdefault(kind_of(module), {"layers": 0, "params": 0, "macs": 0})
        # The counter knows a module that stands in several places by one of them.
        macs = sum(_own_macs(module, name, count.by_module) for name in names)
        counted += macs
        row["layers"] += 1
        row["params"] += params
        row["macs"] += macs // images
    if functional := (count.macs - counted) // images:
        rows["functional"] = {"layers": 0, "params": 0, "macs": functional}
    params = sum(row["params"] for row in rows.values()) or 1
    macs = sum(row["macs"] for row in rows.values()) or 1
    table = [
        {"kind": kind, **row, "params_share": row["params"] / params, "macs_share": row["macs"] / macs}
        for kind, row in rows.items()
    ]
    return sorted(table, key=lambda row: (-row["macs"], -row["params"]))


def kind_of(module: nn.Module) -> str:
    """`conv 3x3`, `conv 1x1 grouped`, `depthwise 3x3`, `transposed 2x2`, `linear`, or the type's name."""
    if isinstance(module, nn.Linear):
        return "linear"
    if not isinstance(module, _ConvNd):
        return type(module).__name__
    kernel = "x".join(map(str, module.kernel_size))
    if isinstance(module, _ConvTransposeNd):
        return f"transposed {kernel}"
    if module.groups == 1:
        return f"conv {kernel}"
    return f"depthwise {kernel}" if is_depthwise(module) else f"conv {kernel} grouped"


def _own_macs(module: nn.Module, path: str, by_module: dict[str, int]) -> int:
    inner = sum(by_module.get(f"{path}.{name}" if path else name, 0) for name, _ in module.named_children())
    return by_module.get(path, 0) - inner
