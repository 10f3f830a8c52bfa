"""The candidate table: every site × choice and group × width, alone, with inherited weights; damage, cost, latency."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostsearch.errors import GhostsearchError, TrainingError, failure_reason, release_memory
from ghostsearch.files import atomic_path
from ghostsearch.machine import memory_kept
from ghostsearch.shown import Progress, percent_done
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.divergence import CandidateScores, Change
from ghostsearch.study.setup import Setup
from ghostsearch.yaml_files import RUN

if TYPE_CHECKING:
    import pandas as pd

    from ghostsearch.measure.latency_table import LatencyTable

FILE = "candidates.parquet"
COLUMNS = {
    "kind": "site or group",
    "name": "the site's path or the group's name",
    "choice": "what it alone becomes",
    "divergence": "½ · mean (gᵀδ)², the Gauss–Newton estimate of the KL divergence from the baseline in nats (of tasks "
    "without class probabilities: of their distillation distance, up to a factor); the solver adds them up",
    "macs": "multiply-adds on one image of the model with this one change",
    "params": "parameters of the model with this one change",
    "failed": "why the change could not be made, empty where it could; a failed choice is not searched",
    "latency_ratio[DEVICE]": "predicted latency over the baseline's, a column per device",
}
"""Columns of candidates.parquet."""


def single_changes(space: SearchSpace) -> Iterator[Change]:
    """Every single change, sites first, in the space's order."""
    for kind, options_of in (("site", space.sites), ("group", space.groups)):
        for name, options in options_of.items():
            for text in options[1:]:
                yield Change(kind, name, text)


@memory_kept()
def build_candidates(setup: Setup, folder: Path, progress: Progress | None = None) -> pd.DataFrame:
    """Score every single change of the space; rows already in the folder's table, or that of `--from`, are taken.

    Rows are saved as they come: an interrupt or a kill loses the one at work. A change that fails is a row with the
    reason in `failed`. The latency columns are filled by `add_latencies`. Raises GhostsearchError when all
    changes fail.
    """
    rows = _known_rows(folder)
    if setup.earlier and not rows and (rows := setup.earlier.rows(_known_rows(setup.earlier.folder), setup.space)):
        _save(folder, rows)
    changes = list(single_changes(setup.space))
    known = {(r["kind"], r["name"], r["choice"]) for r in rows}
    missing = [c for c in changes if (c.kind, c.name, c.choice) not in known]
    if missing:
        if progress:
            progress(0, 100, "candidate table: the baseline's values and gradients")
        scores = CandidateScores(setup)
        listed = scores.prepare(missing)
        percent = percent_done(scores.work(change) for change in listed)
        for done, change in enumerate(listed):
            rows.append(_row(setup, scores, change))
            _save(folder, rows)
            if progress:
                told = f"candidate table: {change.name} {change.choice}, {done + 1} of {len(listed)}"
                progress(percent[done], 100, told)
    failed = [r["failed"] for r in rows if r["failed"]]
    if failed and len(failed) == len(rows):
        raise GhostsearchError(f"none of the {len(rows)} choices of this space can be made; the first: {failed[0]}")
    return read_candidates(folder)


def _known_rows(folder: Path) -> list[dict[str, Any]]:
    if not (folder / FILE).exists():
        return []
    rows: list[dict[str, Any]] = read_candidates(folder).to_dict("records")
    return [{**row, "failed": row.get("failed") or ""} for row in rows]


def _row(setup: Setup, scores: CandidateScores, change: Change) -> dict[str, Any]:
    """A change's figures, or why it has none; only an interrupt passes through."""
    row: dict[str, Any] = {"kind": change.kind, "name": change.name, "choice": change.choice}
    try:
        cost, divergence = setup.cost(change.architecture), scores(change)
        if not math.isfinite(divergence):
            raise TrainingError(f"what this choice loses comes out as {divergence}")
        return row | {"divergence": divergence, "macs": cost.macs, "params": cost.params, "failed": ""}
    except Exception as error:  # noqa: BLE001 - a choice that fails is a recorded failure, not a dead study
        release_memory()
        return row | {"divergence": float("nan"), "macs": None, "params": None, "failed": failure_reason(error)}


def _save(folder: Path, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    write_candidates(folder, pd.DataFrame(rows).astype({"macs": "Int64", "params": "Int64"}))


def failed_choices(table: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Kind, name and choice of each change that failed, with the reason."""
    if "failed" not in table:
        return {}
    return {(r.kind, r.name, r.choice): r.failed for r in table.itertuples(index=False) if r.failed}


def without_failed(space: SearchSpace, table: pd.DataFrame) -> SearchSpace:
    """The space without the choices that failed; sites and groups that keep no choice but the baseline's go."""
    failed = failed_choices(table)

    def left(kind: str, options_of: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        kept = {n: tuple(t for t in options if (kind, n, t) not in failed) for n, options in options_of.items()}
        return {name: options for name, options in kept.items() if len(options) > 1}

    return space.narrowed(left("site", space.sites), left("group", space.groups))


def add_latencies(table: pd.DataFrame, latencies: dict[str, LatencyTable], folder: Path) -> pd.DataFrame:
    """Fill the predicted ratio to the baseline's latency for each device's latency table, and save."""
    architectures = [Change(r.kind, r.name, r.choice).architecture for r in table.itertuples(index=False)]
    for device, predicted in latencies.items():
        table[f"latency_ratio[{device}]"] = predicted.predict(architectures)
    write_candidates(folder, table)
    return table


def read_candidates(folder: Path) -> pd.DataFrame:
    """The table of a study directory; raises GhostsearchError when there is none or it cannot be read."""
    import pandas as pd

    try:
        return pd.read_parquet(folder / FILE)
    except (OSError, ValueError) as error:
        first = "delete it, then " if (folder / FILE).exists() else ""
        raise GhostsearchError(
            f"{folder / FILE}: no candidate table can be read ({type(error).__name__}); {first}{how_to_build(folder)}"
        ) from None


def how_to_build(folder: Path) -> str:
    """The command that builds the table of a study that has none, in words."""
    return f"'ghostsearch search --config {folder / RUN} --seeds solver --out {folder}' builds it"


def write_candidates(folder: Path, table: pd.DataFrame) -> None:
    """Save the table, whole or not at all."""
    with atomic_path(folder / FILE) as path:
        table.to_parquet(path, index=False)


def losses_of(table: pd.DataFrame, space: SearchSpace) -> list[Any]:
    """Per site, then group, of the space the loss of each option; the baseline's is 0.

    Raises GhostsearchError when the table lacks a choice of the space.
    """
    import numpy as np

    known = {(r.kind, r.name, r.choice): r.divergence for r in table.itertuples(index=False)}
    losses = []
    for kind, options_of in (("site", space.sites), ("group", space.groups)):
        for name, options in options_of.items():
            absent = [text for text in options[1:] if (kind, name, text) not in known]
            if absent:
                raise GhostsearchError(f"the candidate table has no {kind} {name!r} with {absent[0]!r}; build it again")
            values = [0.0, *(known[kind, name, text] for text in options[1:])]
            losses.append(np.nan_to_num(np.array(values), nan=1e6, posinf=1e6))
    return losses
