"""Writes the paper's tables as pages of results/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.paper.kept import KEPT_FILE, KeptRows
from benchmarks.paper.options import PaperOptions
from benchmarks.paper.pages import TABLES, Making
from benchmarks.result_page import write_index, write_page
from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import nearest_names

Progress = Callable[[int, int, str], None]


def write_tables(
    names: Sequence[str], out: Path, options: PaperOptions, *, progress: Progress | None = None
) -> list[Path]:
    """Write a page a table, then the index; without names, all that the options allow. Returns the pages' paths.

    Raises GhostsearchError for an unknown name, or a named table whose weights or data are not given.
    """
    unknown = [name for name in names if name not in TABLES]
    if unknown:
        raise GhostsearchError(f"no table {unknown[0]!r}; nearest: {nearest_names(unknown[0], list(TABLES))}")
    possible = {"toy": options.toy_weights, "training": options.data, "ghostnet-search": options.data}
    wanted = list(names) or [name for name in TABLES if possible.get(name, True) is not None]
    kept, paths = KeptRows(out / KEPT_FILE), []
    for done, name in enumerate(wanted):
        if progress:
            progress(done, len(wanted), name)
        paths += [p for p in write_page(TABLES[name](Making(options, kept, progress)), out) if p.suffix == ".md"]
    return [*paths, write_index(out)]
