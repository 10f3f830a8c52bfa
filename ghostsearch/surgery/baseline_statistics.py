"""The baseline's sampled values on the calibration images: computed once, shared by all fits and trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ghostsearch.errors import GhostsearchError
from ghostsearch.fits.problem import FitSettings, FreeFit
from ghostsearch.fits.sampled_rows import Sampling, Tiles, Window, as_maps, crops
from ghostsearch.graph.batches import ReadBatches
from ghostsearch.graph.capture import HOOKS, batch_size, call, copied, hooked, in_order, light_copy, memory_order, moved
from ghostsearch.graph.flow import Place, find_places, fit_order, overwrites_what_is_read, trace_graph, without_inplace
from ghostsearch.graph.paused import watched_places
from ghostsearch.graph.reorder import holds_its_weights
from ghostsearch.graph.replay import FrugalInterpreter, Liveness, Replay
from ghostsearch.surgery.norm_statistics import warn_of_inputs
from ghostsearch.surgery.output_metric import output_metrics
from ghostsearch.surgery.swap import swap_twins
from ghostsearch.surgery.verify import BaselineRuns

BATCH_IMAGES, BATCH_VALUES = 64, 8 * 3 * 224 * 224
"""Images that run through a network together, or as many as hold so many values: a large tensor's memory comes anew
from the system each time, and clearing it takes a third of the time of a forward.
"""

LAYER_WORK = 5e9
"""Multiply-adds that take as long as what a fit does for each layer beside its least squares."""


class BaselineStatistics:
    """What fits need of a baseline on some images: its graph, and its values at seeded positions behind each layer.

    batches: image batches (N, C, …) or what else the model's forward takes; judging: those that no fit sees, by which
    a distillation is judged; once: one conversion is all that they serve, so that what a layer was fitted to is given
    up. What is computed later, values and the caches of fits and checks, is added; nothing else changes.
    Warns where the images are not normalised as in the baseline's training.
    Raises GhostsearchError when there are no images, or when in-place activations change what other layers read.
    """

    def __init__(
        self,
        baseline: nn.Module,
        batches: Sequence[Any],
        settings: FitSettings | None = None,
        *,
        judging: Sequence[Any] = (),
        once: bool = False,
    ) -> None:
        self.once = once
        self.settings = settings = settings or FitSettings()
        self.device = settings.device
        teacher = copied(baseline).to(self.device).float().eval()
        if not len(batches):
            raise GhostsearchError("there are no calibration images; give at least one batch")
        few = batches.at(batches.positions[0][:2]) if isinstance(batches, ReadBatches) else batches[0]
        self.layout = memory_order(moved(few, str(self.device), torch.float32), teacher)
        self.batches, self.judging = (
            _in_parts(x, settings, share, self.layout) for x, share in ((batches, 2), (judging, 8))
        )
        warn_of_inputs(teacher, self.batches[0])
        if overwrites_what_is_read(teacher, self.batches[0]):
            raise GhostsearchError(
                "an in-place activation of the network changes values that other layers read, so its layers cannot be "
                "fitted one by one; build it with inplace=False there, or convert without calibration images"
            )
        self.teacher = self.prepared(teacher)
        read = self.batches if isinstance(self.batches, ReadBatches) else None
        self.images = [*map(len, read.positions)] if read else [batch_size(b) for b in self.batches]
        tensors = bool(read) or all(isinstance(b, Tensor) for b in self.batches)
        graph = trace_graph(self.teacher, self.batches[0][:2]) if tensors else None
        self.traced = graph is not None
        self._free: dict[tuple[str, int], FreeFit] = {}
        self._leaving: dict[str, list[int]] = {}
        self._runs: BaselineRuns | None = None
        if graph is not None:
            self.graph = graph
            self.places = find_places(self.teacher, graph)
            self.order = {str(node.target): i for i, node in enumerate(graph.nodes) if node.op == "call_module"}
            self._start: Replay | None = None
        else:
            self.places = watched_places(self.teacher, self.batches[0])
        self.tiles: dict[str, list[Tiles]] = {}
        self._targets: dict[str, list[Tensor]] = {}
        self._metrics: Mapping[str, Tensor] | None = None

    def prepared(self, model: nn.Module) -> nn.Module:
        """The model itself, changed as the teacher is: on its device, in float, in eval mode, nothing in place, a plain
        convolution for each class of its own where one computes the same.
        """
        model = without_inplace(model.to(self.device).float().eval())
        swap_twins(model, self.batches[0])
        return model

    def known_free(self, path: str, rounds: int) -> FreeFit | None:
        """The unconstrained fit of a site, its targets relaxed in so many rounds, if it was the last one kept."""
        return self._free.get((path, rounds))

    def keep_free(self, path: str, rounds: int, fit: FreeFit) -> None:
        """Keep the unconstrained fit of a site for its other choices; those of any other site go."""
        self._free = {key: known for key, known in self._free.items() if key[0] == path} | {(path, rounds): fit}

    def leaving(self, group: str) -> Sequence[int]:
        """Channels of a group in the order in which they can be left out, as far as `keep_leaving` knows."""
        return self._leaving.get(group, ())

    def keep_leaving(self, group: str, order: list[int]) -> None:
        """Keep the order of a group's elimination for its other widths."""
        self._leaving[group] = order

    @property
    def replay(self) -> Replay:
        """The baseline's forward, as far as `advance` has taken it."""
        if self._start is None:
            self._start = Replay(self.teacher, self.graph, self.batches)
        return self._start

    def targets(self, path: str) -> list[Tensor]:
        """The baseline's value that a layer is fitted to, at its tiles, per batch that it sees: (K, n, *size)."""
        if not self._targets:
            self._sample()
        return self._targets[path]

    def work(self, path: str, *, as_block: bool) -> float:
        """Roughly the multiply-adds of a layer's fit: its share of the time that a fit takes.

        as_block: its maps are put in an order too, which grows with their own number.
        """
        layer: Any = self.teacher.get_submodule(path)
        self.targets(path)
        rows = sum(len(tiles.entries) * prod(tiles.size) for tiles in self.tiles.get(path, ()))
        groups, order = getattr(layer, "groups", 1), 4 * len(layer.weight) ** 2 if as_block else 0
        return LAYER_WORK + rows * (groups * layer.weight[0].numel() ** 2 + order)

    def metric(self, path: str) -> Tensor | None:
        """(n, n) mean of g gᵀ, g the gradient of sampled labels' log probability at the value a layer is fitted to.

        None where the graph is not known or no gradient reaches the layer.
        """
        if self._metrics is None:
            wanted = self.traced and self.settings.metric_images
            self._metrics = output_metrics(self) if wanted else {}
        return self._metrics.get(path)

    def runs(self, baseline: nn.Module, example: Any) -> BaselineRuns:
        """The forwards that conversions are compared with, kept while they are made of the same network and example."""
        known = self._runs
        if known is None or known.model is not baseline or known.example is not example:
            known = self._runs = BaselineRuns(baseline, example)
        return known

    def done_with(self, path: str) -> None:
        """Give up the targets of a layer whose fit has them, where one conversion is all that they serve."""
        if self.once:
            self._targets[path].clear()

    def position(self, paths: Sequence[str]) -> int:
        """Where in the computation the first of some layers stands."""
        return self.order[self.first(paths)]

    def first(self, paths: Sequence[str]) -> str:
        """The first of some modules in the computation."""
        return min((path for path in paths if path in self.order), key=self.order.__getitem__)

    def advance(self, paths: Sequence[str]) -> None:
        """Compute what is read by the first of some layers; changes are taken in order, none before an earlier one."""
        first = self.first(paths)
        node = next(n for n in self.graph.nodes if n.op == "call_module" and n.target == first)
        for source in node.all_input_nodes:
            self.replay.get(source)

    def output(self, model: nn.Module) -> list[Any]:
        """The outputs of a model that differs from the baseline only behind the point that `advance` has reached."""
        end = next(n for n in self.graph.nodes if n.op == "output").args[0]
        assert isinstance(end, fx.Node)
        return self.replay.fork(folded(without_inplace(light_copy(model)), self.places)).get(end)

    @torch.no_grad()
    def _sample(self) -> None:
        keys: dict[Any, list[str]] = {}
        for path, place in self.places.items():
            keys.setdefault(place.out, []).append(path)
        counts, images = self._batches_by_layer(), self.images
        for number, batch in enumerate(self.batches):

            def take(key: Any, value: Any, number: int = number) -> None:
                for path in keys.get(key, ()):
                    if isinstance(value, Tensor) and number < counts.get(path, len(images)):
                        self._take(path, value, number, sum(images[: counts.get(path, len(images))]))

            self._watch(batch, take)
        self.__dict__.pop("_folded", None)

    def _take(self, path: str, value: Tensor, number: int, images: int) -> None:
        layer: Any = self.teacher.get_submodule(path)
        maps = as_maps(value, layer)
        known = self.settings
        seed = known.seed * 7919 + list(self.places).index(path)
        sampling = Sampling(known.rows_for(layer), known.tile, seed, images)
        tiles = sampling.tiles(number, self.images[number], len(maps), maps.shape[2:])
        self.tiles.setdefault(path, []).append(tiles)
        self._targets.setdefault(path, []).append(crops(maps, tiles, Window.point(maps.dim() - 2)).clone())

    @cached_property
    def _folded(self) -> nn.Module:
        return folded(light_copy(self.teacher), self.places)

    def _watch(self, batch: Any, take: Callable[[Any, Any], None]) -> None:
        """One forward that calls `take` with each value that a place may name."""
        if self.traced:
            _Watching(self._folded, self.graph, take).run(batch)
            return
        paths = {self.teacher.get_submodule(place.out): place.out for place in self.places.values()}
        with hooked((module, lambda m, _, y: take(paths[m], y)) for module in paths):
            call(self.teacher, batch)

    def _batches_by_layer(self) -> dict[str, int]:
        """Per layer how many of the batches it is fitted to: at least one, as many as fit into memory with all values
        held at that point, and no more than layers behind it. Empty where the graph is not known.
        """
        if not self.traced:
            return {}
        sizes: dict[fx.Node, int] = {}

        def note(node: Any, value: Any) -> None:
            sizes[node] = value.nbytes if isinstance(value, Tensor) else 0

        self._watch(self.batches[0], note)
        live, held = Liveness(self.graph), {}
        for path in fit_order(self.places, list(self.places)):
            place = self.places[path]
            for node in (place.source, place.shortcut):
                for _ in live.until(node) if node is not None else ():
                    pass
            held[path] = sum(sizes.get(n, 0) for n in live.held if n.op != "placeholder") / self.images[0]
        counts, most = {}, len(self.batches)
        for path in reversed(held):
            room, fitting = float(self.settings.memory_bytes), 0
            while fitting < most and (room := room - held[path] * self.images[fitting]) >= 0:
                fitting += 1
            most = counts[path] = max(1, min(most, fitting))
        return counts


