"""The baseline's values on some batches, computed once for many single changes asked for in order of computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ghostsearch.graph.capture import channels_last, copied, light_copy
from ghostsearch.graph.flow import Place, find_places, is_add, is_relu, trace_graph, without_inplace
from ghostsearch.graph.replay import Replay
from ghostsearch.surgery.fit_layer import FreeFit
from ghostsearch.surgery.swap import swap_twins

if TYPE_CHECKING:
    from ghostsearch.surgery.fit_width import Elimination


class BaselinePass:
    """A forward of the baseline that stops before each change; what stands before it is not computed again.

    Usable where torch.fx traces the net: `traced` tells.
    """

    def __init__(self, baseline: nn.Module, batches: Sequence[Any]) -> None:
        self.teacher = without_inplace(copied(baseline).cpu().float().eval())
        self.batches = batches = [channels_last(b) for b in batches]
        swap_twins(self.teacher, batches[0])
        tensors = all(isinstance(b, Tensor) for b in batches)
        graph = trace_graph(self.teacher, batches[0][:2]) if tensors else None
        self.traced = graph is not None
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
        """The outputs of a model that differs from the baseline only behind the present point."""
        end = next(n for n in self.graph.nodes if n.op == "output").args[0]
        assert isinstance(end, fx.Node)
        replay = self.replay.fork(self._folded(without_inplace(light_copy(model))))
        replay.interpreter = _Overwriting(replay, self.places)
        return replay.get(end)

    def _folded(self, model: nn.Module) -> nn.Module:
        """The model itself, each BatchNorm that follows a convolution made part of it: a pass less over the values."""
        for path, place in self.places.items():
            layer: Any = model.get_submodule(path)
            if place.norm and type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
                norm: Any = model.get_submodule(place.norm)
                model.set_submodule(path, fuse_conv_bn_eval(layer, norm))
                model.set_submodule(place.norm, nn.Identity())
        return model


class _Overwriting(fx.Interpreter):
    """Lets a sum or a ReLU write into a value that nothing else reads: new memory costs as much as the arithmetic."""

    def __init__(self, replay: Replay, places: Mapping[str, Place]) -> None:
        super().__init__(replay.model, garbage_collect_values=False, graph=replay.graph)
        makers = {*places, *(place.norm for place in places.values())}
        modules = dict(replay.model.named_modules(remove_duplicate=False))
        # What the baseline's pass holds is read again by the next change's.
        fresh = {
            node
            for node in replay.graph.nodes
            if len(node.users) == 1 and node not in replay.values[0]
            if is_add(node) or (node.op == "call_module" and node.target in makers)
        }
        after_fresh = [n for n in replay.graph.nodes if not n.kwargs and n.args and n.args[0] in fresh]
        self.sums = {n for n in after_fresh if is_add(n)}
        clipped = {path for path, module in modules.items() if isinstance(module, nn.ReLU6)}
        self.relus = {n for n in after_fresh if is_relu(n, modules) and n.target not in clipped}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, in the memory of the first one that it reads where that may be."""
        values: Any = self.map_nodes_to_values(n.args, n) if n in self.relus or n in self.sums else ()
        if n in self.relus:
            return values[0].relu_()
        if n in self.sums and isinstance(values[1], Tensor):
            first, second = values
            if (first.shape, first.dtype) == (second.shape, second.dtype):
                return first.add_(second)
        return super().run_node(n)
