"""Every reader fed spoiled and made-up files: the tests' inputs many times over, and atheris guided by coverage.

    pip install atheris
    python benchmarks/fuzz.py --goal 1000000 --out results

The hypothesis part is tests/fuzz with GHOSTSEARCH_FUZZ; its asserts are the rules: a result or one line of
GhostsearchError, within 20 CPU seconds, less than 1 GiB more memory, nothing run. Atheris runs each text
reader for --seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("choice", "limit", "preset", "architecture", "run", "manifest")
SEEDS = {
    "choice": ["ghost(ratio=2, kernel=3)", "width(0.5)", "lowrank(rank=0.5)", "keep"],
    "limit": ["60%", "12ms", "300M", "8MiB"],
    "preset": [(ROOT / "search_spaces" / f"{name}.yaml").read_text() for name in ("ghost", "families")],
    "architecture": ['{"format": "ghostsearch.architecture", "version": 1, "sites": {"a": "keep"}, "groups": {}}'],
    "run": ["trials: 5\nspace: ghost\nmax_latency: 60%\n", "data: folder:x\nobjectives: [score, macs]\n"],
    "manifest": ['{"format": "ghostsearch.architecture", "version": 1, "sites": {}, "groups": {}, "source": {}}'],
}


def guided(target: str, seconds: float, folder: Path) -> None:
    """In a process of its own: atheris on one reader; any other exception than GhostsearchError ends it."""
    import atheris

    with atheris.instrument_imports(include=["ghostsearch", "yaml"]):
        from ghostsearch.errors import GhostsearchError
        from ghostsearch.space.architecture import Architecture
        from ghostsearch.space.choice_text import parse_choice
        from ghostsearch.space.limits import FACTORS, parse_limit
        from ghostsearch.space.preset import load_preset
        from ghostsearch.study.config import configure
        from ghostsearch.surgery.saved import read_manifest

    names = {"preset": "p.yaml", "architecture": "a.json", "run": "r.yaml", "manifest": "architecture.json"}
    file = folder / names.get(target, "x")
    readers: dict[str, Any] = {
        "choice": lambda data: parse_choice(data.decode("utf-8", "replace")),
        "limit": lambda data: [parse_limit(axis, data.decode("utf-8", "replace")) for axis in FACTORS],
        "preset": lambda data: load_preset(file),  # noqa: ARG005
        "architecture": lambda data: Architecture.read(file),  # noqa: ARG005
        "run": lambda data: configure({}, file),  # noqa: ARG005
        "manifest": lambda data: read_manifest(folder),  # noqa: ARG005
    }
    count = 0

    def one(data: bytes) -> None:
        nonlocal count
        count += 1
        if target in names:
            file.write_bytes(data)
        try:
            readers[target](data)
        except GhostsearchError as error:
            text = str(error)
            if "\n" in text or len(text) >= 1200:
                raise AssertionError("no short line") from error
        if count % 500 == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            (folder / "count.json").write_text(json.dumps({"inputs": count, "peak MiB": peak}))

    corpus = folder / "corpus"
    corpus.mkdir()
    for i, text in enumerate(SEEDS[target]):
        (corpus / str(i)).write_text(text)
    options = [f"-max_total_time={seconds:g}", "-timeout=20", "-rss_limit_mb=3000", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def run_guided(target: str, seconds: float) -> dict[str, Any]:
    """One reader under atheris: how many inputs, and how it ended."""
    with tempfile.TemporaryDirectory() as place:
        folder, began = Path(place), time.monotonic()
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--guided",
            target,
            "--seconds",
            str(seconds),
            "--folder",
            place,
        ]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, env=env)
        wall = time.monotonic() - began
        counted = json.loads((folder / "count.json").read_text()) if (folder / "count.json").exists() else {}
        fine = done.returncode == 0
        if not fine:
            print(done.stderr[-3000:])
        found = re.findall(r"cov: (\d+)", done.stderr)
        return {
            "reader": target, "inputs": counted.get("inputs", 0), "branches reached": int(found[-1]) if found else None,
            "seconds": round(wall), "peak MiB": counted.get("peak MiB"), "other exceptions": 0 if fine else 1,
        }  # fmt: skip


TESTS = {
    "choice": "choices", "preset data": "preset_data", "preset file": "preset_files",
    "architecture": "architecture_data", "architecture file": "architecture_files", "run": "run_options",
    "run file": "run_files", "manifest": "manifests", "weights": "weights", "checkpoint": "checkpoints",
    "images": "image_folders", "study": "study_directories", "database": "study_databases",
    "wrapper": "checkpoint_wrappers", "deep image": "deep_images", "table": "tables", "arrays": "array_files",
    "batch": "batches", "loader": "loaders",
}  # fmt: skip
"""Kinds of input by their test in tests/fuzz."""


def run_hypothesis(factor: int, inputs: dict[str, int], progress: Path) -> list[dict[str, Any]]:
    """tests/fuzz with `factor` times its inputs from fresh seeds, a process per kind.

    `progress` takes a line per kind that is done: a stopped run goes on after them.
    """
    rows = [json.loads(line) for line in progress.read_text().splitlines()] if progress.exists() else []
    done = {row["files"] for row in rows}
    for kind in inputs:
        if kind not in done:
            rows.append(run_kind(kind, inputs[kind], factor))
            progress.parent.mkdir(parents=True, exist_ok=True)
            with progress.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    return rows


def run_kind(kind: str, inputs: int, factor: int) -> dict[str, Any]:
    """One test of tests/fuzz in a process of its own: inputs, seconds, inputs per CPU second, and whether it failed."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "--timeout=0",
         f"tests/fuzz/test_bad_files.py::test_{TESTS[kind]}"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "GHOSTSEARCH_FUZZ": str(factor)},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(done.stdout[-4000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "files": kind, "inputs": inputs * factor, "seconds": round(time.monotonic() - began), "CPU seconds": round(cpu),
        "inputs per CPU second": round(inputs * factor / max(cpu, 1e-9), 1), "failures": int(done.returncode != 0),
    }  # fmt: skip


def main() -> None:
    """Both parts, and the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--factor", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="of atheris per reader; 0 leaves it out")
    parser.add_argument("--goal", type=int, help="choose the factor so that tests/fuzz makes so many inputs")
    parser.add_argument("--progress", type=Path, default=Path("fuzz-progress"), help="what is done; delete to repeat")
    parser.add_argument("--guided", choices=TARGETS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    if given.guided:
        guided(given.guided, given.seconds, given.folder)
        return
    sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
    from test_bad_files import INPUTS

    if given.goal:
        given.factor = -(-given.goal // sum(INPUTS.values()))
    by_coverage = []
    for target in TARGETS if given.seconds else ():
        by_coverage.append(run_guided(target, given.seconds))
        print(by_coverage[-1], flush=True)
    made = run_hypothesis(given.factor, INPUTS, given.progress / f"hypothesis-{given.factor}.jsonl")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    total = sum(r["inputs"] for r in (*made, *by_coverage))
    bad = sum(r["failures"] for r in made) + sum(r["other exceptions"] for r in by_coverage)
    page = ResultPage(
        name="fuzz", title="Malformed input files",
        claim="Spoiled and made-up choices, presets, architectures, run files, weights, checkpoints, "
        "images, tables, arrays, loaders and studies; kinds of "
        "file for which one input did anything but give a result or one line",
        figure=f"{total:,} inputs, {bad} kinds", device=processor(),
        command=script_command(),
        tables=[
            ResultTable(f"hypothesis, {given.factor} times the tests' inputs from fresh seeds", made),
            ResultTable("atheris, guided by coverage", by_coverage),
        ],
        notes=[
            "Each input: a result or one line of GhostsearchError, within 20 CPU seconds; a process may grow by at "
            f"most 1 GiB. The largest process took {peak} MiB, torch and hypothesis in it.",
            "Malicious pickles, alias bombs and headers with absurd sizes are tests of their own in tests/fuzz.",
        ],
    )  # fmt: skip
    print(page.figure)
    publish(page, given.out)


if __name__ == "__main__":
    main()
