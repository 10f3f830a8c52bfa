"""Why a trial failed, in one line: what PyTorch and the runtimes raise, told apart by kind. No torch here."""

from __future__ import annotations

from typing import Literal

from ghostsearch.errors import GhostsearchError, TrainingError

Kind = Literal["out of memory", "training", "input", "device", "worker", "model"]

# Substrings of messages, since most of these errors are baseline RuntimeErrors. Out of memory comes first: CUDA's own
# message for it also names CUDA.
_SIGNS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (
        "out of memory",
        (
            "out of memory",
            "can't allocate memory",
            "cannot allocate memory",
            "not enough memory",
            "unable to allocate",
            "failed to allocate memory",
            "std::bad_alloc",
            "alloc_failed",
        ),
    ),
    ("worker", ("dataloader worker",)),
    (
        "device",
        (
            "cuda error",
            "cudnn error",
            "cublas error",
            "cudnn_status",
            "cublas_status",
            "no cuda gpus",
            "device-side assert",
            "hip error",
            "mps backend",
            "nccl error",
        ),
    ),
)


def failure_kind(error: BaseException) -> Kind:
    """What kind of failure an exception is.

    `out of memory` (host or GPU), `training` (a loss that is not finite), `input` (the user's mistake), `device` (a GPU
    that failed or went away), `worker` (a data process that died), else `model`: the model or the user's code raised.
    """
    if isinstance(error, TrainingError):
        return "training"
    if isinstance(error, GhostsearchError):
        return "input"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory"
    text = str(error).lower()
    return next((kind for kind, signs in _SIGNS if any(sign in text for sign in signs)), "model")


def failure_reason(error: BaseException) -> str:
    """One line for a record: the kind, then the first line that the error itself says."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    first = lines[0][:300] if lines else ""
    kind = failure_kind(error)
    if kind in ("training", "input"):
        return first
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return f"{kind}: {said}" if kind != "model" else said


def release_memory() -> None:
    """Give freed memory back after a failure, so that the next trial finds it: collect cycles, empty GPU caches."""
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
