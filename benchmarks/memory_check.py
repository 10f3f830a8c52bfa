"""Peak activation memory as counted from the graph, beside what ONNX Runtime's arena takes from the system.

    python benchmarks/memory_check.py

Writes results/memory_check.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.space.preset import load_preset
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import find_sites

MODELS = ["resnet18", "resnet50", "mobilenet_v2", "vgg16_bn", "efficientnet_b0"]
CHOICE = "ghost(ratio=2, kernel=3)"

PROGRAM = """
import sys, numpy as np, onnxruntime as ort
ort.set_default_logger_severity(0)
info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
ort.create_and_register_allocator(info, ort.OrtArenaCfg(0, 1, -1, -1))
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.enable_mem_pattern = False
options.add_session_config_entry("session.use_env_allocators", "1")
session = ort.InferenceSession(sys.stdin.buffer.read(), options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
print("RUN", file=sys.stderr, flush=True)
session.run(None, {given.name: np.zeros(given.shape, np.float32)})
"""
"""Extends its arena only by what a request asks for, so that the arena's size is the run's peak and fragmentation."""


def arena_bytes(model: torch.nn.Module, example: torch.Tensor) -> int:
    """What ONNX Runtime's arena took during one run; the input is not in it.

    A process of its own, since the log goes to the file descriptor and only a fresh arena starts from nothing.
    """
    from ghostsearch.measure.onnx_graph.capture import onnx_bytes

    graph, _ = onnx_bytes(model, example)
    run = subprocess.run([sys.executable, "-c", PROGRAM], input=graph, capture_output=True, check=True)
    log = run.stderr.decode().partition("RUN\n")[2]
    return sum(map(int, re.findall(r"Extended allocation by (\d+) bytes", log)))


def measure(name: str, size: int) -> list[dict[str, Any]]:
    """The baseline, and every convolution but the stem a ghost convolution."""
    model = torchvision.models.get_model(name, weights=None).eval()
    example = torch.zeros(1, 3, size, size)
    anatomy = find_sites(model, example, widths=False)
    ghost = convert(model, load_preset("ghost").resolve(anatomy).uniform(CHOICE), example=example, anatomy=anatomy)
    rows = []
    for label, some in (("baseline", model), (CHOICE, ghost)):
        ours = measure_cost(some, example).peak_memory_bytes
        assert ours is not None
        arena = arena_bytes(some, example)
        rows.append(
            {"model": name, "choice": label, "counted MB": ours / 1e6,
             "ONNX Runtime's arena and the input MB": (arena + 4 * example.numel()) / 1e6,
             "arena ÷ counted": (arena + 4 * example.numel()) / ours}
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure every model and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    rows = [row for name in given.model or MODELS for row in measure(name, given.size)]
    ratios = [row["arena ÷ counted"] for row in rows]
    page = ResultPage(
        name="memory_check",
        title="Peak activation memory beside ONNX Runtime's own figure",
        claim="ONNX Runtime's arena over the peak counted from the graph, batch 1, baselines and ghost ones",
        figure=f"{min(ratios):.2f} to {max(ratios):.2f}",
        command=script_command(),
        device=f"{processor()}, onnxruntime:cpu, one thread",
        tables=[ResultTable(f"Bytes of activations at their peak, {given.size}²", rows)],
        notes=[
            "Counted: the largest sum of buffers that live at the same time, no operator reordered. The arena also "
            "holds what fragmentation wastes, layout conversions and convolutions' scratch space, which differ from "
            "processor to processor; weights are in neither.",
        ],
    )  # fmt: skip
    publish(page, given.out)


if __name__ == "__main__":
    main()
