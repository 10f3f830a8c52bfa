"""Where the values of many calibration images lie during a fit: in memory up to a limit, in files beyond it."""

from __future__ import annotations

import ctypes
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

MEMORY_BYTES = 2**30
"""Values that one fit holds in memory; what goes beyond is mapped from files, so more images need no more memory."""
TRIM_BYTES = 2**26
"""Values moved to files until freed memory is given back to the system."""


class Shelf:
    """Room in memory for tensors that outlive a batch; a tensor that is dropped gives its room back."""

    def __init__(self, memory_bytes: int) -> None:
        self.room = memory_bytes
        self.moved = 0

    def put(self, value: Tensor) -> Tensor:
        """The value itself, or where there is no room for it a copy whose memory is a file's."""
        if value.device.type != "cpu" or value.numel() == 0:
            return value
        if value.nbytes > self.room:
            self.moved += value.nbytes
            if self.moved > TRIM_BYTES:
                self.moved = 0
                _give_back_freed_memory()
            return _on_disk(value)
        self.room -= value.nbytes
        weakref.finalize(value, self._back, value.nbytes)
        return value

    def _back(self, count: int) -> None:
        self.room += count


def _on_disk(value: Tensor) -> Tensor:
    """A copy in a file that has no name any more: it goes when the tensor goes, even when the process is killed."""
    with tempfile.NamedTemporaryFile(prefix="ghostsearch-") as file:
        mapped = torch.from_file(file.name, shared=True, size=value.numel(), dtype=value.dtype)
    # The meta tensor has the memory order that PyTorch gives a copy: channels_last stays channels_last.
    return mapped.as_strided(value.shape, torch.empty_like(value, device="meta").stride()).copy_(value)


def _give_back_freed_memory() -> None:
    """Have glibc return what was freed: among blocks of this size it would keep almost all of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


_CURRENT: ContextVar[Shelf | None] = ContextVar("shelf", default=None)


@contextmanager
def shelf(memory_bytes: int = MEMORY_BYTES) -> Iterator[Shelf]:
    """Within, `kept` holds at most so many bytes in memory."""
    made = Shelf(memory_bytes)
    token = _CURRENT.set(made)
    try:
        yield made
    finally:
        _CURRENT.reset(token)


def kept(value: Tensor) -> Tensor:
    """A value of one batch that a fit needs again later, put on the shelf in use."""
    current = _CURRENT.get()
    return value if current is None else current.put(value)
