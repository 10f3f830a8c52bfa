"""An ONNX graph in the place of a module, so that scoring, timing and exporting treat both alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError, text_of
from ghostsearch.graph.detector import FOUND
from ghostsearch.measure.inputs import one_by_one

BATCH_NAME, INPUT_NAME = "batch", "image"
"""What a free batch dimension, and the images, are called in the graphs that we write."""


class OnnxModule(nn.Module):
    """An ONNX graph run by ONNX Runtime on the CPU; it holds no parameters.

    x: one tensor per input of the graph -> the graph's output, or a tuple where it has several. A graph for one image
    is run on each of a batch. That of a detector takes images (N, C, H, W), or a list of them, and gives what the
    detector gives.
    """

    def __init__(self, graph: bytes, *, threads: int = 1, names: tuple[str, ...] = ()) -> None:
        """`names`: of the inputs of the module that the graph was made of, where the graph may have dropped some."""
        super().__init__()
        self.graph, self.threads, self.names = graph, threads, names
        self._session: Any = None

    @classmethod
    def read(cls, path: Path) -> OnnxModule:
        """The graph in a file; raises GhostsearchError when the file is no ONNX graph that ONNX Runtime runs."""
        try:
            module = cls(_whole(path))
            _ = module.session
        except OSError as error:
            raise GhostsearchError(f"{path}: cannot be read ({error.strerror})") from None
        # The runtime raises classes of its own, which share no base with ours.
        except Exception as error:  # noqa: BLE001
            raise GhostsearchError(
                f"{path}: not an ONNX graph that ONNX Runtime runs ({text_of(error, 160)})"
            ) from None
        return module

    @property
    def session(self) -> Any:
        """The ONNX Runtime session, opened on first use."""
        if self._session is None:
            self._session = cpu_session(self.graph, self.threads)
        return self._session

    @property
    def inputs(self) -> dict[str, tuple[int | str | None, ...]]:
        """Shape of each input by name; a free dimension is a text or None."""
        return {x.name: tuple(x.shape) for x in self.session.get_inputs()}

    @property
    def notes(self) -> dict[str, str]:
        """What `ghostsearch export` wrote into the file of the model and its images; empty for files of others."""
        found = self.session.get_modelmeta().custom_metadata_map
        return {k.removeprefix("ghostsearch."): v for k, v in found.items() if k.startswith("ghostsearch.")}

    def with_batch(self, batch: int) -> OnnxModule:
        """The same graph for one batch size alone, which a runtime may compile better than a free one."""
        import onnx
        from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

        model = onnx.load_from_string(self.graph)
        make_dim_param_fixed(model.graph, BATCH_NAME, batch)
        return OnnxModule(model.SerializeToString(), threads=self.threads)

    @property
    def detects(self) -> bool:
        """Whether it is the graph of a detector, for one image."""
        return {y.name for y in self.session.get_outputs()} == set(FOUND)

    def forward(self, *images: Tensor) -> Any:
        """The graph's outputs."""
        if self.detects:
            names = [y.name for y in self.session.get_outputs()]
            return [dict(zip(names, self._outputs(x[None]), strict=True)) for x in images[0]]
        single = len(images[0]) > 1 and next(iter(self.inputs.values()))[0] == 1
        outputs = one_by_one(self._outputs, images) if single else self._outputs(*images)
        return outputs[0] if len(outputs) == 1 else outputs

    def _outputs(self, *images: Tensor) -> tuple[Tensor, ...]:
        feed = {
            name: np.ascontiguousarray(x.detach().cpu().numpy()) for name, x in zip(self.inputs, images, strict=True)
        }
        return tuple(torch.from_numpy(np.asarray(y)) for y in self.session.run(None, feed))

    def __getstate__(self) -> dict[str, Any]:
        # A session belongs to its process; a copy opens its own.
        return {**self.__dict__, "_session": None}


def _whole(path: Path) -> bytes:
    """An ONNX file with the weights that lie in files beside it, where torch's own export leaves them."""
    import onnx

    graph = path.read_bytes()
    # The key under which a tensor names its file.
    return onnx.load(path).SerializeToString() if b"location" in graph else graph


def cpu_session(graph: bytes, threads: int, providers: tuple[str, ...] = ("CPUExecutionProvider",)) -> Any:
    """An ONNX Runtime session that keeps at most `threads` cores busy, one operator after the other."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # Waiting threads would spin and take the cores that other sessions are timed on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=list(providers))
