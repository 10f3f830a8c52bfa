"""What the workers of a study share in a Ray cluster: who stops at a rung, and where a trial's weights go.

Apart from what they evaluate with, so that its process starts without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ghostsearch.files import write_bytes
from ghostsearch.records import Axis, Record
from ghostsearch.study.rungs import stops


def start_board(axes: tuple[Axis, ...], standings: list[Record], weights: Path) -> Any:
    """A handle of a board on this machine that knows the trials of before and keeps models in the folder `weights`."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # At once many: a trial's weights do not wait for another's.
    remote: Any = ray.remote
    board = remote(num_cpus=0, scheduling_strategy=here, max_concurrency=4)(Board)
    return board.remote(str(weights.absolute()), axes, standings)


class Board:
    """Lives on the driver's machine: the finished trials, and who may write into the study's directory."""

    def __init__(self, folder: str, axes: tuple[Axis, ...], standings: list[Record]) -> None:
        self.folder, self.axes, self.standings = Path(folder), axes, standings
        self.opened = 0

    def open(self) -> None:
        """Note that an actor has opened the run."""
        self.opened += 1

    def count(self) -> int:
        """How many actors have opened the run."""
        return self.opened

    def add(self, record: Record) -> None:
        """Note a finished trial."""
        self.standings.append(record)

    def stops(self, record: Record, rung: float) -> str:
        """Why a trial ends at a rung, among all that finished so far, or nothing."""
        return stops(record, self.standings, rung, self.axes)

    def keep(self, digest: str, files: dict[str, bytes]) -> None:
        """Write a trial's saved model into the study's directory."""
        for name, content in files.items():
            write_bytes(self.folder / digest / name, content)
