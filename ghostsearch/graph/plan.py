"""What the dependency graph found, as plain data: coupling groups and the layers that change with each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import output_channels
from ghostsearch.space.architecture import Group, nearest_names

Side = Literal["out", "in", "parameter"]
OUTPUT = "it is an output of the model"


@dataclass(frozen=True)
class Edit:
    """Where a group's channels are in one layer: row r of `pairs` says that channel pairs[r, 0] is at pairs[r, 1]."""

    path: str
    side: Side
    pairs: np.ndarray
    dim: int = 0
    """Dimension of a bare parameter; layers know their own."""

    def positions(self, channels: Sequence[int]) -> list[int]:
        """Positions in this layer of some of the group's channels, ascending."""
        return sorted(self.pairs[np.isin(self.pairs[:, 0], np.asarray(channels, dtype=np.int64)), 1].tolist())


@dataclass(frozen=True)
class WidthPlan:
    """A model's coupling groups and, per group, every layer that changes with it."""

    groups: tuple[Group, ...] = ()
    edits: Mapping[str, tuple[Edit, ...]] = field(default_factory=dict)
    note: str = ""

    def group(self, name: str) -> Group:
        """The group of a name, if its width can change; raises GhostsearchError."""
        for group in self.groups:
            if group.name == name:
                if group.fixed:
                    raise GhostsearchError(
                        f"the width of group {name!r} cannot change: {group.fixed}; leave it at 'width(1)'"
                    )
                return group
        if not self.groups:
            raise GhostsearchError(
                f"group {name!r}: no width of this model can change ({self.note or 'it has no groups'})"
            )
        near = nearest_names(name, [g.name for g in self.groups])
        raise GhostsearchError(f"no group of channels is called {name!r}; nearest: {near}")

    def positions(self, model: nn.Module, keep: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """Per layer of the uncut model that makes channels of a group, its positions of those that stay.

        keep: channels by group. A layer may make channels of several groups, as a depthwise one behind a concatenation.
        """
        gone: dict[str, set[int]] = {}
        for name, left in keep.items():
            for edit in self.edits[name]:
                if edit.side == "out":
                    gone.setdefault(edit.path, set()).update(set(edit.pairs[:, 1].tolist()) - set(edit.positions(left)))
        channels = {path: count for path in gone if (count := _channels(model.get_submodule(path)))}
        return {path: torch.tensor([i for i in range(n) if i not in gone[path]]) for path, n in channels.items()}


def _channels(layer: nn.Module) -> int:
    """Channels that a layer gives; of a norm or an activation as many as it holds values for, 0 without any."""
    if isinstance(layer, _ConvNd | nn.Linear):
        return output_channels(layer)
    return next((len(t) for t in layer.state_dict().values() if t.dim()), 0)


def best_channels(importance: Tensor, count: int, divisions: int = 1) -> list[int]:
    """The `count` most important channels, ascending; the same positions in each of the `divisions` runs.

    importance: (channels,).
    """
    run = len(importance) // divisions
    per_run = importance.reshape(divisions, run).sum(0)
    best = torch.sort(per_run, descending=True, stable=True).indices[: count // divisions].sort().values
    return [int(d * run + i) for d in range(divisions) for i in best.tolist()]
