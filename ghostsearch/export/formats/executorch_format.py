"""ExecuTorch programs (.pte) for phones and boards, lowered to XNNPACK; run by ExecuTorch's own runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.export import ExportedProgram

from ghostsearch.export.formats.base import Format, Runner
from ghostsearch.measure.devices.executorch_xnnpack import xnnpack_program
from ghostsearch.measure.devices.torch_cpu import as_array


class Executorch(Format):
    """One .pte file. The runtime plans its memory for the largest batch, so that is small."""

    name = "executorch"
    suffix = ".pte"
    package = "executorch"
    max_batch = 8

    def write(self, program: ExportedProgram, path: Path, notes: Mapping[str, str]) -> None:
        """Lower to XNNPACK and save; the format has no place for notes."""
        del notes
        path.write_bytes(xnnpack_program(program))

    def open(self, path: Path) -> Runner:
        """The program's forward method."""
        from executorch.runtime import Runtime

        loaded = Runtime.get().load_program(path)
        method = loaded.load_method("forward")
        assert method is not None

        def run(images: Tensor) -> tuple[np.ndarray, ...]:
            # The program owns the method's memory, and the next call overwrites the outputs.
            assert loaded is not None
            return tuple(as_array(y).copy() for y in method.execute([images.contiguous()]))

        return run
