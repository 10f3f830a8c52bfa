"""Trained weights from a file into a model; nothing that such a file holds is ever run."""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Entries under which training scripts keep the state dict."""

SHOWN = 3


def load_weights(module: nn.Module, path: Path, *, classes: int | None = None) -> tuple[str, ...]:
    """Load trained weights into a model in place; returns the names of tensors that stayed as they were.

    Every name and shape must fit, but for a classifier of `classes` outputs where the file has another number: it
    stays as it was. Raises GhostsearchError for an unreadable file and, naming the first few, for what does not fit.
    """
    state, own = read_weights(path), module.state_dict()
    others = {k: v.shape for k, v in state.items() if k in own and v.shape != own[k].shape}
    fresh = tuple(k for k, shape in others.items() if classes and _other_classes(own[k].shape, shape, classes))
    wrong = [k for k in others if k not in fresh]
    if wrong:
        raise GhostsearchError(f"weights {path}: {_shape_trouble(wrong, own, state)}")
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    foreign = [k for k in state if k not in own]
    if missing or foreign:
        parts = [_some(names, what) for names, what in ((missing, "missing"), (foreign, "unknown")) if names]
        raise GhostsearchError(f"weights {path} are not of this model: {'; '.join(parts)}")
    fitting = OrderedDict((k, v) for k, v in state.items() if k not in fresh)
    # Some modules (MNASNet) refuse a state without the versions that PyTorch keeps beside the tensors.
    fitting._metadata = getattr(own, "_metadata", {})  # type: ignore[attr-defined]
    module.load_state_dict(fitting, strict=False)
    return fresh


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pt file, by name.

    Unwraps `state_dict` and `model` entries and the `module.` prefix of data-parallel training.
    Raises GhostsearchError when the file is missing, truncated, foreign, holds more than tensors or values that are no
    numbers.
    """
    if not path.is_file():
        raise GhostsearchError(f"weights {path}: no such file")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise GhostsearchError(f"weights {path}: must hold named tensors; save model.state_dict()")
    broken = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        raise GhostsearchError(f"weights {path}: {_some(broken, 'with values that are not finite')}")
    prefix = "module." if all(str(k).startswith("module.") for k in state) else ""
    return {str(k).removeprefix(prefix): v for k, v in state.items()}


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch thinks of foreign pickles is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error):
            raise _unreadable(path, error) from None
        raise GhostsearchError(
            f"weights {path}: holds more than tensors (a whole pickled model?) and is not loaded, because that could "
            "run its code; save model.state_dict() instead"
        ) from None
    # A truncated or foreign file may break the reader in any way.
    except Exception as error:  # noqa: BLE001
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
    if here[1:] == there[1:] and len(wrong) <= SHOWN:
        text += f"; they are for {there[0]} classes: add --classes {there[0]}, or another number for a new classifier"
    return text


def _some(names: list[str], what: str) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})"
