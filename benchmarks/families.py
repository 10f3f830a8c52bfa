"""Families of compression side by side, before any label: float and int8, at equal latency and at equal accuracy.

    python benchmarks/families.py --net resnet56 --data cifar10 --validation-list val.txt --weights resnet56.safetensors
    python benchmarks/families.py --net lite0 --data imagenet-sample
    python benchmarks/families.py --net resnet50

One candidate table and one latency table per device serve all families: for each, and for all together, the integer
program takes the architecture that loses least at each share of the baseline's latency, in float and in int8. It is
fitted in closed form to unlabelled images, and its float and int8 files are scored. `--only table`, `fit`, `time` or
`page` does one step; everything is kept in --work, and the same command resumes. `time` takes the latencies of all
files in one interleaved run, on a machine that should be quiet. resnet50 comes without weights: each family
everywhere, timed and not scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.families_page import COMMAND, page
from benchmarks.networks import network_arguments, opened
from benchmarks.result_page import publish, script_command
from benchmarks.rows import append_row, read_rows
from ghostsearch.files import write_text
from ghostsearch.measure.cells import CellStore
from ghostsearch.measure.devices.onnxruntime_cpu import OnnxRuntimeCpu
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.latency_table import LatencyTable
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.int8_module import int8_module
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.profiling import Network, profile
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import example_input, load_model
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.space.choice import GONE
from ghostsearch.space.preset import Preset, parse_preset
from ghostsearch.study.candidates import build_candidates, losses_of, read_candidates
from ghostsearch.study.interactions import decompose
from ghostsearch.study.program import Problem, Program, exclusions
from ghostsearch.study.setup import Setup
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import find_sites

FLOAT, INT8 = "onnxruntime:cpu", "onnxruntime:cpu:int8"
SEPARABLE = tuple(f"separable(multiplier={m})" for m in (1, 2, 3))
CHOICES = ("ghost(ratio=2, kernel=3)", "lowrank(rank=0.5)", *SEPARABLE, "drop", "skip")
WIDTHS = {"resnet56": (1, 0.92, 0.83, 0.75, 0.67, 0.58, 0.5, 0.42, 0.33), "lite0": (1, 0.83, 0.67, 0.5, 0.33)}
TIMED = (1, 0.67, 0.33)
"""Widths that are searched, and those at which layers are timed; between them is interpolated."""
FAMILIES = {
    "mix": "", "separable": "separable", "width": "width", "drop": "drop", "skip": "skip", "low rank": "lowrank",
    "ghost": "ghost",
}  # fmt: skip
"""The beginning of a family's choices; the search's mix has all of them."""
BUDGETS = ((FLOAT, 0.85), (INT8, 0.85), (FLOAT, 0.7), (INT8, 0.7), (INT8, 0.76), (INT8, 0.75))
"""Latency asked for, of the baseline's in the same precision. The last two are for the aim in int8, 1.3 times as fast:
0.77 less what the table is wrong by."""
CELL_S = 0.05
UNIFORM = {
    "ghost": ("ghost(ratio=2, kernel=3)",), "low rank": ("lowrank(rank=0.5)",),
    "separable": ("separable(multiplier=2)",), "width": ("width(0.75)",), "drop": ("drop",), "skip": ("skip",),
    "mix": ("width(0.75)", "skip"),
}  # fmt: skip
"""Of a network without weights; of its branches every second one goes."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    folder = args.work / args.net
    folder.mkdir(parents=True, exist_ok=True)
    if args.net == "resnet50":
        loaded = load_model(f"torchvision:{args.net}")
        example = example_input(loaded.input)
        steps = {
            "fit": lambda: write_uniform(loaded.module, example, folder),
            "time": lambda: time_files(folder, example, args),
        }
    else:
        net = Net(args, folder)
        steps = {"table": net.tables, "fit": net.fit, "time": lambda: time_files(folder, net.setup.example, args)}
    for name, step in steps.items():
        if args.only in (None, name):
            step()
            write_text(folder / COMMAND, script_command(every_step=True))
    if args.only in (None, "page"):
        for path in publish(page(folder, args.seed), args.out):
            print(path)


