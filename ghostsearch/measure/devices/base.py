"""What a device is: a runtime and a place to run, behind one small interface."""

from __future__ import annotations

import abc
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError, told_as
from ghostsearch.machine import processor
from ghostsearch.measure.setting import Setting
from ghostsearch.version import installed_version

PRECISIONS = ("float32", "float16", "bfloat16")


class Prepared(abc.ABC):
    """A model made ready on a device with one input; running it changes nothing."""

    @abc.abstractmethod
    def run(self) -> Any:
        """One forward; it may still be under way on a GPU when this returns."""

    @abc.abstractmethod
    def outputs(self) -> tuple[np.ndarray, ...]:
        """The outputs of one forward as float32 or integer arrays, in the order the module gives them."""

    def seconds(self, calls: int) -> list[float]:
        """Wall seconds of each of `calls` forwards, each finished before the next begins."""
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            self.run()
            times.append(time.perf_counter() - start)
        return times

    def close(self) -> None:
        """Free what the model holds on the device."""
        return


class Device(abc.ABC):
    """A runtime and a place to run. Subclasses hold no state but what they look up of the machine."""

    name: str
    packages: ClassVar[tuple[str, ...]]
    """Distributions whose versions a latency depends on."""
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    tolerance: ClassVar[float] = 1e-3
    """Largest difference of the outputs from the module's in float32, relative to the largest output."""
    limits_threads: ClassVar[bool] = True
    """Whether `threads` bounds the cores of this process that it keeps busy."""

    reads_onnx: ClassVar[bool] = False
    """Whether it runs an ONNX file as it is."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise MissingExtraError when the runtime is not installed, GhostsearchError when its hardware is
        not there.
        """

    def lowered(self, model: nn.Module, example: Any) -> nn.Module:  # noqa: ARG002
        """What is built again and again from a model: the model itself, or what it becomes once and for all.

        Raises GhostsearchError when the device cannot run the model.
        """
        return model

    @abc.abstractmethod
    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """Make a model ready to run on an example; works on a copy.

        Raises GhostsearchError when the runtime cannot run the model.
        """

    def session(self, threads: int) -> Any:
        """A context in which prepared models are timed; sets what is global to the process and puts it
        back.
        """
        del threads
        return nullcontext()

    def versions(self) -> dict[str, str]:
        """Version of every package that decides the latency."""
        return {name: installed_version(name) or "absent" for name in self.packages}

    def place(self) -> str:
        """The hardware, such as the processor's name and cores; part of the latency table's fingerprint."""
        return processor()

    def remark(self) -> str:
        """What a user of the device should know of this machine; empty when there is nothing."""
        return ""

    def computes_in(self, setting: Setting) -> str:
        """The precision of its convolutions, such as `float32` or `int8`."""
        return setting.precision

    def require_precision(self, precision: str) -> None:
        """Raise GhostsearchError unless the device runs this precision."""
        if precision not in self.precisions:
            raise GhostsearchError(
                f"{self.name} has no precision {precision!r}; choose from {', '.join(self.precisions)}"
            )


def refusals(device: str) -> AbstractContextManager[None]:
    """Turn whatever a runtime raises while it takes a model in into one GhostsearchError line."""
    # Exporters and compilers raise of everything; the user can only choose another device or model.
    return told_as(lambda why: f"{device} cannot run this model ({why})", 240)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Advice and logs of exporters and quantizers are left out within; exceptions pass.

    torch 2.14 writes the graph that its tracing exporter fails on to standard output, whatever its switches say.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), patch.object(torch._C, "_jit_onnx_log", lambda *_: None, create=True):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
