"""What int8 costs networks of ghosts alone and efficientnet-lite0, and what a layer left in float gives back.

    python benchmarks/int8.py --net resnet20 --data cifar10 --validation-list val.txt --weights resnet20.safetensors
    python benchmarks/int8.py --net resnet56 --data cifar10 --validation-list val.txt --weights resnet56.safetensors
    python benchmarks/int8.py --net lite0 --data imagenet-sample
    python benchmarks/int8.py --time

Each network is run in float, in int8 as the product quantizes it, with the channels' ranges left as they are, by ONNX
Runtime's quantizer alone, and with its noisiest layers in float. Rows and files are kept in --work; `--time` times
those that are not timed yet, on a machine that should be quiet. The page shows what is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.networks import network_arguments, opened
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import append_row, read_rows
from ghostsearch.machine import processor
from ghostsearch.measure.devices.onnxruntime_cpu import OnnxRuntimeCpu
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.int8_module import FloatFile
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.quantize import Int8Options, float_nodes
from ghostsearch.measure.setting import Setting
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.space.costs import choice_fits
from ghostsearch.study.setup import Setup

CHOICES = ("baseline", "ghost(ratio=2, kernel=1)", "ghost(ratio=2, kernel=3)")
SCALE_IMAGES, SEVERAL = 128, 5
MOST = 0.3
"""Points that int8 may cost a ghost."""
COMMANDS = "commands.csv"
"""In --work: what made the rows."""
INT8, WORST = "int8", "noisiest in float"


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    if args.time:
        times(args)
    else:
        setup = opened(args)
        test = [batch for i, batch in enumerate(setup.data.test) if i % args.every == 0]
        known = {(r["network"], r["model"]) for r in read_rows(args.work / "rows.csv")}
        for choice in CHOICES[:1] if args.net == "lite0" else CHOICES:
            for row in judged(setup, choice, test, args) if (args.net, choice) not in known else ():
                append_row(args.work / "rows.csv", row)
                print(row, flush=True)
    if script_command() not in {r["command"] for r in read_rows(args.work / COMMANDS)}:
        append_row(args.work / COMMANDS, {"command": script_command()})
    for path in publish(page(args, read_rows(args.work / "rows.csv")), args.out):
        print(path)


def judged(setup: Setup, choice: str, test: list[Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way to run a choice everywhere; the files are kept."""
    found, rows, wanted = files(setup, choice), [], None
    for number, (way, (graph, note)) in enumerate(found.items()):
        model = OnnxModule(graph)
        outputs = torch.cat([model(x) for x, *_ in test]).log_softmax(1)
        wanted = outputs if wanted is None else wanted
        lost = F.kl_div(outputs, wanted, log_target=True, reduction="none").sum(1).mean()
        right = (outputs.argmax(1) == torch.cat([y for _, y, *_ in test])).double().mean()
        name = f"{args.net}-{CHOICES.index(choice)}-{number}"
        (args.work / f"{name}.onnx").parent.mkdir(parents=True, exist_ok=True)
        (args.work / f"{name}.onnx").write_bytes(graph)
        rows.append({
            "network": args.net, "model": choice, "run": way, "file": name, "images": len(outputs),
            "top1_percent": f"{100 * float(right):.2f}", "divergence": f"{float(lost):.5f}", "note": note,
        })  # fmt: skip
    return rows


