"""SIGKILL at random over every stage of a search, going on each time, against one run that nobody killed.

    python benchmarks/kills.py --out results

It goes on where it was stopped (--steps) until all kills are done, then writes the page.
Each run is the tiny digits study of the tests with every stage in it. It is killed a few times, each time started again
by the same command, then left to its end; after each kill what is on disk is read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor
from ghostsearch.study.directory import load_study

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
from ghostsearch.study.config import RunConfig
from ghostsearch.study.run import search
search(RunConfig(**json.loads(sys.argv[1])))
"""
STAGES = (
    ("starting", None),
    ("training the baseline", "run.yaml"),
    ("candidate table", "study.json"),
    ("trials", "weights/*"),
    ("final pass", "models/[0-9a-f]*/record.json"),
    ("tables and report", "outcome.json"),
)
KILLS_OF_A_RUN = 4
"""More would hit the same start again and again, which takes half of such a short run."""
"""The stage a run is in by what stands on disk: the last of these that is there."""


def options(space: Path, out: Path, **changed: Any) -> dict[str, Any]:
    """A study of seconds with every stage in it, on objectives that do not depend on the clock."""
    return {
        "space": str(space), "objectives": ["score", "macs"], "trials": 9, "epochs": 1, "final_epochs": 1,
        "finalists": 2, "baseline_epochs": 1, "train_images": 128, "calibration_images": 64, "time_limit": 0.05,
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

    def baseline(records: Any) -> list[Any]:
        return [
            (r.digest, r.origin, r.state, r.cost and r.cost.macs, [(s.split, s.epochs, s.value) for s in r.scores])
            for r in records
        ]

    return {"trials": baseline(view.records), "finalists": baseline(view.finalists), "front": list(view.front)}


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

    from ghostsearch.study.ledger import finished_records
    from ghostsearch.study.store import open_storage

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


class Series:
    """Searches on one storage that are killed again and again; kept in a file, so that it goes on row by row."""

    def __init__(self, kind: str, kills: int, seed: int, work: Path) -> None:
        self.kind, self.kills, self.seed, self.work = kind, kills, seed, work / kind
        self.file = self.work / "series.json"
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / "space.yaml").write_text(SPACE)
        self.state: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    @property
    def over(self) -> bool:
        """Whether there were all kills and the last run came to its end."""
        return self.state.get("over", False)

    def step(self) -> None:
        """The run that nobody kills, or one kill, or a last run to its end."""
        state = self.state
        if not state:
            clean = options(self.work / "space.yaml", self.work / "unkilled")
            state |= {"typical_s": finish(clean), "wanted": outcome(self.work / "unkilled")}
            state |= {"rows": [], "run": 1, "told": {}, "equal": 0}
        else:
            folder = self.work / f"run{state['run']}"
            given = options(self.work / "space.yaml", folder, storage=storage_of(self.kind, folder))
            last, killed = len(state["rows"]) == self.kills, [r for r in state["rows"] if r["run"] == state["run"]]
            if last or len(killed) == KILLS_OF_A_RUN or not self._kill(given, folder):
                finish(given)
                self._compare(folder)
                state |= {"over": True} if last else {"run": state["run"] + 1, "told": {}}
        self.file.write_text(json.dumps(state))

    def _kill(self, given: dict[str, Any], folder: Path) -> bool:
        """Kill a run a random while after its start; False when it ended before."""
        rows = self.state["rows"]
        draw = random.Random(f"{self.seed} {len(rows)} {self.state['run']}")
        process, wait = start(given), draw.uniform(0.1, 1.0) * self.state["typical_s"]
        try:
            told = process.communicate(timeout=wait)[1]
        except subprocess.TimeoutExpired:
            at = stage_of(folder)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        else:
            if process.returncode:
                raise SystemExit(f"the search failed: {told[-2000:]}")
            return False
        now, before = told_trials(folder, given["storage"]), self.state["told"]
        rows.append({
            "kill": len(rows) + 1, "run": self.state["run"], "after seconds": round(wait, 2), "stage": at,
            "finished trials": len(now), "lost or repeated": sum(now.get(d) != t for d, t in before.items()),
            "half-written files": len(half_written(folder)),
        })  # fmt: skip
        print(rows[-1], flush=True)
        self.state["told"] = now
        return True

    def _compare(self, folder: Path) -> None:
        same = json.loads(json.dumps(outcome(folder))) == json.loads(json.dumps(self.state["wanted"]))
        self.state["equal"] += same
        print(self.kind, "run", self.state["run"], "ended:", "equal" if same else "NOT EQUAL", flush=True)


def main() -> None:
    """Steps of every series until all are over or the time is up, then the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storages", default="sqlite,journal")
    parser.add_argument("--work", type=Path, default=Path("kills-work"))
    parser.add_argument("--steps", type=int, help="Stop after so many runs; the same command goes on.")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    series = [Series(kind, given.kills, given.seed, given.work) for kind in given.storages.split(",")]
    steps = 0
    for one in series:
        while not one.over and steps != given.steps:
            one.step()
            steps += 1
    if all(one.over for one in series):
        publish(page_of(series, given), given.out)


def page_of(series: Sequence[Series], given: argparse.Namespace) -> ResultPage:
    """All series on one page."""
    tables, runs, equal = [], 0, 0
    for one in series:
        state = one.state
        made, typical = state["run"], state["typical_s"]
        caption = f"{one.kind}: {made} runs, {state['equal']} equal to the one that nobody killed ({typical:.0f} s)"
        tables.append(ResultTable(caption, state["rows"]))
        runs, equal = runs + made, equal + state["equal"]
    bad = sum(r["lost or repeated"] + r["half-written files"] for t in tables for r in t.rows)
    total = sum(len(t.rows) for t in tables)
    stages = Counter(r["stage"] for t in tables for r in t.rows)
    return ResultPage(
        name="kills", title="Searches killed by SIGKILL and resumed", seed=given.seed, tables=tables,
        figure=f"{bad} in {total} kills; {equal} of {runs} runs equal",
        claim="Searches killed at random moments and started again by the same command: trials lost or "
        "repeated and files half-written; runs whose trials, scores, finalists and front equal an unkilled run's",
        command=script_command(), device=processor(),
        notes=[
            "The stage is read from what stood on disk at the kill: "
            + ", ".join(f"{name} {count}" for name, count in stages.most_common()) + ".",
            "Processes run on one thread beside other work of the machine.",
        ],
    )  # fmt: skip


def storage_of(kind: str, folder: Path) -> str | None:
    """The storage of a run; each has one of its own."""
    if kind == "sqlite":
        return None
    if kind == "journal":
        return f"journal:{folder}.log"
    raise SystemExit(f"--storages {kind}: choose sqlite or journal")


if __name__ == "__main__":
    main()
