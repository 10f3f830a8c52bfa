"""Seconds of each layer, plain and under each choice, from a study's candidate table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ghostsearch.errors import GhostsearchError

COLUMNS = ("site", "choice", "latency_s", "plain_s")


def layer_times(directory: Path, candidates: str) -> list[dict[str, Any]]:
    """Per site: its name, the plain layer's seconds and, by choice, the seconds that replace them, at full width.

    Empty without a candidate table or when it was made without a device. Raises GhostsearchError when the file is not
    a table.
    """
    root, path = directory.resolve(), (directory / candidates).resolve()
    if not candidates or not path.is_relative_to(root) or not path.is_file():
        return []
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise GhostsearchError(
            f"{path}: no candidate table ({type(error).__name__}); delete it and search on"
        ) from None
    if not set(COLUMNS) <= set(table.columns):
        return []
    timed = table.dropna(subset=list(COLUMNS)).drop_duplicates(["site", "choice"])
    return [
        {
            "site": str(site),
            "plain": float(rows["plain_s"].iloc[0]),
            "choices": {str(c): float(s) for c, s in zip(rows["choice"], rows["latency_s"], strict=True)},
        }
        for site, rows in timed.groupby("site", sort=False)
    ]