@dataclass(frozen=True)
class Net:
    """A trained network with what its families are made from."""

    args: argparse.Namespace
    folder: Path

    @cached_property
    def setup(self) -> Setup:
        """Model, data and the whole space."""
        setup = opened(self.args)
        if self.args.net == "lite0":
            setup = replace(setup, calibration=(setup.calibration or [])[: self.args.images // 16])
        return replace(setup, space=preset(WIDTHS[self.args.net]).resolve(setup.anatomy))

    @cached_property
    def test(self) -> list[Any]:
        """Every n-th batch of the test images, since a folder is in the order of its classes."""
        return [batch for i, batch in enumerate(self.setup.data.test) if i % self.args.every == 0]

    def tables(self) -> None:
        """The candidate table and both latency tables, as far as they are not there."""
        for device in (FLOAT, INT8):
            print(device, len(self.latencies(device).cells()), "layers", flush=True)
        build_candidates(self.setup, self.folder, lambda *told: print(*told, flush=True))

    def latencies(self, device: str) -> LatencyTable:
        """The latency table of the whole space; what is missing is timed."""
        setup, store = self.setup, CellStore(device, Setting(), self.folder)
        timed = preset(TIMED).resolve(setup.anatomy)
        table = profile(Network(setup.baseline.module, setup.example, setup.anatomy), timed, store, cell_s=CELL_S)
        return table.within(setup.space)

    def fit(self) -> None:
        """A row of every family, device and share that is not there yet."""
        self._row("baseline", "", 1, Architecture())
        tables = {device: self.latencies(device) for device in (FLOAT, INT8)}
        for device, share in (b for b in BUDGETS if b[1] in (self.args.shares or [b[1]])):
            for family, begins in FAMILIES.items():
                self._row(family, device, share, self._solved(tables, begins, {device: share}))

    def _solved(self, tables: dict[str, LatencyTable], begins: str, bounds: dict[str, float]) -> Architecture | None:
        """The family's architecture that loses least, by the tables, within the bounds; None where there is none."""
        space = family_space(self.setup.space, begins)
        if not space.sites and not space.groups:
            return None
        losses = losses_of(read_candidates(self.folder), space)

        def predict(codes: np.ndarray) -> np.ndarray:
            return np.stack([table.within(space).additive_ratios(codes) for table in tables.values()])

        resources = decompose(predict, [len(x) for x in losses])
        found = Program(Problem(losses, resources, tuple(tables), exclusions(space))).solve(bounds)
        return space.decode(found.code) if found else None

    def _row(self, family: str, device: str, share: float, architecture: Architecture | None) -> None:
        """Fit an architecture, keep both files and their scores on the test images."""
        rows, setup = read_rows(self.folder / "rows.csv"), self.setup
        if any((r["family"], r["device"], float(r["share"])) == (family, device, share) for r in rows):
            return
        row: dict[str, Any] = {"family": family, "device": device, "share": share}
        row |= dict.fromkeys(("file", "macs_percent", "float_percent", "int8_percent"), "")
        if architecture is not None:
            row["file"] = architecture.digest
            row["macs_percent"] = f"{100 * setup.cost(architecture).macs / setup.baseline_cost.macs:.1f}"
            same = next((r for r in rows if r["file"] == architecture.digest), None)
            row |= self._scores(architecture) if same is None else {k: same[k] for k in same if k.endswith("_percent")}
        append_row(self.folder / "rows.csv", row)
        print(row, flush=True)

    def _scores(self, architecture: Architecture) -> dict[str, str]:
        setup, scores = self.setup, {}
        model = setup.convert(architecture)
        graph = onnx_bytes(model, setup.example, free_batch=True)[0]
        for kind, file in {"float": OnnxModule(graph, threads=2), "int8": setup.quantized(model)}.items():
            (self.folder / f"{architecture.digest}.{kind}.onnx").write_bytes(file.graph)
            scores[f"{kind}_percent"] = f"{accuracy(file, self.test):.2f}"
        return scores


def preset(widths: tuple[float, ...]) -> Preset:
    """The space of all families."""
    sites = [{"match": "*", "choices": ["keep", *CHOICES]}]
    return parse_preset({"sites": sites, "groups": [{"widths": [f"width({w})" for w in widths]}]}, "families")


def family_space(space: SearchSpace, begins: str) -> SearchSpace:
    """The space with one family's choices left."""

    def left(options_of: Any) -> dict[str, tuple[str, ...]]:
        kept = {n: (o[0], *(t for t in o[1:] if t.startswith(begins))) for n, o in options_of.items()}
        return {n: o for n, o in kept.items() if len(o) > 1}

    return space.narrowed(left(space.sites), left(space.groups))


def accuracy(model: nn.Module, batches: list[Any]) -> float:
    """Top-1, percent."""
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y, *_ in batches)
    return 100 * right / sum(len(y) for _, y, *_ in batches)


def time_files(folder: Path, example: Any, args: argparse.Namespace) -> None:
    """The latency of all files in one interleaved run beside the float baseline's."""
    known = [r["file"] for r in read_rows(folder / "rows.csv") if r["file"]]
    names = dict.fromkeys(known or ("baseline", *UNIFORM))
    files = {
        f"{name} {kind}": OnnxModule.read(folder / f"{name}.{kind}.onnx").with_batch(1)
        for name in names
        for kind in ("float", "int8")
    }
    write_latencies(folder, files, example, args)


def write_uniform(module: nn.Module, example: Any, folder: Path) -> None:
    """A network whose weights nobody has: each family everywhere, as a float and an int8 file."""
    for family, model in uniform(module, example):
        files = {"float": OnnxModule(onnx_bytes(model, example)[0]), "int8": int8_module(model, example, [example])}
        for kind, file in files.items():
            (folder / f"{family}.{kind}.onnx").write_bytes(file.graph)
        print(family, flush=True)


def uniform(
    module: nn.Module, example: Any, calibration: Sequence[Any] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """The baseline, then each family's usual choice everywhere that there is a place for it; of the branches every
    second one goes.
    """
    anatomy = find_sites(module, example)
    space = preset((1, 0.75)).resolve(anatomy)
    yield "baseline", module
    for family, choices in UNIFORM.items():
        groups = {name: str(w) for name, w in space.uniform(choices[0]).groups.items()}
        sites: dict[str, str] = {b.end: choices[-1] for b in anatomy.branches[1::2]}
        if choices[-1] not in GONE:
            sites = {s: choices[0] for s, options in space.sites.items() if choices[0] in options}
        architecture = Architecture.of(sites, groups)
        if not architecture.is_baseline:
            yield family, convert(module, architecture, example=example, anatomy=anatomy, calibration=calibration)


def write_latencies(folder: Path, files: dict[str, Any], example: Any, args: argparse.Namespace) -> None:
    """Time files beside the first of them and keep that as latencies.csv."""
    baseline = files[next(iter(files))]
    found = measure_latency(
        files, example, device=OnnxRuntimeCpu(), baseline=baseline, setting=Setting(time_limit=args.time_limit)
    )
    (folder / "latencies.csv").unlink(missing_ok=True)
    for name, latency in found.items():
        low, high = latency.ratio_interval or ("", "")
        row = {"name": name, "ms": 1e3 * latency.median_s, "ratio": latency.ratio, "low": low, "high": high}
        append_row(folder / "latencies.csv", row)


def arguments() -> argparse.Namespace:
    parser = network_arguments(__doc__, ("resnet56", "lite0", "resnet50"), "runs/families")
    parser.add_argument("--every", type=int, default=1, help="score on every n-th batch of the test images")
    parser.add_argument(
        "--shares", type=float, nargs="+", help="latencies asked for, of the baseline's; all if not given"
    )
    parser.add_argument("--only", choices=("table", "fit", "time", "page"))
    parser.add_argument("--time-limit", type=float, default=100.0, help="seconds of timing in all")
    return parser.parse_args()


if __name__ == "__main__":
    main()
