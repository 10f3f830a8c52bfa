"""How far a study scales: proposals per second with many finished trials, a thousand stub workers, real ones.

    python benchmarks/scaling.py proposals --out results
    python benchmarks/scaling.py stubs --out results
    python benchmarks/scaling.py workers --out results

Each part writes a page of its own. A stub worker is a coroutine in an actor of Ray's local cluster that sleeps where a
real one trains; everything before and after (ask, tell, storage, messages) is the real thing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor
from ghostsearch.records import Axis, Cost, Record, Score
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.space.choice import KEEP
from ghostsearch.study.interactions import decompose
from ghostsearch.study.ledger import DIGEST, RECORD, Ledger, distributions
from ghostsearch.study.owners import own_name
from ghostsearch.study.program import Problem
from ghostsearch.study.sampler import TableSampler
from ghostsearch.study.store import open_storage

KEEP_TEXT = str(KEEP)
SHARES = {
    KEEP_TEXT: 1.0, "ghost(ratio=2, kernel=3)": 0.55, "ghost(ratio=4, kernel=3)": 0.31,
    "ghost(ratio=2, kernel=1)": 0.52, "lowrank(rank=0.5)": 0.5,
}  # fmt: skip
"""Made-up cost of each choice over the baseline layer's."""
SPACE = SearchSpace({f"layer{i}": tuple(SHARES) for i in range(20)})
OBJECTIVES = (
    Axis(name="score", label="accuracy", unit="", maximize=True),
    Axis(name="macs", label="macs", unit="MACs", maximize=False),
    Axis(name="params", label="params", unit="", maximize=False),
)
COUNTS, DATABASE_COUNTS = (100, 1000, 10_000), (100, 1000)


def stub_record(architecture: Architecture, draw: random.Random) -> Record:
    """What a trial might have come to: cheaper is worse, with noise."""
    shares = [SHARES[str(architecture.sites.get(site, KEEP))] for site in SPACE.sites]
    macs = int(sum((i + 1) * s for i, s in enumerate(shares)) * 1e6)
    score = 0.9 - 0.01 * sum(s < 1 for s in shares) + draw.gauss(0, 0.01)
    return Record(
        number=0, digest=architecture.digest, origin="sampler", state="complete",
        sites={k: str(v) for k, v in architecture.sites.items() if v != KEEP},
        cost=Cost(params=int(sum(shares) * 1e5), macs=macs, size_bytes=0),
        scores=(Score(metric="accuracy", value=score, split="validation", epochs=1, images=1000, seed=0),),
    )  # fmt: skip


def table_sampler() -> TableSampler:
    """The search's own sampler over the made-up costs, before it has seen a trial."""
    shares = np.array(list(SHARES.values()))

    def predict(codes: np.ndarray) -> np.ndarray:
        spent = shares[codes]
        return np.stack([spent.sum(1) * 1e5, (spent * np.arange(1, len(SPACE.sites) + 1)).sum(1) * 1e6])

    resources = decompose(predict, [len(SHARES)] * len(SPACE.sites))
    problem = Problem([0.001 * (1 - shares)] * len(SPACE.sites), resources, ("params", "macs"))
    parameters = {name: [str(c) for c in d.choices] for name, d in distributions(SPACE).items()}
    return TableSampler(problem, parameters, [axis.name for axis in OBJECTIVES])


def open_ledger(storage: str | None, folder: Path, sampler: str = "table") -> Ledger:
    """A fresh study, or the one that is there."""
    proposer = table_sampler() if sampler == "table" else sampler
    return Ledger(open_storage(storage, folder), "scaling", SPACE, OBJECTIVES, sampler=proposer, seed=0)


def anything(architecture: Architecture) -> bool:  # noqa: ARG001
    """No limits."""
    return True


def fill(ledger: Ledger, count: int, draw: random.Random) -> None:
    """Finished trials of the baseline and of random architectures, written as a study has them."""
    from optuna.trial import TrialState, create_trial

    trials, seen = [], set[str]()
    while len(trials) < count:
        params = {name: draw.choice(d.choices) if trials else KEEP_TEXT for name, d in ledger.distributions.items()}
        architecture = Architecture.of(params)
        if architecture.digest in seen:
            continue
        seen.add(architecture.digest)
        record = stub_record(architecture, draw)
        assert record.cost
        values = [record.scores[0].value, record.cost.macs, record.cost.params]
        trial = create_trial(
            state=TrialState.COMPLETE, values=values, params=params, distributions=dict(ledger.distributions),
            user_attrs={DIGEST: record.digest, RECORD: record.model_dump_json(), "owner": own_name()},
        )  # fmt: skip
        trial.datetime_start = datetime.now()
        trials.append(trial)
    ledger.study.add_trials(trials)


def storage_of(kind: str, place: Path, stack: ExitStack) -> str | None:
    """A fresh storage of a kind."""
    if kind == "sqlite":
        return None
    if kind == "journal":
        return f"journal:{place / 'log'}"
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "study"))
    from servers import server

    return stack.enter_context(server(kind))


