"""Audit of the latency table on whole models: 30 unseen random architectures each, beside MACs and FLOPs interpolation.

    python benchmarks/latency_audit.py --model resnet18 --model resnet50@3 --model mobilenet_v2
    python benchmarks/latency_audit.py --model ghostsearch:resnet20 --space ghost_width --name latency_audit_widths

It can be stopped (`--seconds 400`) and started again: cells and measured architectures are kept in `--work`. When all
are there it writes results/latency_audit.md, with one row an architecture in results/latency_audit_rows.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.measure.audit import (
    AUDIT_MODELS,
    FIT_MODELS,
    TOGETHER,
    Audit,
    cheapest_architecture,
    compare_predictors,
    fitted_correction,
    measure_architectures,
    random_architectures,
    unseen_architectures,
)
from ghostsearch.measure.cells import CellStore
from ghostsearch.measure.latency_table import LatencyTable
from ghostsearch.measure.profiling import Network, profile
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import example_input, load_model
from ghostsearch.records import Latency
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.preset import load_preset
from ghostsearch.surgery.sites import find_sites

WAITING = "the time that a thread waits for a core is subtracted from each time"
TARGETS = {"MAPE": 0.03, "Kendall τ": 0.93}


class Bench:
    """One model's table and the architectures measured so far."""

    def __init__(self, text: str, given: argparse.Namespace) -> None:
        torch.manual_seed(0)
        name, _, sessions = text.partition("@")
        work = given.work / f"{name.replace(':', '-')}-{given.space}"
        self.name, self.given, self.work, self.sessions = name, given, work, int(sessions or 1)
        loaded = load_model(name if ":" in name else f"torchvision:{name}")
        self.model, self.example = loaded.module.eval(), example_input(loaded.input)
        self.anatomy = find_sites(self.model, self.example)
        space = load_preset(given.space).resolve(self.anatomy)
        setting = Setting(threads=given.threads, batch=given.batch)
        # A store of its own: cells kept from a busier hour would be audited instead of the method.
        start = time.perf_counter()
        self.network = Network(self.model, self.example, self.anatomy)
        self.table: LatencyTable = profile(
            self.network, space, CellStore(given.device, setting, self.work),
            cell_s=given.cell_s, progress=_print,
        )  # fmt: skip
        print(f"{name}: profile took {time.perf_counter() - start:.0f} s", flush=True)
        self.rows = self.work / "architectures.jsonl"

    def wanted(self) -> dict[str, list[Architecture]]:
        """Architectures by what they are for."""
        space = self.table.space
        return {
            "fit": random_architectures(space, FIT_MODELS, 0),
            "unseen": unseen_architectures(space, self.given.models, self.given.draw),
            "cheapest": [cheapest_architecture(self.table)],
        }

    def measured(self) -> list[dict[str, tuple[Latency, float]]]:
        """Per session, by digest, the latency and the machine's load then."""
        sessions: list[dict[str, tuple[Latency, float]]] = [{} for _ in range(self.sessions)]
        for line in self.rows.read_text(encoding="utf-8").splitlines() if self.rows.exists() else []:
            row = json.loads(line)
            if row["session"] < self.sessions:
                sessions[row["session"]][row["digest"]] = Latency.model_validate(row["latency"]), row["load"]
        return sessions

    def pooled(self) -> dict[str, Latency]:
        """By digest, the forwards of all sessions together."""
        sessions = self.measured()
        found = {}
        for digest, (first, _) in sessions[0].items():
            some = [done[digest][0] for done in sessions]
            times = {k: tuple(t for x in some for t in getattr(x, k)) for k in ("times_s", "baseline_times_s")}
            found[digest] = first.model_copy(update=times)
        return found

    def measure_next(self) -> bool:
        """Measure a handful; False when none is missing."""
        wanted = [a for some in self.wanted().values() for a in some]
        sessions = self.measured()
        session = next((i for i, done in enumerate(sessions) if any(a.digest not in done for a in wanted)), None)
        if session is None:
            return False
        done = sessions[session]
        missing = [a for a in wanted if a.digest not in done][:TOGETHER]
        latencies = measure_architectures(
            self.table, self.network, missing, model_s=self.given.model_s, progress=None,
            seed=1000 * session + len(done),
        )  # fmt: skip
        with self.rows.open("a", encoding="utf-8") as file:
            for architecture, latency in zip(missing, latencies, strict=True):
                row: dict[str, Any] = {"session": session, "digest": architecture.digest}
                row |= {"latency": latency.model_dump(), "load": os.getloadavg()[0]}
                file.write(json.dumps(row) + "\n")
        print(
            f"{self.name}, session {session}: {len(done) + len(missing)} architectures, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        return True

    def timed_s(self) -> float:
        """Seconds of forwards of an architecture, the baseline's beside it included; median."""
        return float(np.median([sum(x.times_s) + sum(x.baseline_times_s) for x in self.pooled().values()]))

    def audit(self, measured: Mapping[str, Latency]) -> Audit:
        """The correction fitted and the predictors compared, on some latencies by digest."""
        wanted = self.wanted()
        latencies = {role: [measured[a.digest] for a in some] for role, some in wanted.items()}
        store = self.table.store
        store.correct(self.table.digest, fitted_correction(self.table, wanted["fit"], latencies["fit"]))
        return compare_predictors(
            self.table, wanted["unseen"], latencies["unseen"], wanted["cheapest"][0], latencies["cheapest"][0]
        )

    def session_taus(self) -> str:
        """τ of the latency table on each session alone, largest first."""
        latencies = [{digest: latency for digest, (latency, _) in done.items()} for done in self.measured()]
        taus = [self.audit(some).rows[0].tau for some in latencies]
        return ", ".join(f"{x:.3f}" for x in sorted(taus, reverse=True))

    def load(self) -> float:
        """The machine's median load while measuring."""
        return float(np.median([load for done in self.measured() for _, load in done.values()]))


def _print(done: int, total: int, text: str) -> None:
    if done == total or done % 20 == 0:
        print(text, flush=True)


def best_tau(audit: Audit, draws: int = 200) -> float:
    """Kendall's τ that a perfect predictor would reach in the mean, given the 95 % intervals of what was measured."""
    rng = np.random.default_rng(0)
    true = np.array([x["measured"] for x in audit.models])
    spread = np.array([(high - low) / 3.92 for low, high in (x["interval"] for x in audit.models)])
    return float(np.mean([kendalltau(true, true + rng.normal(0, spread)).statistic for _ in range(draws)]))


def tau_interval(rows: Sequence[Mapping[str, Any]], predictor: str, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval over the architectures of Kendall's τ between what is measured and predicted."""
    wanted, found = (np.array([float(x[key]) for x in rows]) for key in ("measured", predictor))
    rng = np.random.default_rng(0)
    drawn = (rng.integers(0, len(rows), len(rows)) for _ in range(draws))
    low, high = np.nanpercentile([kendalltau(wanted[i], found[i]).statistic for i in drawn], [2.5, 97.5])
    return float(low), float(high)


def _half_width(audit: Audit) -> float:
    return float(np.median([(high - low) / 2 for low, high in (x["interval"] for x in audit.models)]))


def main() -> None:
    """Measure what is missing for as long as allowed, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="name, or name@SESSIONS to build and time all so often")
    parser.add_argument("--device", default="onnxruntime:cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--space", default="ghost")
    parser.add_argument("--draw", type=int, default=1, help="seed of the unseen architectures: a fresh one every time")
    parser.add_argument("--models", type=int, default=AUDIT_MODELS, help="unseen architectures")
    parser.add_argument("--model-s", type=float, default=4.0, help="seconds of timing an architecture")
    parser.add_argument("--cell-s", type=float, default=0.35, help="seconds of timing a cell")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no measurement after this time")
    parser.add_argument("--work", type=Path, default=Path("latency-audit"), help="where cells and latencies are kept")
    parser.add_argument("--name", default="latency_audit", help="the page's name")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the page; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    started = time.perf_counter()
    benches = [Bench(name, given) for name in given.model or ["resnet18", "resnet50", "mobilenet_v2"]]
    for bench in benches:
        while time.perf_counter() - started < given.seconds and bench.measure_next():
            pass
    if time.perf_counter() - started < given.seconds:
        write(given, {bench.name: (bench.audit(bench.pooled()), bench) for bench in benches})


def write(given: argparse.Namespace, found: dict[str, tuple[Audit, Bench]]) -> None:
    """The page, its rows and the index."""
    rows: list[dict[str, Any]] = []
    taken: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    for name, (audit, bench) in found.items():
        rows += [
            {"model": name, "predictor": x.predictor, "MAPE": f"{x.mape:.1%}", "Kendall τ": f"{x.tau:.3f}",
             "τ, 95 %": "{:.2f} – {:.2f}".format(*tau_interval(audit.models, x.predictor)), "worst": f"{x.worst:.1%}"}
            for x in audit.rows
        ]  # fmt: skip
        table = bench.table
        taken.append(
            {"model": name, "baseline ms": audit.baseline_s * 1e3, "cells": len(table.store.cells),
             "choices vetoed": f"{len(table.vetoed())} of {len(table.rows())}",
             "noisy latencies": f"{sum(bool(x['noisy']) for x in audit.models)} of {len(audit.models)}",
             "timed s": f"{bench.timed_s():.1f}",
             "median interval": f"±{_half_width(audit):.1%}", "τ at most": f"{best_tau(audit):.2f}",
             "median load": bench.load(),
             "sessions": bench.sessions, "τ of one session alone": bench.session_taus()}
        )  # fmt: skip
        raw += [{"model": name, **x} for x in audit.models]
    own = [(n, x) for n, (audit, _) in found.items() for x in audit.rows if x.predictor == "latency table"]
    met = sum(x.mape <= TARGETS["MAPE"] and x.tau >= TARGETS["Kendall τ"] for _, x in own)
    store = next(iter(found.values()))[1].table.store
    page = ResultPage(
        name=given.name,
        title="Audit of the latency table",
        claim=f"Latency predicted from the table for {given.models} unseen random architectures of each of "
        f"{', '.join(found)} (targets: MAPE at most {TARGETS['MAPE']:.0%}, τ at least {TARGETS['Kendall τ']}; met on "
        f"{met} of {len(own)})",
        figure="; ".join(f"{n} {x.mape:.1%}, τ {x.tau:.2f}" for n, x in own),
        command=script_command(),
        device=f"{store.device.place()}, {given.device}, {given.threads} thread, batch {given.batch}",
        tables=[
            ResultTable("Errors of the predicted ratio to the baseline", rows),
            ResultTable("How it was taken", taken),
        ],
        notes=[
            f"Each predictor is compared with {given.models} architectures of the space `{given.space}` that are built "
            "and timed interleaved with the baseline; the correction saw ten others. MACs: latency proportional to "
            "MACs. Interpolation over FLOPs: between the baseline and the cheapest architecture, both measured, as "
            f"NVIDIA ModelOpt's search does. One row per architecture: {given.name}_rows.csv. The machine was shared "
            f"(its load average is in the table): {WAITING}. \"τ at most\" is what a perfect predictor would reach in "
            "the mean, since measurements have intervals of their own; built anew, one architecture takes another time "
            "by up to a hundredth. \"τ, 95 %\": bootstrap over the architectures.",
            *given.note,
        ],
    )  # fmt: skip
    publish(page, given.out)
    pd.DataFrame(raw).to_csv(given.out / f"{given.name}_rows.csv", index=False)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
