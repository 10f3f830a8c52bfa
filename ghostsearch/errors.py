"""The one exception type a user's mistake raises in one line, and why a trial failed, by kind. No torch here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal


class GhostsearchError(Exception):
    """Bad input: the message says the rule, the value that broke it and the way out, in one line."""

    def __init__(self, message: str = "") -> None:
        # torch's data workers hand an error over as the text of its traceback, with the message at its end.
        found = re.findall(r"^ghostsearch\.\S*Error: (.*)\Z", message, re.MULTILINE | re.DOTALL)
        # A name out of a foreign file may hold line breaks.
        super().__init__(re.sub(r"\s*[\r\n]+\s*", " ", found[-1] if found else message).strip())


def key_of(location: Sequence[int | str]) -> str:
    """The dotted name of a place in a file that pydantic refused, in one short line: a key may hold line breaks."""
    return " ".join(".".join(map(str, location)).split())[:100]


class GhostsearchWarning(UserWarning):
    """What a user should know and what stops nothing, such as images that were left out; one line."""


class MissingExtraError(GhostsearchError):
    """An optional dependency is absent; the message holds the line that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: pip install 'ghostsearch[{extra}]'")


class TrainingError(GhostsearchError):
    """Training broke off, such as on a loss that is not a number; a study records the trial as failed."""


Kind = Literal["out of memory", "training", "input", "device", "worker", "model"]

# Substrings of messages, since most of these errors are plain RuntimeErrors. Out of memory comes first: CUDA's own
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


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line an exception says, of at most `most` characters; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:most]


def text_of(error: BaseException, most: int = 200) -> str:
    """What an exception says, in one line of at most `most` characters; its type where it says nothing."""
    return (" ".join(str(error).split()) or type(error).__name__)[:most]


def in_a_line(error: BaseException, most: int = 200) -> str:
    """Type and text of an exception that is none of ours, in one line of at most `most` characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:most]


@contextmanager
def told_as(line: Callable[[str], str], most: int = 200) -> Iterator[None]:
    """Within, whatever foreign code raises is one GhostsearchError, `line` of `in_a_line`; ours pass as they are."""
    try:
        yield
    except GhostsearchError:
        raise
    except Exception as error:
        raise GhostsearchError(line(in_a_line(error, most))) from error


@contextmanager
def found_in(place: object) -> Iterator[None]:
    """Within, a GhostsearchError is raised with its place in front, such as a file or a split."""
    try:
        yield
    except GhostsearchError as error:
        raise GhostsearchError(f"{place}: {error}") from None


@contextmanager
def needing(package: str, what: str) -> Iterator[None]:
    """Within, an import that fails raises GhostsearchError: what is asked for needs a package that is not there."""
    try:
        yield
    except ImportError as error:
        raise GhostsearchError(f"{what} needs {package}, which cannot be imported here ({error})") from None
