"""Where the time of an int8 baseline goes, and what has to leave it for models 1.3 times as fast.

    python benchmarks/int8_bound.py
    python benchmarks/int8_bound.py --mixed

ONNX Runtime profiles the quantized file of each network, one thread, batch 1; a latency does not depend on the weights,
so they are random. Run it on a machine that should be quiet.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from torch import nn

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.graph.branches import find_branches
from ghostsearch.graph.flow import trace_graph
from ghostsearch.machine import processor
from ghostsearch.measure.cost import count_operators
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.int8_module import int8_module
from ghostsearch.measure.onnx_graph.names import layer_of
from ghostsearch.measure.onnx_graph.quantize import Int8Options
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import example_input, load_model

NETS = ("torchvision:resnet18", "torchvision:resnet50", "ghostsearch:resnet56")
MIXED_NETS = ("ghostsearch:resnet20", "ghostsearch:resnet56", "torchvision:resnet18", "timm:tf_efficientnet_lite0")
FASTER = 1.3
WARM = 5


@dataclass(frozen=True)
class Node:
    """An operator as the runtime runs it, and its seconds."""

    operator: str
    layer: str
    weight: tuple[int, ...]
    """Shape of its second input; empty where it has none."""
    seconds: float


@dataclass(frozen=True)
class Profile:
    """The nodes of one forward in the order in which they run."""

    nodes: tuple[Node, ...]

    @property
    def total_s(self) -> float:
        """All nodes together."""
        return sum(node.seconds for node in self.nodes)

    def by(self, key: str) -> dict[str, float]:
        """Seconds by `operator` or `layer`."""
        found = defaultdict[str, float](float)
        for node in self.nodes:
            found[getattr(node, key)] += node.seconds
        return dict(found)

    def by_weight(self, layers: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
        """Seconds of each layer with weights, by its name or the shape of its weights; what follows it is its own."""
        found, left, before = dict.fromkeys(layers, 0.0), dict(layers), 0.0
        current = ""
        for node in self.nodes:
            if "Conv" in node.operator or "Gemm" in node.operator:
                # A fused operator has the name of what was fused into it.
                known = node.layer in left
                current = node.layer if known else next(n for n, shape in left.items() if _padded(shape, node.weight))
                del left[current]
            if current:
                found[current] += node.seconds + before
            before = 0.0 if current else before + node.seconds
        return found


def _padded(shape: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Whether the runtime's blocks of 16 channels explain a weight's shape."""
    return shape[2:] == found[2:] and all(0 <= b - a < 16 for a, b in zip(shape[:2], found[:2], strict=True))