def files(setup: Setup, choice: str) -> dict[str, tuple[bytes, str]]:
    """By the way to run it a graph and a note; float first."""
    architecture = Architecture()
    if choice != "baseline":
        kind = parse_layer_choice(choice)
        architecture = Architecture.of({s.path: choice for s in setup.anatomy.sites if choice_fits(s, kind)})
    model, images = setup.convert(architecture), setup.calibration or []
    batches, file = images[: SCALE_IMAGES // len(images[0])], FloatFile.of(model, setup.example)

    def quantized(**options: Any) -> Any:
        return file.int8(batches, Int8Options(**options))

    ours = quantized()
    worst = ours.noise()[:SEVERAL]
    named = [f"{x.layer} ({x.snr_db:.0f} dB)" for x in worst]
    return {
        "float": (file.graph, ""),
        INT8: (ours.graph, f"{len(float_nodes(ours.graph))} nodes in float"),
        "int8, ranges as they are": (quantized(equalize=False).graph, ""),
        "int8, quantizer alone": (quantized(equalize=False, split_norms=False).graph, ""),
        f"int8, {WORST}": (quantized(keep_float=(worst[0].layer,)).graph, named[0]),
        f"int8, {SEVERAL} {WORST}": (quantized(keep_float=tuple(x.layer for x in worst)).graph, ", ".join(named)),
    }


def times(args: argparse.Namespace) -> None:
    """Each network's files in one interleaved run beside its int8 baseline."""
    rows = read_rows(args.work / "rows.csv")
    known = {r["file"] for r in read_rows(args.work / "latencies.csv")}
    for network in dict.fromkeys(r["network"] for r in rows if r["file"] not in known):
        models = {r["file"]: OnnxModule.read(args.work / f"{r['file']}.onnx").with_batch(1)
                  for r in rows if r["network"] == network}  # fmt: skip
        first = next(r["file"] for r in rows if r["network"] == network and r["run"] == INT8)
        size = next(iter(models[first].inputs.values()))[-1]
        found = measure_latency(
            models, torch.randn(1, 3, size, size), device=OnnxRuntimeCpu(), baseline=models[first],  # type: ignore[arg-type]
            setting=Setting(time_limit=args.time_limit / 3),
        )  # fmt: skip
        for file, latency in found.items():
            low, high = latency.ratio_interval or (0.0, 0.0)
            append_row(
                args.work / "latencies.csv", {"file": file, "time": f"{latency.ratio:.3f} [{low:.3f}, {high:.3f}]"}
            )


def page(args: argparse.Namespace, rows: list[dict[str, str]]) -> ResultPage:
    """All rows, with what int8 costs and what float layers give back."""
    timed = {r["file"]: r["time"] for r in read_rows(args.work / "latencies.csv")}
    score = {(r["network"], r["model"], r["run"]): float(r["top1_percent"]) for r in rows}
    costs = [f"{n} {m} {score[n, m, 'float'] - score[n, m, INT8]:+.2f}" for n, m in ghosts(rows)]
    gains = [score[r["network"], r["model"], r["run"]] - score[r["network"], r["model"], INT8]
             for r in rows if WORST in r["run"]]  # fmt: skip
    shown = [{k: v for k, v in r.items() if k != "file"} | {"time": timed.get(r["file"], "")} for r in rows]
    return ResultPage(
        name="int8", title="What int8 costs, and what layers in float give back",
        claim=f"Points of accuracy that int8 costs networks of ghosts alone (aim: {MOST} at most)",
        figure=f"{', '.join(costs)}; leaving the noisiest layers in float gains {min(gains):+.2f} to {max(gains):+.2f}",
        command=" && ".join(r["command"] for r in read_rows(args.work / COMMANDS)),
        device=f"{processor()}, ONNX Runtime, 1 thread, batch 1", seed=args.seed,
        tables=[ResultTable("By way to run it; time is over the int8 baseline's of the network [95 %]", list(shown))],
        notes=(
            "Weights in closed form without labels; accuracy on test images that nothing here has read, lite0's "
            "perhaps among those that it was trained on; divergence "
            "from the float file's probabilities in nats. ONNX Runtime's static quantizer, ranges from "
            f"{SCALE_IMAGES} images. `ranges as they are`: channels' ranges not equalized; `quantizer alone`: nor the "
            f"BatchNorm behind a ghost's concatenation split; `noisiest in float`: the layer, or the {SEVERAL}, of "
            "least signal-to-noise by itself.",
            "The ways to run a model are judged on the same images: the standard error of a difference is about 0.1 to "
            "0.2 points on CIFAR, about 1 on the 500 photographs, where the divergence says more.",
        ),
    )  # fmt: skip


def ghosts(rows: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Network and model of the networks of ghosts alone."""
    yield from dict.fromkeys((r["network"], r["model"]) for r in rows if r["model"].startswith("ghost"))


def arguments() -> argparse.Namespace:
    parser = network_arguments(__doc__, ("resnet20", "resnet56", "lite0"), "runs/int8")
    parser.add_argument("--every", type=int, default=1, help="score on every n-th batch of the test images")
    parser.add_argument("--time", action="store_true", help="time the files that are there")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds of timing in all")
    return parser.parse_args()


if __name__ == "__main__":
    main()
