"""What each layer's choice alone saves of the model's latency, from a study's candidate table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ghostsearch.errors import GhostsearchError

PREFIX = "latency_ratio["


def layer_savings(directory: Path, candidates: str) -> dict[str, Any]:
    """The device, and per site by choice the share of the plain model's latency that this one change saves.

    Empty without a candidate table or when no device was timed for it.
    Raises GhostsearchError when the file is no table.
    """
    root, path = directory.resolve(), (directory / candidates).resolve()
    if not candidates or not path.is_relative_to(root) or not path.is_file():
        return {}
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise GhostsearchError(f"{path}: no candidate table ({reason}); delete it and search on") from None
    timed = [c for c in table.columns if c.startswith(PREFIX)]
    if not timed or not {"kind", "name", "choice"} <= set(table.columns):
        return {}
    rows = table[table["kind"] == "site"].dropna(subset=[timed[0]])
    saved: dict[str, dict[str, float]] = {}
    for name, choice, ratio in zip(rows["name"], rows["choice"], rows[timed[0]], strict=True):
        saved.setdefault(str(name), {})[str(choice)] = 1 - float(ratio)
    return {"device": timed[0][len(PREFIX) : -1], "sites": saved} if saved else {}
