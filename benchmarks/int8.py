"""What int8 costs ghosts: every 3×3 convolution a ghost, fitted without labels, beside the baseline.

    python benchmarks/int8.py --net resnet20 --data cifar10 --validation-list val.txt --weights resnet20.safetensors
    python benchmarks/int8.py --net resnet56 --data cifar10 --validation-list val.txt --weights resnet56.safetensors

Each network is scored in float, in int8 as the product quantizes it, with the channels' ranges left as they are, by
ONNX Runtime's quantizer alone, and with its noisiest layer in float. Rows are kept in --work, and the page shows all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from families import accuracy
from rows import append_row, read_rows

from ghostsearch.machine import processor
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.int8_module import int8_graph
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.quantize import Int8Options, float_nodes
from ghostsearch.report.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import parse_layer_choice
from ghostsearch.space.costs import choice_fits
from ghostsearch.study.config import RunConfig
from ghostsearch.study.setup import Setup, open_setup

CHOICES = ("baseline", "ghost(ratio=2, kernel=1)", "ghost(ratio=2, kernel=3)")
SCALE_IMAGES = 128
MOST = 0.3
"""Points that int8 may cost a ghost."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    setup = open_setup(RunConfig(
        model=f"ghostsearch:{args.net}", weights=str(args.weights), data=f"folder:{args.data}",
        validation_list=str(args.validation_list), calibration_images=args.images, seed=args.seed, out=str(args.work),
    ))  # fmt: skip
    test = [batch for i, batch in enumerate(setup.data.test) if i % args.every == 0]
    known = {(r["network"], r["model"]) for r in read_rows(args.work / "rows.csv")}
    for choice in CHOICES:
        if (args.net, choice) not in known:
            row = {"network": args.net, "model": choice, **scores(setup, choice, test)}
            append_row(args.work / "rows.csv", row)
            print(row, flush=True)
    publish(page(args, read_rows(args.work / "rows.csv")), args.out)


def scores(setup: Setup, choice: str, test: list[Any]) -> dict[str, Any]:
    """Accuracy in percent of a choice everywhere, in float and in int8 in several ways."""
    architecture = Architecture()
    if choice != "baseline":
        kind = parse_layer_choice(choice)
        architecture = Architecture.of({s.path: choice for s in setup.anatomy.sites if choice_fits(s, kind)})
    model = setup.convert(architecture)
    batches = (setup.calibration or [])[: SCALE_IMAGES // len((setup.calibration or [])[0])]

    def quantized(options: Int8Options) -> Any:
        return int8_graph(model, setup.example, batches, options, free_batch=True)

    ours = quantized(Int8Options())
    worst = ours.noise()[0]
    files = {
        "float %": onnx_bytes(model, setup.example, free_batch=True)[0],
        "int8 %": ours.graph,
        "ranges as they are %": quantized(Int8Options(equalize=False)).graph,
        "quantizer alone %": quantized(Int8Options(equalize=False, split_norms=False)).graph,
        "noisiest in float %": quantized(Int8Options(keep_float=(worst.layer,))).graph,
    }
    return {
        **{name: f"{accuracy(OnnxModule(graph), test):.2f}" for name, graph in files.items()},
        "images": sum(len(y) for _, y, *_ in test), "noisiest": f"{worst.layer} ({worst.snr_db:.0f} dB)",
        "in float": len(float_nodes(ours.graph)),
    }  # fmt: skip


def page(args: argparse.Namespace, rows: list[dict[str, str]]) -> ResultPage:
    """All rows, with what int8 costs."""
    shown = [
        {
            **row, "int8 costs, points": f"{float(row['float %']) - float(row['int8 %']):+.2f}",
            "noisiest in float gains, points": f"{float(row['noisiest in float %']) - float(row['int8 %']):+.2f}",
        }
        for row in rows
    ]  # fmt: skip
    ghosts = [r for r in shown if r["model"] != "baseline"]
    costs = ", ".join(f"{r['network']} {r['model']} {r['int8 costs, points']}" for r in ghosts)
    gain = max(float(r["noisiest in float gains, points"]) for r in shown)
    return ResultPage(
        name="int8", title="What int8 costs ghosts",
        claim=f"Points of accuracy that int8 costs networks of ghosts alone (aim: {MOST} at most)", figure=costs,
        command=script_command(), device=f"{processor()}, ONNX Runtime", seed=args.seed,
        tables=[ResultTable("Top-1 on test images, weights in closed form without labels", shown)],
        notes=(
            f"ONNX Runtime's static quantizer, weights per channel, ranges from {SCALE_IMAGES} calibration images. "
            "`ranges as they are`: without equalizing the channels' ranges; `quantizer alone`: nor splitting the "
            "BatchNorm behind a ghost's concatenation; `noisiest in float`: with the layer of least signal-to-noise, "
            f"each by itself, kept in float, which gains {gain:+.2f} points at most here; `in float`: nodes left in "
            "float. All columns of a row are of the same images: the standard error of their differences is about 0.1 "
            "to 0.2 points.",
        ),
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=("resnet20", "resnet56"), default="resnet20")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--validation-list", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256, help="to fit to, without labels")
    parser.add_argument("--every", type=int, default=1, help="score on every n-th batch of the test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/int8"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
