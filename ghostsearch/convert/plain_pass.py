"""The plain net's values on some batches, computed once for many single changes asked for in order of computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from ghostsearch.convert.fit_layer import FreeFit
from ghostsearch.convert.flow import Place, find_places, trace_graph, without_inplace
from ghostsearch.convert.replay import Replay, same_forward
from ghostsearch.tracing import copied

if TYPE_CHECKING:
    from ghostsearch.convert.fit_width import Elimination


class PlainPass:
    """A forward of the plain net that stops before each change; what stands before it is not computed again.

    Usable where torch.fx traces the net: `traced` tells.
    """

    def __init__(self, plain: nn.Module, batches: Sequence[Any]) -> None:
        self.teacher = without_inplace(copied(plain).cpu().float().eval())
        self.batches = batches
        graph = trace_graph(self.teacher)
        tensors = all(isinstance(b, Tensor) for b in batches)
        self.traced = graph is not None and tensors and same_forward(self.teacher, graph, batches[0][:2])
        self.places: dict[str, Place] = {}
        self.free: tuple[str, FreeFit] | None = None
        """The last site fitted first, and its unconstrained fit."""
        self.spared: tuple[str, Elimination] | None = None
        """The last group cut, and its channels in the order in which they can be spared."""
        if graph is not None and self.traced:
            self.graph = graph
            self.places = find_places(self.teacher, graph)
            self.replay = Replay(self.teacher, graph, batches)
            self.order = {str(node.target): i for i, node in enumerate(graph.nodes) if node.op == "call_module"}

    def position(self, paths: Sequence[str]) -> int:
        """Where in the computation the first of some layers stands."""
        return min((self.order[path] for path in paths), default=-1)

    def advance(self, paths: Sequence[str]) -> None:
        """Compute what is read by the first of some layers; changes are taken in order, none before an earlier one."""
        first = min(paths, key=self.order.__getitem__)
        node = next(n for n in self.graph.nodes if n.op == "call_module" and n.target == first)
        for source in node.all_input_nodes:
            self.replay.get(source)

    def output(self, model: nn.Module) -> list[Any]:
        """The outputs of a model that differs from the plain one only behind the present point."""
        end = next(n for n in self.graph.nodes if n.op == "output").args[0]
        assert isinstance(end, fx.Node)
        return self.replay.fork(without_inplace(model)).get(end)
