"""Tensors that compute on the CPU and claim another device, so that mixing the two fails as it would on a GPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

ELSEWHERE = torch.device("meta")
"""The only device that PyTorch lets a tensor name without its runtime; the values are real all the same."""


class Elsewhere(Tensor):
    """A CPU tensor under the name of another device."""

    values: Tensor  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=ELSEWHERE, requires_grad=False,
        )  # fmt: skip
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{func} outside of the mode")


class ElsewhereMode(TorchDispatchMode):
    """Within, tensors made for or moved to ELSEWHERE are labelled; an operation that reads both kinds raises.

    `left` counts what came back to the CPU: elements by operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left: Counter[str] = Counter()
        self.computed = 0

    def __enter__(self) -> ElsewhereMode:
        # It writes its values before any mode sees the tensor.
        self.tensor = torch.tensor
        torch.tensor = lambda *args, device=None, **kwargs: self.tensor(*args, **kwargs).to(device or "cpu")
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        torch.tensor = self.tensor
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        labelled = [t for t in given if isinstance(t, Elsewhere)]
        unlabelled = [t for t in given if not isinstance(t, Elsewhere)]
        if labelled:
            assert not any(t.is_meta for t in unlabelled), f"{func}: a tensor without values"
        name = func.overloadpacket.__name__
        # On a GPU too a scalar of the CPU may enter any operation, positions may index and a copy may cross.
        indices = name in ("index", "index_put_", "_index_put_impl_")
        stray = [t for t in unlabelled if t.dim() and not (indices and t.dtype == torch.long)]
        if labelled and stray and name != "copy_":
            raise RuntimeError(f"{name} reads tensors of two devices: {[tuple(t.shape) for t in stray]} are on the CPU")
        wanted = kwargs.get("device")
        target = bool(labelled) if wanted is None else torch.device(wanted) == ELSEWHERE
        if wanted is not None and target:
            kwargs["device"] = torch.device("cpu")
        if name == "copy_" and labelled and not isinstance(args[0], Elsewhere):
            self.left[name] += args[0].numel()
        result = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
        if name == "_local_scalar_dense" or not isinstance(result, Tensor | list | tuple):
            return result
        if labelled and not target:
            self.left[name] += sum(t.numel() for t in labelled)
        if func._schema.name.endswith("_") and given and result is _bare(args[0]):
            return args[0]
        self.computed += target
        return tree_map(lambda t: Elsewhere(t) if isinstance(t, Tensor) else t, result) if target else result


def _bare(value: Any) -> Any:
    return value.values if isinstance(value, Elsewhere) else value
