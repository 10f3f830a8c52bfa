"""PyTorch with `torch.compile` (Inductor's C++ code) on the CPU."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Prepared, refusals
from ghostsearch.measure.devices.torch_cpu import TorchCpu, TorchPrepared, flat_copy
from ghostsearch.measure.setting import Setting


class TorchCompileCpu(TorchCpu):
    """Inductor compiles each model once for its shapes; that takes from seconds to minutes and is never
    timed.
    """

    name = "torch-compile:cpu"

    def check(self) -> None:
        """Raise GhostsearchError without a C++ compiler, which Inductor needs."""
        if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
            raise GhostsearchError(
                "torch-compile:cpu needs a C++ compiler: install g++ (apt install g++), or use --device torch:cpu"
            )

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """A compiled copy; the whole graph at once, so that a graph break is an error and no silent half."""
        with refusals(self.name):
            flat, inputs = flat_copy(model, example, setting)
            # The default cache of compiled code objects would drop the first of many candidates again.
            with torch._dynamo.config.patch(cache_size_limit=10_000, accumulated_cache_size_limit=100_000):
                prepared = TorchPrepared(torch.compile(flat, fullgraph=True, dynamic=False), inputs)
                prepared.run()
        return prepared
