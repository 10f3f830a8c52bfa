"""How long the candidate table of a network takes, candidate by candidate, on its own images at its own size.

    python benchmarks/candidate_table.py --model torchvision:resnet50 --size 224 --classes 10 \\
        --data folder:cifar10-jpeg --name candidates_resnet50 --out results

Weights do not matter for the time: without `--weights` the network stays as it was initialised, and its rows say
nothing about its layers. The command starts from nothing each time, since a resumed table would have no whole time.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.networks import compute_device, study_arguments
from benchmarks.result_page import ResultPage, ResultTable, judged, publish, script_command
from ghostsearch.data.calibration import images_within
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.candidates import build_candidates, single_changes
from ghostsearch.study.config import RunConfig
from ghostsearch.study.divergence import JUDGE_IMAGES, JUDGE_VALUES
from ghostsearch.study.setup import Setup, open_setup

PARTS = 6
"""The table of times has so many rows, from the network's first candidates to its last."""
AIMS = {"resnet18": (1.5, 88), "resnet50": (8.0, 319)}
"""Minutes aimed at on two cores, for so many candidates, at 224 pixels."""


def main() -> None:
    args = arguments()
    config = RunConfig(
        model=args.model, weights=args.weights, data=args.data, validation_list=args.validation_list, space=args.space,
        classes=args.classes, size=args.size, train_images=args.train_images, batch_size=args.batch_size,
        calibration_images=args.calibration_images, seed=args.seed, out=args.name,
    )  # fmt: skip
    started = time.perf_counter()
    bench = open_setup(config)
    opened = time.perf_counter() - started
    whole = sum(1 for _ in single_changes(bench.space))
    bench = replace(bench, space=every(bench.space, args.every))
    with tempfile.TemporaryDirectory() as folder:
        times = candidate_times(bench, Path(folder))
    rows = parts(times)
    print(pd.DataFrame(rows).to_string(index=False))
    publish(page(args, bench, times, rows, opened, whole), args.out)


def every(space: SearchSpace, nth: int) -> SearchSpace:
    """The space of every nth site and every nth group."""
    sites, groups = (dict(list(options.items())[::nth]) for options in (space.sites, space.groups))
    return replace(space, sites=sites, groups=groups)


def candidate_times(bench: Setup, folder: Path) -> pd.DataFrame:
    """Wall and CPU seconds from the start, after each candidate, in the order of computation."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows: list[tuple[str, float, float]] = []

    def told(done: int, total: int, text: str) -> None:
        if not done:
            return  # says that the baseline's values come first
        rows.append((text.split(": ")[-1].rpartition(", ")[0], time.perf_counter() - wall, time.process_time() - cpu))
        print(f"{done}/{total} {text}, {rows[-1][1]:.0f} s", flush=True)

    build_candidates(bench, folder, told)
    return pd.DataFrame(rows, columns=["candidate", "wall", "cpu"])


def parts(times: pd.DataFrame) -> list[dict[str, Any]]:
    """Seconds of equal parts of the candidates, the first network layer's first; the teacher's pass is in the first."""
    rows, before = [], (0.0, 0.0)
    for part in range(count := min(PARTS, len(times))):
        mine = times.iloc[len(times) * part // count : len(times) * (part + 1) // count]
        last = mine.iloc[-1]
        wall, cpu = float(last.wall) - before[0], float(last.cpu) - before[1]
        before = (float(last.wall), float(last.cpu))
        rows.append({
            "from": mine.iloc[0].candidate, "to": last.candidate, "candidates": len(mine),
            "minutes": round(wall / 60, 2), "CPU minutes": round(cpu / 60, 2),
            "seconds each": round(wall / len(mine), 2),
        })  # fmt: skip
    return rows


def page(
    args: argparse.Namespace, bench: Setup, times: pd.DataFrame, rows: list[dict[str, Any]], opened: float, whole: int
) -> ResultPage:
    """The page, with what was computed and with how many threads."""
    last = times.iloc[-1]
    size = " × ".join(map(str, bench.example.shape[-2:]))  # type: ignore[union-attr]
    fitted = sum(len(b) for b in bench.few_images or [])
    judged = images_within(JUDGE_VALUES, bench.example, JUDGE_IMAGES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    name = args.model.split(":")[-1]
    part = f" of {whole} (one site and one group in {args.every})" if args.every > 1 else ""
    return ResultPage(
        name=args.name, title=f"The candidate table of {name} at {size}: how long it takes",
        claim=f"Candidate table of {name} at {size}, {len(times)} candidates{part}, wall time",
        figure=f"{last.wall / 60:.1f} minutes{aim_beside(name, len(times), last.wall / 60)}",
        command=script_command(), device=compute_device(), seed=args.seed,
        tables=[ResultTable("From the first layer to the last", rows)],
        notes=[
            f"Each candidate is one site's choice or one group's width, alone: fitted in closed form to {fitted} "
            f"calibration images and judged on {judged} images of the selection split. The baseline "
            "model's values are computed once; each candidate starts from them, so late layers cost less.",
            f"CPU time {last.cpu / 60:.1f} minutes, largest memory {peak:.1f} GiB, load of the machine at the end "
            f"{os.getloadavg()[0]:.1f}. Opening model and images before took {opened:.0f} s; latency columns come from "
            "the latency table and are not in this.",
            *([] if args.weights else ["The network has random weights, which does not change the time."]),
        ],
    )  # fmt: skip


def aim_beside(name: str, candidates: int, minutes: float) -> str:
    """The aim, and what was taken for as many candidates as it is for; nothing where there is none."""
    if name not in AIMS:
        return ""
    aim, count = AIMS[name]
    at_rate = minutes * count / candidates
    same = "" if candidates == count else f", at this rate {at_rate:.1f}"
    return f" (aim: {aim:g} for {count}{same}, {judged(at_rate, aim)})"


def arguments() -> argparse.Namespace:
    parser = study_arguments(__doc__)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--every", type=int, default=1, help="take every nth site and every nth group alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="candidate_table", help="the page's name")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
