"""How long a closed-form fit takes at 224 pixels, what memory it needs, and how exact it is: results/fit_speed.md.

    python benchmarks/fit_speed.py --data imagenet-sample

Every site of each network becomes `ghost(ratio=2, kernel=3)`, fitted to unlabelled photographs. efficientnet-lite0 is
trained; the weights of the torchvision networks are random, with BatchNorm statistics of the photographs and affine
parts drawn at random, so their errors compare fits of one network with each other and say nothing of accuracy. Each
network runs in a process of its own, whose largest memory is its row's. A run that was stopped goes on: rows are kept
in --work, and `--only` measures one network.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.imagenet_sample import lite0, read_images
from benchmarks.networks import compute_device
from benchmarks.result_page import ResultPage, ResultTable, judged, publish, script_command
from benchmarks.rows import append_row, read_rows
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import find_sites

CHOICE = "ghost(ratio=2, kernel=3)"
BATCH, UNSEEN = 16, 100
AIMS = {"efficientnet-lite0": 60, "resnet18": 60, "resnet50": 180}
"""Seconds wanted on two free cores."""


def network(name: str, images: Tensor) -> nn.Module:
    """A network in eval mode; torchvision's with statistics of the images."""
    if name == "efficientnet-lite0":
        return lite0()
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = None
    with torch.no_grad():
        for batch in images[:64].split(BATCH):
            model.train()(batch)
    return model.eval()


def largest_memory() -> int:
    """Bytes that this process has held at most so far: on the GPU where fits run there, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def measure(name: str, data: Path, count: int) -> dict[str, Any]:
    """The row of one network, measured in this process."""
    images, unseen = read_images(data / "calibration")[0][:count], read_images(data / "test")[0][:UNSEEN]
    model = network(name, images)
    sites = find_sites(model, images[:1], widths=False).sites
    before = largest_memory()
    written, wall, cpu = psutil.Process().io_counters().write_bytes, time.perf_counter(), time.process_time()
    made = convert(
        model, Architecture.of({s.path: CHOICE for s in sites}), example=images[:1], calibration=images.split(BATCH)
    )
    wall, cpu, memory = time.perf_counter() - wall, time.process_time() - cpu, largest_memory()
    written = psutil.Process().io_counters().write_bytes - written
    with torch.inference_mode():
        wanted, found = (torch.cat([m.eval()(x) for x in unseen.split(20)]) for m in (model, made))
    return {
        "network": name, "sites": len(sites), "images": len(images), "seconds": round(wall, 1),
        "CPU seconds": round(cpu, 1), "aim seconds": AIMS[name],
        "memory MB": (memory - before) >> 20,
        "written MB": written >> 20, "relative output error, unseen images": round(relative_error(found, wanted), 4),
        "device": compute_device(),
    }  # fmt: skip


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Squared difference of outputs (N, classes) over the variance of the wanted ones."""
    return float((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the unpacked sample, with calibration/ and test/")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--only", choices=list(AIMS), nargs="+", default=list(AIMS), help="networks to measure now")
    parser.add_argument("--row", choices=list(AIMS), help="measure this network in this process, print its row as JSON")
    parser.add_argument("--name", default="fit_speed", help="the page's name")
    parser.add_argument("--work", type=Path, default=Path("runs/fit_speed"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    if args.row:
        print(json.dumps(measure(args.row, args.data, args.images)))
        return
    path = args.work / "rows.csv"
    for name in args.only:
        if any(row["network"] == name for row in read_rows(path)):
            continue
        command = [sys.executable, __file__, "--data", str(args.data), "--images", str(args.images)]
        done = subprocess.run([*command, "--row", name], stdout=subprocess.PIPE, text=True, check=True)
        append_row(path, json.loads(done.stdout.splitlines()[-1]))
        print(done.stdout, flush=True)
    rows = sorted(read_rows(path), key=lambda row: list(AIMS).index(row["network"]))
    publish(page(args, rows), args.out)


def page(args: argparse.Namespace, rows: list[dict[str, str]]) -> ResultPage:
    """The page of the rows."""
    missing = [name for name in AIMS if all(row["network"] != name for row in rows)]
    said = ", ".join(
        f"{r['network']} {float(r['seconds']):.0f} s (aim {r['aim seconds']}, "
        f"{judged(float(r['seconds']), float(r['aim seconds']))})"
        for r in rows
    )
    return ResultPage(
        name=args.name, title="Closed-form fits at 224 pixels: time, memory, error",
        claim=f"{CHOICE} at every site, fitted to {args.images} photographs without labels",
        figure=f"{said}; {sum(int(r['written MB']) for r in rows)} MB written to disk",
        command=script_command(), device=rows[0].get("device") or compute_device(), seed=0,
        tables=[ResultTable("One process per network", rows)],
        notes=[
            *([f"Not measured to the end yet: {', '.join(missing)}."] if missing else []),
            "Memory: what the process's largest resident size (on a GPU: allocation) grew by during the fit, "
            "images and model not counted. "
            "Written: bytes that the process had the system write during the fit, temporary files included.",
            "Error: squared difference of the outputs on images of classes that the fit has not seen, over the "
            "baseline's variance. The torchvision networks have random weights: their error is no measure of accuracy.",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