def measure_proposals(kind: str, sampler: str, counts: Sequence[int], asks: int) -> list[dict[str, Any]]:
    """Asks, and asks with their tells, a second, by how many trials are finished."""
    rows = []
    for count in counts:
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ledger, draw = open_ledger(storage_of(kind, place, stack), place, sampler), random.Random(0)
            fill(ledger, count, draw)
            began = time.perf_counter()
            first = ledger.ask(anything)
            opening = time.perf_counter() - began
            began, cpu = time.perf_counter(), time.process_time()
            proposals = [ledger.ask(anything) for _ in range(asks)]
            asked, cpu = time.perf_counter() - began, time.process_time() - cpu
            began = time.perf_counter()
            for proposal in (first, *proposals):
                assert proposal
                ledger.finish(proposal, stub_record(proposal.architecture, draw))
            told = time.perf_counter() - began
            began = time.perf_counter()
            ledger.standings()
            read = time.perf_counter() - began
            rows.append({
                "storage": kind, "sampler": sampler, "finished trials": count,
                "proposals per second": round(asks / asked, 1),
                "CPU ms per proposal": round(1000 * cpu / asks, 1),
                "tells per second": round((asks + 1) / told, 1),
                "first proposal of a process, s": round(opening, 2), "reading all records, s": round(read, 2),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def proposals(given: argparse.Namespace) -> ResultPage:
    """The page of proposals per second."""
    rows = []
    for kind, sampler in product(given.storages.split(","), ("table", "tpe")):
        rows += measure_proposals(kind, sampler, COUNTS if kind == "journal" else DATABASE_COUNTS, given.asks)
    full = [r for r in rows if r["finished trials"] == (COUNTS if r["storage"] == "journal" else DATABASE_COUNTS)[-1]]
    return ResultPage(
        name="scaling_proposals", title="Proposals per second",
        tables=[ResultTable("One process asks: 20 sites of five choices, three objectives", rows)],
        claim="Proposals per second with most finished trials in the study (at least 50 wanted with 10,000)",
        figure=", ".join(
            f"{r['sampler']}, {r['storage']}, {r['finished trials']:,} trials: {r['proposals per second']} by the "
            f"clock, {1000 / r['CPU ms per proposal']:.0f} per CPU second"
            for r in full
        ), command=script_command(), device=processor(),
        notes=[
            "A proposal is an ask of the study: the lock, the sampler, one write of the new trial. The running trials "
            "add up while it asks, as with many workers. CPU ms is what this process spent; the rest is the disk, the "
            "server and whatever else ran on the machine.",
            "table: the search's own sampler, which sees every trial once. TPE sees all of a study of up to 299 "
            "trials; of a longer one the 75 best and 75 newest at each cut, and what came since.",
            f"Load average of the machine while it was measured: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores.",
            f"The databases were filled with fewer trials: {DATABASE_COUNTS}.",
        ],
    )  # fmt: skip


def simulate(workers: int, seconds: float, train_s: float, storage: str | None, place: Path) -> dict[str, Any]:
    """Stub workers on Ray's local cluster, fed by this process for a while."""
    import ray

    class Stubs:
        """So many workers as coroutines of one process."""

        async def train(self, sites: dict[str, str], seed: int) -> str:
            draw = random.Random(seed)
            await asyncio.sleep(train_s * draw.uniform(0.8, 1.2))
            return stub_record(Architecture.of(sites), draw).model_dump_json()

    per_actor = 125
    remote: Any = ray.remote(num_cpus=0, max_concurrency=per_actor)
    actors = [remote(Stubs).remote() for _ in range(-(-workers // per_actor))]
    ledger = open_ledger(storage, place)
    ray.get([a.train.remote({}, 0) for a in actors])
    began, asked, busy = time.perf_counter(), 0, 0.0
    open_: dict[Any, Any] = {}
    done = 0
    while time.perf_counter() - began < seconds:
        working = time.perf_counter()
        if len(open_) < workers:
            proposal = ledger.ask(anything)
            assert proposal
            sites = {k: str(v) for k, v in proposal.architecture.sites.items()}
            open_[actors[asked % len(actors)].train.remote(sites, asked)] = proposal
            asked += 1
        busy += time.perf_counter() - working
        ready, _ = ray.wait(list(open_), num_returns=min(len(open_), 20), timeout=0 if len(open_) < workers else 0.05)
        working = time.perf_counter()
        for reference in ready:
            ledger.finish(open_.pop(reference), Record.model_validate_json(ray.get(reference)))
            done += 1
        busy += time.perf_counter() - working
    wall = time.perf_counter() - began
    ideal = workers / train_s
    for actor in actors:
        ray.kill(actor)
    return {
        "stub workers": workers, "stub training, s": train_s, "trials per second": round(done / wall, 2),
        "if workers never waited": round(ideal, 2), "running at the end": len(open_),
        "proposer busy": f"{busy / wall:.0%}", "trials": done,
    }  # fmt: skip


def stubs(given: argparse.Namespace) -> ResultPage:
    """The page of stub workers."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    rows = []
    for workers in (1, 10, 100, 300, 1000):
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            storage = storage_of(given.storage, place, stack)
            rows.append(simulate(workers, given.seconds, given.train, storage, place))
            print(rows[-1], flush=True)
    best = max(r["trials per second"] for r in rows)
    return ResultPage(
        name="scaling_stubs", title="Stub workers up to a thousand",
        tables=[ResultTable(f"{given.storage}, {given.seconds:g} s each", rows)],
        claim="Simulation: up to 1,000 stub workers (each sleeps where a real one trains) on Ray's local cluster, one "
        "proposer: trials per second at most",
        figure=f"{best:g}", command=script_command(), device=processor(),
        notes=[
            f"Where the proposer is the limit, trials that take longer than workers / {best:g} seconds keep all "
            f"workers busy: 1,000 workers from {1000 / best:.0f} s a trial on.",
            "The workers share this machine's two cores with the proposer, which is the search's own sampler.",
        ],
    )  # fmt: skip


RUN = """
import json, sys, time, torch
torch.set_num_threads(1)
from ghostsearch.study.config import RunConfig
from ghostsearch.study.run import search
view = search(RunConfig(**json.loads(sys.argv[1])))
"""


PARTS = ("fit", "measure", "train", "evaluate")


def real(out: Path, processes: int, **changed: Any) -> dict[str, Any]:
    """Trials per hour of a real study on digits, from the first trial's start to the last one's end."""
    options = {
        "objectives": ["score", "macs"], "trials": 24, "epochs": 1, "final_epochs": 0, "finalists": 1,
        "seeds": "uniform", "baseline_epochs": 1, "time_limit": 0.5, "final_time_limit": 0.1, "out": str(out),
    }  # fmt: skip
    commands = [[sys.executable, "-c", RUN, json.dumps({**options, **changed})] for _ in range(processes)]
    running = [subprocess.Popen(c, env={**os.environ, "OMP_NUM_THREADS": "1"}) for c in commands]
    if any(p.wait() for p in running):
        raise SystemExit("a search failed")
    import optuna

    from ghostsearch.study.ledger import is_told, read_record

    name = json.loads((out / "study.json").read_text())["name"]
    trials = optuna.load_study(study_name=name, storage=f"sqlite:///{out / 'study.db'}").get_trials()
    records = [read_record(t) for t in trials if is_told(t)]
    ends = [t.datetime_complete.timestamp() for t in trials if t.datetime_complete]
    starts = [datetime.fromisoformat(r.started).timestamp() for r in records]
    spent = max(ends) - min(starts)
    inside = sum(sum(r.seconds.values()) for r in records)
    return {
        "trials": len(records), "trials per hour": round(3600 * len(records) / spent), "seconds": round(spent, 1),
        "seconds inside trials": round(inside, 1),
        **{f"of these {part}": round(sum(r.seconds.get(part, 0.0) for r in records), 1) for part in PARTS},
    }  # fmt: skip


def workers(given: argparse.Namespace) -> ResultPage:
    """The page of real workers."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for engine in ("optuna", "ray"):
            for count in map(int, given.workers.split(",")):
                changed: dict[str, Any] = {"engine": engine, "trials": given.trials}
                if engine == "ray":
                    changed["resources"] = "cpu=2" if count == 1 else "cpu=1"
                row = real(Path(folder) / f"{engine}{count}", count if engine == "optuna" else 1, **changed)
                outside = (row["seconds"] * count - row["seconds inside trials"]) / row["trials"]
                rows.append({"engine": engine, "workers": count, **row, "overhead per trial, s": round(outside, 2)})
                print(rows[-1], flush=True)
    rates = {engine: [r["trials per hour"] for r in rows if r["engine"] == engine] for engine in ("optuna", "ray")}
    share = rates["ray"][-1] / rates["optuna"][-1]
    return ResultPage(
        name="scaling_workers", title="Real workers on two cores",
        tables=[ResultTable(f"digits_cnn, one proxy epoch, {given.trials} trials", rows)],
        claim=f"Trials per hour with {given.workers.replace(',', ' and ')} workers on two cores: Ray's actors beside "
        "plain processes (aim: at least 0.9 of their rate)",
        figure=f"processes {rates['optuna']}, Ray {rates['ray']}: {share:.2f} of their rate",
        command=script_command(), device=processor(),
        notes=[
            "Two workers share memory and caches, and under Ray one timing runs at a time, so two are not twice as "
            "fast.",
            "From the first trial's start to the last one's end. Overhead: workers × this time less the seconds inside "
            "trials, over the trials. The actors' start lies before the first trial.",
        ],
    )  # fmt: skip


def main() -> None:
    """One part, and its page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["proposals", "stubs", "workers"])
    parser.add_argument("--storages", default="journal,sqlite,postgresql")
    parser.add_argument("--storage", default="journal")
    parser.add_argument("--asks", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--train", type=float, default=10)
    parser.add_argument("--trials", type=int, default=24, help="of each study with real workers")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    page = {"proposals": proposals, "stubs": stubs, "workers": workers}[given.part](given)
    print(page.figure)
    publish(page, given.out)


if __name__ == "__main__":
    main()
