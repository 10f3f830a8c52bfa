"""Tensors on their way to disk, and as the bytes that a digest is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError, text_of
from ghostsearch.files import atomic_path, cannot_write


def write_tensors(path: Path, state: Mapping[str, object], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name as safetensors, contiguous, in their dtype, whole or not at all.

    Raises GhostsearchError when the state holds more than tensors, or the file cannot be written.
    """
    copies = {name: _storable(name, value) for name, value in state.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(copies, temporary, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:
            raise cannot_write(path, str(error)) from None


def write_checkpoint(state: Mapping[str, object], file: Path) -> None:
    """Write a training's state, whole or not at all; raises GhostsearchError when the file cannot be written."""
    with atomic_path(file) as temporary:
        try:
            torch.save(state, temporary)
        # As torch.save tells of a full disk.
        except RuntimeError as error:
            raise cannot_write(file, text_of(error, 80)) from None


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A training's state, read without running code; raises GhostsearchError when the file holds none."""
    try:
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    # Anything can be wrong with the bytes of a file.
    except Exception as error:
        raise GhostsearchError(
            f"{file}: not a ghostsearch checkpoint ({text_of(error, 120)}); choose another folder"
        ) from error
    return found


def raw_bytes(value: Tensor) -> Any:
    """The bytes of a tensor's values: (bytes,) of numpy's uint8."""
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def weights_digest(model: nn.Module) -> str:
    """Name of a network's weights, by which a run that resumes knows them."""
    state = hashlib.sha256()
    for name, value in model.state_dict().items():
        state.update(name.encode())
        state.update(raw_bytes(value))
    return f"sha256 {state.hexdigest()[:16]}"


def _storable(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise GhostsearchError(
            f"cannot save: the model's state {name!r} is a {type(value).__name__}; only tensors are stored"
        )
    # A copy each: safetensors refuses memory that two names share, and anything but contiguous.
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)
