"""PyTorch on an NVIDIA GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Device, Prepared, refusals
from ghostsearch.measure.devices.torch_cpu import as_array, flat_copy
from ghostsearch.measure.setting import Setting

WARM_UP_CALLS = 3


class CudaPrepared(Prepared):
    """A module on the GPU, as a CUDA graph where it can be captured, timed by CUDA events."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.module = module
        self.inputs = inputs
        self.results: Any = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self._capture()

    def _capture(self) -> None:
        """Record one forward as a graph, which drops the launch time of each kernel; keep eager calls where
        it fails.

        Data-dependent control flow and copies to the host cannot be captured.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.inference_mode():
            for _ in range(WARM_UP_CALLS):
                self.results = self.module(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.inference_mode(), torch.cuda.graph(graph):
                self.results = self.module(*self.inputs)
        except RuntimeError:
            torch.cuda.synchronize()
            return
        self.graph = graph

    def run(self) -> Any:
        if self.graph is not None:
            self.graph.replay()
        else:
            with torch.inference_mode():
                self.results = self.module(*self.inputs)
        return self.results

    def seconds(self, calls: int) -> list[float]:
        """Seconds between CUDA events around each forward; without a graph also no less than the host took to
        launch it.
        """
        torch.cuda.synchronize()
        times = []
        for _ in range(calls):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start = time.perf_counter()
            first.record()
            self.run()
            last.record()
            launched = time.perf_counter() - start
            torch.cuda.synchronize()
            on_gpu = first.elapsed_time(last) / 1e3
            times.append(on_gpu if self.graph is not None else max(on_gpu, launched))
        return times

    def outputs(self) -> tuple[np.ndarray, ...]:
        results = self.run()
        torch.cuda.synchronize()
        return tuple(as_array(y) for y in results)

    def close(self) -> None:
        self.graph = self.results = None
        self.inputs = ()
        self.module = nn.Identity()


class TorchCuda(Device):
    """Eager PyTorch as a CUDA graph, channels_last unless told otherwise, cuDNN choosing its quickest algorithms.

    TF32 stays off in float32.
    """

    name = "torch:cuda"
    packages = ("torch",)
    precisions = ("float32", "float16", "bfloat16")
    limits_threads = False

    def check(self) -> None:
        """It takes an NVIDIA GPU and a PyTorch that was built for it."""
        require_gpu(self.name)

    def place(self) -> str:
        """The GPU's name."""
        return torch.cuda.get_device_name()

    @contextmanager
    def session(self, threads: int) -> Iterator[None]:
        """cuDNN's settings, which are global to the process; `threads` has no meaning on a GPU."""
        del threads
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False
        try:
            yield
        finally:
            cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
            torch.cuda.empty_cache()

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """A copy on the GPU in the precision asked for."""
        with refusals(self.name):
            return CudaPrepared(*flat_copy(model, example, setting, device="cuda"))


def require_gpu(name: str) -> None:
    """Raise GhostsearchError unless PyTorch sees an NVIDIA GPU."""
    if not torch.cuda.is_available():
        raise GhostsearchError(
            f"{name} needs an NVIDIA GPU that PyTorch sees, and there is none; use --device onnxruntime:cpu"
        )
