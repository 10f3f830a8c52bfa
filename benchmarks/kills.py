"""SIGKILL at random over every stage of a search, going on each time, against one run that nobody killed.

    python benchmarks/kills.py --results results

The run is the tiny digits study of the tests with every stage in it. A killed run is started again by the same command
until it ends; after each kill what is on disk is read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ghostsearch.measure.machine import processor
from ghostsearch.report.result_page import ResultPage, ResultTable, write_index, write_page
from ghostsearch.search.view import load_study

SPACE = """
width_multiple: 4
include: ["block1.*"]
sites:
  - match: "block1.*"
    choices: ["ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)"]
groups:
  - match: "*"
    widths: [width(1), width(0.5)]
"""
PROGRAM = """
import json, sys, torch
torch.set_num_threads(1)
from ghostsearch.search.config import RunConfig
from ghostsearch.search.run import search
search(RunConfig(**json.loads(sys.argv[1])))
"""
STAGES = (
    ("starting", None),
    ("training the plain model", "run.yaml"),
    ("candidate table", "study.json"),
    ("trials", "weights/*"),
    ("final pass", "models/[0-9a-f]*/record.json"),
    ("tables and report", "outcome.json"),
)
"""The stage a run is in by what stands on disk: the last of these that is there."""


def options(space: Path, out: Path, **changed: Any) -> dict[str, Any]:
    """A study of seconds with every stage in it, on objectives that do not depend on the clock."""
    return {
        "space": str(space), "objectives": ["score", "macs"], "trials": 12, "epochs": 1, "final_epochs": 1,
        "finalists": 3, "baseline_epochs": 1, "train_images": 192, "calibration_images": 64, "time_limit": 0.05,
        "final_time_limit": 0.2, "cell_time_limit": 0.02, "out": str(out), **changed,
    }  # fmt: skip


def start(given: dict[str, Any]) -> subprocess.Popen[str]:
    """The search as a process group of its own."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(given)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(given: dict[str, Any]) -> float:
    """Run the search to its end; returns its wall seconds."""
    began, process = time.monotonic(), start(given)
    told = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"the search failed: {told[-2000:]}")
    return time.monotonic() - began


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on kills: architectures, states, exact scores and costs, finalists, front."""
    view = load_study(folder)

    def plain(records: Any) -> list[Any]:
        return [
            (r.digest, r.origin, r.state, r.cost and r.cost.macs, [(s.split, s.epochs, s.value) for s in r.scores])
            for r in records
        ]

    return {"trials": plain(view.records), "finalists": plain(view.finalists), "front": list(view.front)}


def stage_of(folder: Path) -> str:
    """The stage that a run is in."""
    reached = [name for name, sign in STAGES if sign is None or list(folder.glob(sign))]
    return reached[-1]


def half_written(folder: Path) -> list[str]:
    """Files of ours that do not read back whole; temporary ones of an interrupted write are no files of ours."""
    from safetensors import safe_open

    bad = []
    for path in folder.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
            elif path.suffix == ".parquet":
                import pandas as pd

                pd.read_parquet(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, the file is bad
            bad.append(f"{path.name}: {error!r}")
    return bad


def told_trials(folder: Path, storage: Any) -> dict[str, str]:
    """Finished trials in the study's storage: digest and record."""
    import optuna

    from ghostsearch.search.ledger import finished_records
    from ghostsearch.search.storage import open_storage

    if not (folder / "study.json").exists():
        return {}
    name = json.loads((folder / "study.json").read_text())["name"]
    try:
        study = optuna.load_study(study_name=name, storage=open_storage(storage, folder).backend)
    except KeyError:
        return {}
    records = finished_records(study.get_trials(deepcopy=False))
    if len({r.digest for r in records}) != len(records):
        raise SystemExit("an architecture is in the study twice")
    return {r.digest: r.model_dump_json(exclude={"number"}) for r in records}


def killed_runs(
    make: Callable[[int], dict[str, Any]], kills: int, draw: random.Random, typical_s: float, wanted: dict[str, Any]
) -> tuple[list[dict[str, Any]], int, int]:
    """Kill searches until there were so many kills; a run that ended is compared, and another one begun.

    Returns a row a kill, and how many runs there were and how many of them came to what was wanted.
    """
    rows: list[dict[str, Any]] = []
    runs = equal = 0
    while len(rows) < kills:
        runs, finished = runs + 1, dict[str, str]()
        given = make(runs)
        folder = Path(given["out"])
        while len(rows) < kills:
            process, wait = start(given), draw.uniform(0.1, 0.7) * typical_s
            try:
                told = process.communicate(timeout=wait)[1]
            except subprocess.TimeoutExpired:
                at = stage_of(folder)
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            else:
                if process.returncode:
                    raise SystemExit(f"the search failed: {told[-2000:]}")
                break
            now = told_trials(folder, given.get("storage"))
            rows.append({
                "kill": len(rows) + 1, "run": runs, "after seconds": round(wait, 2), "stage": at,
                "finished trials": len(now), "lost or repeated": sum(now.get(d) != t for d, t in finished.items()),
                "half-written files": len(half_written(folder)),
            })  # fmt: skip
            print(rows[-1], flush=True)
            finished = now
        finish(given)
        equal += outcome(folder) == wanted
        print("run", runs, "ended; equal so far:", equal, flush=True)
    return rows, runs, equal


def main() -> None:
    """Runs on each storage, and the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storages", default="sqlite,journal")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    tables, runs, equal = [], 0, 0
    for kind in given.storages.split(","):
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (place / "space.yaml").write_text(SPACE)
            clean = options(place / "space.yaml", place / "unkilled")
            typical = finish(clean)
            rows, made, same = killed_runs(
                lambda number, place=place, kind=kind, stack=stack: options(
                    place / "space.yaml", place / f"run{number}", storage=storage_of(kind, place, number, stack)
                ),
                given.kills, random.Random(given.seed), typical, outcome(place / "unkilled"),
            )  # fmt: skip
        caption = f"{kind}: {made} runs, {same} equal to the one that nobody killed, which took {typical:.0f} s"
        tables.append(ResultTable(caption, rows))
        runs, equal = runs + made, equal + same
    bad = sum(r["lost or repeated"] + r["half-written files"] for t in tables for r in t.rows)
    total = sum(len(t.rows) for t in tables)
    figure = f"{bad} in {total} kills; {equal} of {runs} runs equal"
    print(figure)
    if given.results:
        page = ResultPage(
            name="kills", title="SIGKILL at random, and going on", seed=given.seed, tables=tables, figure=figure,
            claim="Searches killed at random in every stage and started again by the same command: trials lost or "
            "repeated and files half-written; runs whose trials, scores, finalists and front equal an unkilled run's",
            command=" ".join(["python", "benchmarks/kills.py", *sys.argv[1:]]), device=processor(),
            notes=["The stage is told by what stood on disk at the kill."],
        )  # fmt: skip
        write_page(page, given.results)
        write_index(given.results)


def storage_of(kind: str, place: Path, number: int, stack: ExitStack) -> str | None:
    """The storage of a run; each has one of its own."""
    if kind == "sqlite":
        return None
    if kind == "journal":
        return f"journal:{place / f'log{number}'}"
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "search"))
    from servers import server

    return stack.enter_context(server(kind))


if __name__ == "__main__":
    main()
