"""Where the time of an int8 baseline goes, and what has to leave it for models 1.3 times as fast.

    python benchmarks/int8_bound.py

ONNX Runtime profiles the quantized file of each network, one thread, batch 1; a latency does not depend on the weights,
so they are random. Run it on a machine that should be quiet.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.graph.branches import find_branches
from ghostsearch.graph.flow import trace_graph
from ghostsearch.machine import processor
from ghostsearch.measure.cost import count_operators
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.int8_module import int8_module
from ghostsearch.measure.onnx_graph.names import layer_of
from ghostsearch.models.load import example_input, load_model

NETS = ("torchvision:resnet18", "torchvision:resnet50", "ghostsearch:resnet56")
FASTER = 1.3
WARM = 5


@dataclass(frozen=True)
class Profile:
    """Seconds of one forward by operator and, of what has weights, by layer."""

    by_operator: dict[str, float]
    by_layer: dict[str, float]

    @property
    def total_s(self) -> float:
        """All operators together."""
        return sum(self.by_operator.values())


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
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"].removesuffix("_kernel_time")].append(event["dur"] * 1e-6)
    operators, layers = defaultdict[str, float](float), defaultdict[str, float](float)
    for (operator, name), seconds in nodes.items():
        median = float(np.median(seconds[WARM:]))
        operators[operator] += median
        layers[layer_of(SimpleNamespace(name=name, input=(), output=(name,)))] += median
    return Profile(dict(operators), dict(layers))


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
        for operator, seconds in sorted(x.by_operator.items(), key=lambda pair: -pair[1])
        if seconds >= 0.005 * x.total_s
    ]  # fmt: skip
    graph = trace_graph(loaded.module, example)
    assert graph is not None
    branches = []
    for branch in find_branches(loaded.module.eval(), graph):
        inside = (*branch.inside, branch.end)
        seconds = sum(s for layer, s in whole.by_layer.items() if layer in inside)
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
        kind: sum(s for operator, s in x.by_operator.items() if "Conv" in operator) / x.total_s
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
            f"Times by ONNX Runtime's profiler, medians of {args.runs - WARM} forwards. A model {FASTER} times as fast "
            f"has lost {100 * (1 - 1 / FASTER):.0f} % of the time: that share must leave the convolutions and what "
            "stands between them. `of them must go`: branches dropped, those that take longest first, the affines "
            "in their place counted as free. What dropping, widths, low rank and ghosts cost in accuracy at equal time "
            "is in families.md.",
        ),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS))
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    for path in publish(page(args), args.out):
        print(path)


if __name__ == "__main__":
    main()