class _Watching(FrugalInterpreter):
    """Hands over each value as it is computed, and forgets it after its last reader."""

    def __init__(self, model: nn.Module, graph: fx.Graph, take: Callable[[Any, Any], None]) -> None:
        super().__init__(model, graph, garbage=True)
        self.take = take

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.take(n, value)
        return value


def folded(model: nn.Module, places: Mapping[str, Place]) -> nn.Module:
    """The model itself, each BatchNorm that follows a convolution made part of it: a pass less over the values."""
    for path, place in places.items():
        layer: Any = model.get_submodule(path)
        if place.norm and type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and holds_its_weights(layer):
            norm: Any = model.get_submodule(place.norm)
            if any(getattr(module, name, None) for module in (layer, norm) for name in HOOKS):
                continue
            model.set_submodule(path, fuse_conv_bn_eval(layer, norm))
            model.set_submodule(place.norm, nn.Identity())
    return model


def _in_parts(batches: Sequence[Any], settings: FitSettings, share: int, layout: torch.memory_format) -> Sequence[Any]:
    """Batches as a network is given them, on the fit's device, tensors in parts that run through it together.

    Images of one size are read again at each access but for the first ones, which may take a share of the memory.
    """
    device, read = settings.device, ReadBatches.of(batches)

    def made(part: Tensor) -> Tensor:
        part = moved(part.detach(), str(device), torch.float32)
        return cast(Tensor, in_order(part, layout))

    if read is None:
        parts = (p for b in batches for p in (b.split(_together(b[0])) if isinstance(b, Tensor) else [b]))
        return [made(p) if isinstance(p, Tensor) else moved(p, str(device), torch.float32) for p in parts]
    if not read:
        return ()
    size = _together(read.at(read.positions[0][:1]))
    return read.cut([p[i : i + size] for p in read.positions for i in range(0, len(p), size)]).then(
        made, room=settings.memory_bytes // share
    )


def _together(image: Tensor) -> int:
    return max(1, min(BATCH_IMAGES, BATCH_VALUES // max(1, image.numel())))
