"""The latency table: every site × choice (and width) timed on the device, and what it predicts for whole models."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from ghostsearch.measure.cells import CellStore, Correction
from ghostsearch.measure.cost_table import CostTable, encode
from ghostsearch.measure.inputs import batched
from ghostsearch.measure.layers import Cell, TimedLayer, timed_layers
from ghostsearch.measure.streams import SUMS, SpoiledSums, one_sum_each, spoiled_sums
from ghostsearch.measure.surfaces import Surface
from ghostsearch.space.architecture import Anatomy, Architecture, SearchSpace
from ghostsearch.space.choice import GONE, KEEP
from ghostsearch.space.choice_text import parse_layer_choice, parse_width
from ghostsearch.space.costs import kept_width

UNCORRECTED = (1.0, 1.0, 0.0)
"""Coefficients of the terms without a correction: the layers and the sums behind them stand for the model."""


class LatencyTable:
    """What the cells say of one model and space: seconds per layer, vetoes, and predicted latencies."""

    def __init__(self, model: nn.Module, example: Any, anatomy: Anatomy, space: SearchSpace, store: CellStore) -> None:
        self.space = self._timed_space = space
        self.store = store
        self.costs = CostTable(model, example, anatomy, width_multiple=space.width_multiple)
        kept = store.setting.keep_float if store.device.name.endswith(":int8") else ()
        self.layers = timed_layers(model, batched(example, 1), anatomy, kept)
        self._aliases = {name: site.path for site in anatomy.sites for name in (site.path, *site.aliases)}
        self._anatomy = anatomy
        self._by_name = {layer.name: layer for layer in self.layers}
        self._surfaces: dict[tuple[str, str], Surface] = {}
        self._spoils: dict[tuple[str, str], float] = {}
        self.refresh()

    @property
    def digest(self) -> str:
        """Names the model's layers and the space, for the correction."""
        text = json.dumps(
            [self._timed_space.digest, [(x.path, x.name, x.inputs.total, x.outputs.total) for x in self.layers]]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def correction(self) -> Correction | None:
        """The end-to-end correction, once fitted."""
        return self.store.corrections.get(self.digest)

    @property
    def complete(self) -> bool:
        """Whether every cell has been timed."""
        return not self.missing() and all(cell.key in self.store.cells for cell in self.baseline_cells())

    def within(self, space: SearchSpace) -> LatencyTable:
        """The same table for a space that offers a part of this one's choices, with the same correction."""
        part = copy.copy(self)
        part.space = space
        return part

    def layer_of(self, cell: Cell) -> TimedLayer:
        """A layer that the cell is of."""
        return self._by_name[cell.layer]

    def baseline_cells(self) -> list[Cell]:
        """The cells of the baseline, each once."""
        return list(dict.fromkeys(x.full_cell(KEEP) for x in self.layers))

    def cells(self) -> dict[Cell, list[Cell]]:
        """Every cell but the baseline's, each once, by the baseline cell it is timed beside."""
        jobs: dict[Cell, dict[Cell, None]] = {}
        for layer in self.layers:
            baseline, texts = layer.full_cell(KEEP), self._choices(layer)
            some = [cell for text in texts for row in self._cells(layer, text) for cell in row]
            jobs.setdefault(baseline, {}).update(dict.fromkeys(cell for cell in some if cell != baseline))
            if layer.stream.sums:
                first, *behind = [layer.stream_cell(parse_layer_choice(text)) for text in texts]
                jobs.setdefault(first, {}).update(dict.fromkeys(behind))
        return {baseline: list(some) for baseline, some in jobs.items()}

    def missing(self) -> dict[Cell, list[Cell]]:
        """Those of `cells` that are not timed yet."""
        left = {b: [c for c in some if c.key not in self.store.cells] for b, some in self.cells().items()}
        return {baseline: some for baseline, some in left.items() if some}

    def rows(self) -> list[dict[str, Any]]:
        """Site × choice at full width: site, choice, device, latency_s, baseline_s, ratio, interval, vetoed."""
        rows = []
        for layer in self.layers:
            texts = self._choices(layer)
            baseline = self.store.cells[layer.full_cell(KEEP).key]
            for text in texts[1:]:
                cell = layer.full_cell(parse_layer_choice(text))
                time = self.store.cells[cell.key]
                rows.append(
                    {
                        "site": self._site_name(layer.path), "choice": text, "device": self.store.device.name,
                        "latency_s": baseline.median_s * time.ratio, "baseline_s": baseline.median_s,
                        "ratio": time.ratio,
                        "interval": time.interval, "vetoed": time.interval[1] >= 1,
                    }
                )  # fmt: skip
        return rows

    def vetoed(self) -> tuple[dict[str, Any], ...]:
        """Choices whose 95 % interval against the baseline layer is not below 1, as StudyView.vetoed keeps them."""
        keys = ("site", "choice", "device", "ratio", "interval")
        return tuple({key: row[key] for key in keys} for row in self.rows() if row["vetoed"])

    def refresh(self) -> None:
        """Work out each layer's surface over its channels from the cells that are there."""
        self._surfaces.clear()
        self._spoils.clear()
        if not self.complete:
            return
        for layer in self.layers:
            for text in self._choices(layer):
                # By path: layers that share cells may lose channels in groups of different widths.
                self._surfaces[layer.path, text] = self._surface(layer, text)
                self._spoils[layer.path, text] = self._spoil(layer, text)

    @property
    def baseline_layers_s(self) -> float:
        """Summed seconds of the baseline's layers that the table holds."""
        return float(sum(self._seconds_of(x, str(KEEP), [[x.inputs.total, x.outputs.total]])[0] for x in self.layers))

    def _seconds_of(self, layer: TimedLayer, text: str, channels: Any) -> np.ndarray:
        """Seconds of a layer under a choice at channels in and out (A, 2): (A,)."""
        surface = self._surfaces[layer.path, _timed_as(text)]
        return surface(np.asarray(channels))

    def layer_seconds(self, codes: np.ndarray) -> np.ndarray:
        """Each layer's seconds in one forward, as timed alone on the device, per architecture: (A, layers).

        codes: (A, sites + groups) as `encode` gives them. Widths between the timed ones are interpolated.
        """
        lost, seconds, models = self.costs.lost_channels(self.space, codes), [], np.arange(len(codes))
        for layer, code in zip(self.layers, self._layer_codes(codes), strict=True):
            channels = np.stack([np.broadcast_to(x.at(lost), len(codes)) for x in (layer.inputs, layer.outputs)], 1)
            every = [self._seconds_of(layer, text, channels) for text in self._offered(layer)]
            seconds.append(np.stack(every)[code, models])
        return np.stack(seconds, axis=1) * self._present(codes)

    def _present(self, codes: np.ndarray) -> np.ndarray:
        """1 for every layer that a dropped branch leaves, 0 for those that go with it: (A, layers).

        The per-channel affine in the place of one that is not skipped is not timed.
        """
        present, places = np.ones((len(codes), len(self.layers))), {x.path: i for i, x in enumerate(self.layers)}
        for branch in self._anatomy.branches:
            name = self._site_name(branch.end)
            options = self.space.sites.get(name, ())
            if set(GONE).intersection(options):
                column = list(self.space.sites).index(name)
                gone = np.array([text in GONE for text in options])[codes[:, column]]
                present[np.ix_(gone, [places[p] for p in (*branch.inside, branch.end) if p in places])] = 0.0
        return present

    def terms(self, codes: np.ndarray) -> np.ndarray:
        """What a prediction is made of, as shares of baseline: (A, 3).

        The change of the layers' summed seconds; what sums behind them cost more, each as much as the layer that spoils
        it most; the change of MACs. Shares, since a machine that is slower today is so for the baseline layers too.
        """
        return self._terms(codes, spoiled_sums)

    def additive_ratios(self, codes: np.ndarray) -> np.ndarray:
        """`predict_ratios` as a sum over the layers, for a linear program: (A,).

        Each layer answers for one spoiled sum: as much as all do together when the whole stream is spoiled, and less
        than one alone does.
        """
        return self._ratios(self._terms(codes, one_sum_each))

    def predict_ratios(self, codes: np.ndarray) -> np.ndarray:
        """Predicted latency over the baseline's: (A,). Without a correction the layers' sum stands for the model."""
        return self._ratios(self.terms(codes))

    def _terms(self, codes: np.ndarray, count: SpoiledSums) -> np.ndarray:
        layers_s = self.baseline_layers_s
        change = self.layer_seconds(codes).sum(1) - layers_s
        macs = self.costs.predict_codes(self.space, codes)[1] / self.costs.baseline.macs
        sums = count([x.stream for x in self.layers], self._stream_seconds(codes))
        return np.stack([change / layers_s, sums / layers_s, macs - 1], axis=1)

    def _ratios(self, terms: np.ndarray) -> np.ndarray:
        coefficients = self.correction.coefficients if self.correction else UNCORRECTED
        return np.asarray(1 + terms @ np.array(coefficients))

    def _stream_seconds(self, codes: np.ndarray) -> np.ndarray:
        """Seconds that each layer adds to one sum behind it: (A, layers)."""
        seconds = np.zeros((len(codes), len(self.layers)))
        for (i, layer), code in zip(enumerate(self.layers), self._layer_codes(codes), strict=True):
            if layer.stream.sums:
                seconds[:, i] = np.array([self._spoils[layer.path, _timed_as(text)] for text in self._offered(layer)])[
                    code
                ]
        return seconds

    def _layer_codes(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Per layer the number of its choice in each architecture: (A,)."""
        columns = {self._aliases[name]: j for j, name in enumerate(self.space.sites)}
        for layer in self.layers:
            yield codes[:, columns[layer.path]] if layer.path in columns else np.zeros(len(codes), dtype=np.int64)

    def predict(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Predicted latency over the baseline's for architectures of the space: (A,)."""
        return self.predict_ratios(encode(self.space, architectures))

    def _site_name(self, path: str) -> str:
        return next((name for name in self.space.sites if self._aliases.get(name) == path), path)

    def _offered(self, layer: TimedLayer) -> tuple[str, ...]:
        """The layer's choices in the space, `keep` first."""
        return self.space.sites.get(self._site_name(layer.path), ("keep",))

    def _choices(self, layer: TimedLayer) -> tuple[str, ...]:
        """Those of the layer's choices that are timed: all but those that take layers away."""
        return tuple(text for text in self._offered(layer) if text not in GONE)

    def _levels(self, layer: TimedLayer) -> tuple[list[int], list[int]]:
        """Channels in and out at which the layer is timed, rising; a depthwise layer has as many in as out."""
        inputs, outputs = (self._range(x) for x in (layer.inputs, layer.outputs))
        return inputs[-1:] if layer.depthwise else inputs, outputs

    def _cells(self, layer: TimedLayer, text: str) -> list[list[Cell]]:
        """A choice's cells at the layer's levels, by channels in and out."""
        inputs, outputs = self._levels(layer)
        choice = parse_layer_choice(text)
        return [[layer.cell(choice, n if layer.depthwise else c, n) for n in outputs] for c in inputs]

    def _range(self, channels: Any) -> list[int]:
        """How many channels there are, rising to all, when the groups take each width together."""
        counts = {channels.total}
        groups = self._anatomy.groups
        steps = max((len(self.space.groups.get(groups[g].name, ())) for g, _ in channels.groups), default=0)
        for step in range(steps):
            lost = {}
            for g, _ in channels.groups:
                texts = self.space.groups.get(groups[g].name, ("width(1)",))
                share = parse_width(texts[min(step, len(texts) - 1)]).share
                kept = kept_width(groups[g].channels, share, self.space.width_multiple, groups[g].divisions)
                lost[g] = np.array(groups[g].channels - kept)
            counts.add(int(channels.at(lost)))
        return sorted(counts)

    def _spoil(self, layer: TimedLayer, text: str) -> float:
        """Seconds that a choice adds to one sum behind the layer; 0 where the interval does not show any."""
        if text == str(KEEP) or not layer.stream.sums:
            return 0.0
        choice = parse_layer_choice(text)
        alone, behind = self.store.cells[layer.full_cell(choice).key], self.store.cells[layer.stream_cell(choice).key]
        own = self.store.cells[layer.full_cell(KEEP).key].median_s * (alone.ratio - 1)
        baseline_s = behind.median_s / behind.ratio
        if baseline_s * (behind.interval[0] - 1) <= own:
            return 0.0
        return (baseline_s * (behind.ratio - 1) - own) / SUMS

    def _surface(self, layer: TimedLayer, text: str) -> Surface:
        """Seconds of all the layer's calls over its channels, the smaller ones by their inputs' sizes."""
        baseline_s = layer.work * self.store.cells[layer.full_cell(KEEP).key].median_s
        ratios = [[self.store.cells[cell.key].ratio for cell in row] for row in self._cells(layer, text)]
        return Surface(self._levels(layer), baseline_s * np.array(ratios))


def _timed_as(text: str) -> str:
    """The choice whose cells stand for a choice; a dropped layer's seconds are taken off afterwards."""
    return str(KEEP) if text in GONE else text
