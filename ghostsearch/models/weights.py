"""Trained weights from a file into a model; nothing that such a file holds is ever run."""

from __future__ import annotations

import argparse
import pickle
import re
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError

WRAPPERS = (
    "params_ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema", "state_dict", "model_state_dict",
    "model_state", "model", "params", "net", "network", "module", "weights",
)  # fmt: skip
"""Entries under which training scripts keep the state dict, the first found wins: moving averages are what their
authors score."""

PREFIXES = ("_orig_mod.", "module.", "model.", "net.", "network.")
"""What torch.compile, data-parallel training, averaged models and Lightning put before every name."""

COUNTERS = ("total_ops", "total_params", "n_averaged")
"""Left in a state by thop and by averaged models; no weights."""

HARMLESS: list[Any] = [
    argparse.Namespace, types.SimpleNamespace, PurePosixPath, PosixPath,
    np.dtype, np.ndarray, multiarray.scalar, multiarray._reconstruct,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}, type(np.dtype("S1")), type(np.dtype("U1")),
]  # fmt: skip
"""What training scripts keep beside the weights: arguments, paths and numpy's numbers. Making them runs no code."""

SHOWN, DEEPEST = 3, 4


def load_weights(module: nn.Module, path: Path, *, classes: int | None = None) -> tuple[str, ...]:
    """Load trained weights into a model in place; returns the names of tensors that stayed as they were.

    Every name and shape must fit, but for a classifier of `classes` outputs where the file has another number: it
    stays as it was. Raises GhostsearchError for an unreadable file and, naming the first few, for what does not fit.
    """
    return fill(module, read_weights(path), f"weights {path}", classes=classes)


def fill(module: nn.Module, state: Mapping[str, Tensor], where: str, *, classes: int | None = None) -> tuple[str, ...]:
    """Load named tensors in place, as `load_weights` does, and raise GhostsearchError as it does, `where` in front."""
    own = module.state_dict()
    state = _renamed(state, own)
    others = {k: v.shape for k, v in state.items() if k in own and v.shape != own[k].shape}
    fresh = tuple(k for k, shape in others.items() if classes and _other_classes(own[k].shape, shape, classes))
    wrong = [k for k in others if k not in fresh]
    if wrong:
        raise GhostsearchError(f"{where}: {_shape_trouble(wrong, own, state)}")
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    foreign = [k for k in state if k not in own]
    if missing or foreign:
        parts = [_some(names, what) for names, what in ((missing, "missing"), (foreign, "unknown")) if names]
        raise GhostsearchError(f"{where} are not of this model: {'; '.join(parts)}")
    fitting = OrderedDict((k, v) for k, v in state.items() if k not in fresh)
    # Some modules (MNASNet) refuse a state without the versions that PyTorch keeps beside the tensors.
    fitting._metadata = getattr(own, "_metadata", {})  # type: ignore[attr-defined]
    module.load_state_dict(fitting, strict=False)
    return fresh


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pt file, by name, out of whatever entries they are kept in.

    Prefixes that every name has (`module.`, `_orig_mod.`, `model.`, in any nesting) are removed when the weights meet
    their model, since some models have layers of these names.
    Raises GhostsearchError when the file is missing, truncated, foreign, holds more than tensors or values that are no
    numbers.
    """
    if not path.is_file():
        raise GhostsearchError(f"weights {path}: no such file")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = _unwrapped(found)
    if state is None:
        entries = f"; found the entries {', '.join(map(str, found))[:200]}" if isinstance(found, Mapping) else ""
        raise GhostsearchError(f"weights {path}: must hold named tensors; save model.state_dict(){entries}")
    broken = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        raise GhostsearchError(f"weights {path}: {_some(broken, 'with values that are not finite')}")
    return state


def _unwrapped(found: Any) -> dict[str, Tensor] | None:
    """The state dict inside a checkpoint's entries; None where there is none."""
    for _ in range(DEEPEST):
        if not isinstance(found, Mapping):
            return None
        wrapper = next((w for w in WRAPPERS if isinstance(found.get(w), Mapping) and found[w]), None)
        if wrapper is None:
            break
        found = found[wrapper]
    if not isinstance(found, Mapping):
        return None
    state = {str(k): v for k, v in found.items() if str(k).rpartition(".")[2] not in COUNTERS}
    return state if state and all(isinstance(v, Tensor) for v in state.values()) else None


def _renamed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state under the prefixes that make the most names the model's; what is beside the model goes where all
    of the model is there.
    """

    def known(names: Mapping[str, Tensor]) -> int:
        return sum(name in own for name in names)

    best = max(_strippings(state), key=known)
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    # Lightning's checkpoints hold losses and teachers beside the model, under names of their own.
    whole = best is not state and all(name in best for name in needed)
    return {name: best[name] for name in best if name in own} if whole else best


def _strippings(state: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """The state as it is, then with one prefix after the other removed where names begin with it."""
    yield state
    plain = {re.sub(r"(^|\.)_orig_mod\.", r"\1", name): value for name, value in state.items()}
    level = [plain]
    for _ in range(DEEPEST):
        yield from level
        level = [
            {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}
            for names in level
            for prefix in PREFIXES
            if any(name.startswith(prefix) for name in names)
        ]


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def _read_pickle(path: Path) -> Any:
    try:
        # What torch thinks of foreign pickles is said below.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"Unsupported (?:global|class|type)[: ]*(?:GLOBAL )?([\w.]*)", str(error))
        if not foreign:
            raise _unreadable(path, error) from None
        named = f" (such as {foreign[1]})" if foreign[1] else ""
        raise GhostsearchError(
            f"weights {path}: holds more than tensors{named}, perhaps a whole pickled model, and is not loaded, "
            "because that could run its code; save model.state_dict() instead"
        ) from None
    # A truncated or foreign file may break the reader in any way.
    except Exception as error:  # noqa: BLE001
        if "TorchScript" in str(error):
            raise GhostsearchError(
                f"weights {path}: is a TorchScript program, not weights; save torch.jit.load(…).state_dict() instead"
            ) from None
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> GhostsearchError:
    return GhostsearchError(
        f"weights {path}: cannot be read; truncated, or neither .safetensors nor .pt ({type(error).__name__})"
    )


def _other_classes(own: torch.Size, given: torch.Size, classes: int) -> bool:
    return len(own) > 0 and own[0] == classes and own[1:] == given[1:]


def _shape_trouble(wrong: list[str], own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    first = wrong[0]
    here, there = tuple(own[first].shape), tuple(state[first].shape)
    text = f"{first} has shape {there}, the model wants {here}"
    if len(wrong) > 1:
        text += f"; {len(wrong) - 1} more, such as {', '.join(wrong[1:SHOWN])}"
    if here and there and here[1:] == there[1:] and len(wrong) <= SHOWN:
        text += f"; they are for {there[0]} classes: add --classes {there[0]}, or another number for a new classifier"
    return text


def _some(names: list[str], what: str) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})"
