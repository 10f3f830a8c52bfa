"""The candidate table: every site × choice and group × width, alone, with inherited weights; damage, cost, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ghostsearch.data.load import images_within, spread_batches
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import atomic_path
from ghostsearch.records import latency_column
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.study.bench import BATCH_VALUES, Bench
from ghostsearch.surgery.baseline_pass import BaselinePass
from ghostsearch.training.tasks.base import main_output, score_value

if TYPE_CHECKING:
    import pandas as pd

    from ghostsearch.measure.latency_table import LatencyTable

Progress = Callable[[int, int, str], None]
FILE = "candidates.parquet"
PROBE_IMAGES, PROBE_VALUES = 512, 192 * 3 * 224 * 224
"""Images of the selection split, spread over it, that a candidate is judged on, or as many as hold so many values."""
SAVE_EVERY = 8
COLUMNS = {
    "kind": "site or group",
    "name": "the site's path or the group's name",
    "choice": "what it alone becomes",
    "output_error": "squared error of the model's output over the baseline output's variance, selection split",
    "divergence": "the task's distillation loss from the baseline, selection split; the solver adds these up",
    "loss_change": "the task's loss less the baseline's, selection split",
    "score_change": "the task's score less the baseline's, selection split",
    "macs": "multiply-adds on one image of the model with this one change",
    "params": "parameters of the model with this one change",
    "latency_ratio[DEVICE]": "predicted latency over the baseline's, a column a device",
}
"""Columns of candidates.parquet."""


@dataclass(frozen=True)
class Judgement:
    """How far a model is from the baseline on the probe images."""

    output_error: float
    divergence: float
    loss: float
    score: float


class Probe:
    """Images of the selection split with the baseline's outputs on them, computed once."""

    def __init__(self, bench: Bench) -> None:
        self.task = bench.task
        batches: list[tuple[Any, Any]] = spread_batches(
            bench.data.validation,
            images_within(PROBE_VALUES, bench.example, PROBE_IMAGES),
            size=images_within(BATCH_VALUES, bench.example, PROBE_IMAGES),
        )
        self.batches = [(inputs, self.task.target(inputs, target)) for inputs, target in batches]
        self.outputs = self._outputs(bench.baseline.module)
        self.baseline = self._judge(self.outputs)
        self.baseline_pass = self._baseline_pass(bench.baseline.module)

    def _baseline_pass(self, baseline: nn.Module) -> BaselinePass | None:
        """The baseline's values on the images where its traced graph gives what the task's forward gives."""
        found = BaselinePass(baseline, [inputs for inputs, _ in self.batches])
        if not found.traced or not isinstance(self.outputs[0], Tensor):
            return None
        inputs = self.batches[0][0][:2]
        same = torch.allclose(
            BaselinePass(baseline, [inputs]).output(baseline)[0], self.outputs[0][:2], rtol=1e-3, atol=1e-4
        )
        return found if same else None

    def judge(self, model: nn.Module, changed: Sequence[str] = ()) -> Judgement:
        """The model's outputs against the baseline's and the targets; `changed` are the layers of a single change.

        Changes must then come in the order of computation: what stands before them is not computed again.
        """
        if self.baseline_pass is None or not changed:
            return self._judge(self._outputs(model))
        self.baseline_pass.advance(changed)
        return self._judge(self.baseline_pass.output(model.eval()))

    def _outputs(self, model: nn.Module) -> list[Any]:
        model.eval()
        with torch.inference_mode():
            return [self.task.forward(model, inputs, target) for inputs, target in self.batches]

    def _judge(self, outputs: list[Any]) -> Judgement:
        meter, divergence, loss, images = self.task.meter(), 0.0, 0.0, 0
        error, power = 0.0, 0.0
        with torch.inference_mode():
            for (_, target), output, baseline in zip(self.batches, outputs, self.outputs, strict=True):
                meter.update(output, target)
                divergence += float(self.task.distillation_loss(output, baseline)) * len(target)
                loss += float(self.task.loss(output, target)) * len(target)
                images += len(target)
                ours, theirs = main_output(output), main_output(baseline)
                error += float((ours - theirs).square().sum())
                power += float((theirs - theirs.mean(0)).square().sum())
        return Judgement(error / max(power, 1e-30), divergence / images, loss / images, score_value(meter))


def single_change(kind: str, name: str, choice: str) -> Architecture:
    """The architecture of one row of the table."""
    return Architecture.of({name: choice}) if kind == "site" else Architecture.of({}, {name: choice})


def single_changes(space: SearchSpace) -> Iterator[tuple[str, str, str]]:
    """Kind, name and choice of every single change, sites first, in the space's order."""
    for kind, options_of in (("site", space.sites), ("group", space.groups)):
        for name, options in options_of.items():
            for text in options[1:]:
                yield kind, name, text