def profile(graph: bytes, example: Any, runs: int) -> Profile:
    """Median seconds of each node over `runs` forwards, by ONNX Runtime's own profiler."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: example.numpy()}
        for _ in range(runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str, tuple[int, ...]], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            shapes = event["args"]["input_type_shape"][1:2]
            weight = tuple(next(iter(shapes[0].values()))) if shapes else ()
            times[event["args"]["op_name"], event["name"].removesuffix("_kernel_time"), weight].append(event["dur"])
    return Profile(tuple(
        Node(operator, layer_of(SimpleNamespace(name=name, input=(), output=(name,))), weight,
             1e-6 * float(np.median(found[WARM:])))
        for (operator, name, weight), found in times.items()
    ))  # fmt: skip


def mixed(net: str, runs: int, seconds: float) -> dict[str, Any]:
    """What the best assignment of float and int8 to layers could gain over int8 everywhere, and what it does gain."""
    loaded = load_model(net)
    example, name = example_input(loaded.input), net.partition(":")[2]
    layers = {
        path: tuple(m.weight.shape) for path, m in loaded.module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }
    file = int8_module(loaded.module, example, [example])
    whole, float_s = profile(file.graph, example, runs), profile(onnx_bytes(loaded.module, example)[0], example, runs)
    slow, quick = whole.by_weight(layers), float_s.by_weight(layers)
    gains = {path: slow[path] - quick[path] for path in layers if slow[path] > quick[path]}
    row: dict[str, Any] = {
        "network": name, "int8 ms": 1e3 * whole.total_s, "layers": len(layers), "faster in float": len(gains),
        "gain without conversions %": 100 * sum(gains.values()) / whole.total_s,
    }  # fmt: skip
    best = sorted(gains, key=lambda path: -gains[path])
    kept = {"all of them": tuple(best), "the best": tuple(best[:1]), "the three best": tuple(best[:3])}
    files = {
        what: int8_module(loaded.module, example, [example], Int8Options(keep_float=some))
        for what, some in kept.items()
        if some
    }
    timed = measure_latency(files, example, baseline=file, setting=Setting(time_limit=seconds)) if files else {}
    for what in kept:
        interval = timed[what].ratio_interval if what in timed else None
        row[f"{what} in float, of int8"] = "{:.3f} – {:.3f}".format(*interval) if interval else "–"
    return row | {"the three best": ", ".join(best[:3])}


def rows_of(net: str, runs: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """By operator in float and int8; by droppable branch; and what 1.3 times takes."""
    loaded = load_model(net)
    example, name = example_input(loaded.input), net.partition(":")[2]
    float_file = onnx_bytes(loaded.module, example)[0]
    found = {
        "float": profile(float_file, example, runs),
        "int8": profile(int8_module(loaded.module, example, [example]).graph, example, runs),
    }
    whole, macs = found["int8"], count_operators(loaded.module, example)
    operators = [
        {
            "network": name, "precision": kind, "operator": operator, "ms": 1e3 * seconds,
            "share %": 100 * seconds / x.total_s,
        }
        for kind, x in found.items()
        for operator, seconds in sorted(x.by("operator").items(), key=lambda pair: -pair[1])
        if seconds >= 0.005 * x.total_s
    ]  # fmt: skip
    graph = trace_graph(loaded.module, example)
    assert graph is not None
    branches = []
    for branch in find_branches(loaded.module.eval(), graph):
        inside = (*branch.inside, branch.end)
        seconds = sum(s for layer, s in whole.by("layer").items() if layer in inside)
        work = sum(macs.by_module.get(path, 0) for path in inside)
        branches.append({
            "network": name, "branch": branch.end.rpartition(".")[0], "int8 ms": 1e3 * seconds,
            "time %": 100 * seconds / whole.total_s, "MACs %": 100 * work / macs.macs,
            "GMAC/s": work / seconds * 1e-9,
        })  # fmt: skip
    return operators, branches, bound(name, found, branches, macs.macs)


def bound(name: str, found: dict[str, Profile], branches: list[dict[str, Any]], macs: int) -> dict[str, Any]:
    """Shares of convolutions, and how many branches have to go, those that take longest first."""
    convolutions = {
        kind: sum(s for operator, s in x.by("operator").items() if "Conv" in operator) / x.total_s
        for kind, x in found.items()
    }
    leave, gone, count = 1 - 1 / FASTER, 0.0, 0
    for row in sorted(branches, key=lambda r: -r["time %"]):
        if gone >= leave:
            break
        gone, count = gone + row["time %"] / 100, count + 1
    return {
        "network": name, "float ms": 1e3 * found["float"].total_s, "int8 ms": 1e3 * found["int8"].total_s,
        "int8 over float": found["int8"].total_s / found["float"].total_s,
        "convolutions, float %": 100 * convolutions["float"], "convolutions, int8 %": 100 * convolutions["int8"],
        "int8 GMAC/s": macs / found["int8"].total_s * 1e-9,
        "of the convolutions' time must go %": 100 * leave / convolutions["int8"],
        "branches that may go": len(branches), "of them must go": f"{count} ({100 * gone:.0f} % of the time)",
    }  # fmt: skip


def page(args: argparse.Namespace) -> ResultPage:
    """All networks."""
    operators, branches, bounds = [], [], []
    for net in args.nets:
        a, b, c = rows_of(net, args.runs)
        operators, branches, bounds = [*operators, *a], [*branches, *b], [*bounds, c]
    figure = "; ".join(f"{r['network']}: {r['of them must go']} of {r['branches that may go']}" for r in bounds)
    return ResultPage(
        name="int8_bound", title=f"What has to leave an int8 network for {FASTER} times the speed",
        claim=f"Residual branches that must be dropped from the int8 baseline to be {FASTER} times as fast",
        figure=figure, command=script_command(), device=f"{processor()}, ONNX Runtime, 1 thread, batch 1",
        tables=[
            ResultTable("The bound", bounds),
            ResultTable("By residual branch that may be dropped", branches),
            ResultTable("By operator, those of half a percent and more", operators),
        ],
        notes=(
            f"Times by ONNX Runtime's profiler, which adds to each operator (whole models are timed on "
            f"families_resnet56.md), medians of {args.runs - WARM} forwards. A model {FASTER} times as fast has lost "
            f"{100 * (1 - 1 / FASTER):.0f} % of the time: that share must leave the convolutions and what "
            "stands between them. `of them must go`: branches dropped, those that take longest first, the affines "
            "in their place counted as free. What dropping, widths, low rank and ghosts cost in accuracy at equal time "
            "is in families_resnet56.md.",
        ),
    )  # fmt: skip


def mixed_page(args: argparse.Namespace) -> ResultPage:
    """Float where it is faster, in an int8 network."""
    rows = [mixed(net, args.runs, args.seconds) for net in args.nets]
    bounds = "; ".join(f"{r['network']} {r['gain without conversions %']:.1f} %" for r in rows)
    return ResultPage(
        name="int8_mixed", title="What float layers could gain in an int8 network",
        claim="Of an int8 network's time, what would be gained by every layer that is faster in float, if converting "
        "to float and back were free; with the conversions see the last columns",
        figure=bounds, command=script_command(), device=f"{processor()}, ONNX Runtime, 1 thread, batch 1",
        tables=[ResultTable("Bound and measured", rows)],
        notes=(
            f"Times of layers by ONNX Runtime's profiler, medians of {args.runs - WARM} forwards; what stands between "
            "two layers counts for the one before, the input's conversion for the first. `of int8`: latency of the "
            "network with those layers in float, conversions included, as a share of all in int8, 95 % interval, "
            "interleaved.",
        ),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixed", action="store_true", help="write int8_mixed: what float layers could gain")
    parser.add_argument("--nets", nargs="+", default=[])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing a network's mixed files")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    args.nets = args.nets or list(MIXED_NETS if args.mixed else NETS)
    for path in publish(mixed_page(args) if args.mixed else page(args), args.out):
        print(path)


if __name__ == "__main__":
    main()