def build_candidates(bench: Bench, folder: Path, progress: Progress | None = None) -> pd.DataFrame:
    """Judge every single change of the space; rows already in the folder's table are not repeated.

    The baseline's values are computed once: each change starts from those before it, on the calibration images and
    on the probe's. The table is saved as it grows, so that a kill loses a few rows at most. Its latency columns are
    filled by `add_latencies`.
    """
    import pandas as pd

    changes = list(single_changes(bench.space))
    rows: list[Any] = read_candidates(folder).to_dict("records") if (folder / FILE).exists() else []
    known = {(r["kind"], r["name"], r["choice"]) for r in rows}
    missing = [c for c in changes if c not in known]
    if missing:
        judge = _Judge(bench)
        missing.sort(key=judge.position)
        for done, change in enumerate(missing, 1):
            rows.append(dict(zip(("kind", "name", "choice"), change, strict=True)) | judge(*change))
            if done % SAVE_EVERY == 0 or done == len(missing):
                write_candidates(folder, pd.DataFrame(rows))
            if progress:
                total = len(changes)
                progress(total - len(missing) + done, total, f"candidate table: {change[1]} {change[2]}")
    return read_candidates(folder)


class _Judge:
    """Fits and judges single changes in the order of computation."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.probe = bench, Probe(bench)
        self.layers = {g.name: tuple(g.members) for g in bench.anatomy.groups}
        few = bench.few_images
        made = BaselinePass(bench.baseline.module, few) if few else None
        self.fitting = made if made and made.traced and self.probe.baseline_pass else None

    def position(self, change: tuple[str, str, str]) -> int:
        """Where in the computation a change begins."""
        return self.fitting.position(self.changed(*change)) if self.fitting else 0

    def changed(self, kind: str, name: str, choice: str) -> tuple[str, ...]:  # noqa: ARG002
        """The layers that make what a change changes, as far as the graph shows each of them running once."""
        layers = (name,) if kind == "site" else self.layers[name]
        return layers if self.fitting and all(p in self.fitting.places for p in layers) else ()

    def __call__(self, kind: str, name: str, choice: str) -> dict[str, float]:
        architecture, changed = single_change(kind, name, choice), self.changed(kind, name, choice)
        if self.fitting and changed:
            self.fitting.advance(changed)
        model = self.bench.convert_quickly(architecture, self.fitting if changed else None)
        found, baseline = self.probe.judge(model, changed), self.probe.baseline
        cost = self.bench.cost(architecture)
        return {
            "output_error": found.output_error,
            "divergence": found.divergence,
            "loss_change": found.loss - baseline.loss,
            "score_change": found.score - baseline.score,
            "macs": cost.macs,
            "params": cost.params,
        }


def add_latencies(table: pd.DataFrame, latencies: dict[str, LatencyTable], folder: Path) -> pd.DataFrame:
    """Fill the predicted ratio to the baseline's latency for each device's latency table, and save."""
    architectures = [single_change(r.kind, r.name, r.choice) for r in table.itertuples(index=False)]
    for device, predicted in latencies.items():
        table[latency_column(device, "latency_ratio")] = predicted.predict(architectures)
    write_candidates(folder, table)
    return table


def read_candidates(folder: Path) -> pd.DataFrame:
    """The table of a study directory; raises GhostsearchError when there is none or it cannot be read."""
    import pandas as pd

    try:
        return pd.read_parquet(folder / FILE)
    except (OSError, ValueError) as error:
        raise GhostsearchError(
            f"{folder / FILE}: no candidate table can be read ({type(error).__name__}); "
            f"'ghostsearch search --solver --out {folder}' builds it"
        ) from None


def write_candidates(folder: Path, table: pd.DataFrame) -> None:
    """Save the table, whole or not at all."""
    with atomic_path(folder / FILE) as path:
        table.to_parquet(path, index=False)


def losses_of(table: pd.DataFrame, space: SearchSpace, column: str = "divergence") -> list[Any]:
    """Per site, then group, of the space the loss of each option; the baseline's is 0.

    Raises GhostsearchError when the table lacks a choice of the space.
    """
    import numpy as np

    known = {(r.kind, r.name, r.choice): getattr(r, column) for r in table.itertuples(index=False)}
    losses = []
    for kind, options_of in (("site", space.sites), ("group", space.groups)):
        for name, options in options_of.items():
            absent = [text for text in options[1:] if (kind, name, text) not in known]
            if absent:
                raise GhostsearchError(f"the candidate table has no {kind} {name!r} with {absent[0]!r}; build it again")
            values = [0.0, *(known[kind, name, text] for text in options[1:])]
            losses.append(np.nan_to_num(np.array(values), nan=1e6, posinf=1e6))
    return losses
