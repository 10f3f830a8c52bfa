"""GhostNet itself as a search space: width, and ratio, cheap kernel, expansion and SE of each bottleneck."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ghostsearch.models.ghostnet import ROWS, GhostNet, ghostnet

BLOCKS = range(len(ROWS))
WIDTHS = (0.5, 0.75, 1.0, 1.3)
"""The paper's multipliers (section 4.2) and one between."""
PER_BOTTLENECK: dict[str, tuple[Any, ...]] = {
    "ratio": (2, 3, 4),
    "kernel": (1, 3, 5),
    "expansion": (0.5, 0.75, 1.0),
    "squeeze": (False, True),
}
"""Options of every bottleneck; `expansion` multiplies the table's."""


@dataclass(frozen=True)
class GhostNetPlan:
    """One point of the space; without arguments the paper's GhostNet 1.0×."""

    width: float = 1.0
    ratio: tuple[int, ...] = (2,) * len(ROWS)
    kernel: tuple[int, ...] = (3,) * len(ROWS)
    expansion: tuple[float, ...] = (1.0,) * len(ROWS)
    squeeze: tuple[bool, ...] = tuple(row.squeeze for row in ROWS)

    def build(self, num_classes: int, stem_stride: int = 2) -> GhostNet:
        """The network, freshly initialised."""
        return ghostnet(
            num_classes, self.width, self.ratio, self.kernel, self.expansion, self.squeeze, stem_stride=stem_stride
        )

    def parameters(self) -> dict[str, Any]:
        """The plan as named values, one a decision: what `plan_from` would have to be told to make it."""
        values = {f"{name}.{i}": getattr(self, name)[i] for name in PER_BOTTLENECK for i in BLOCKS}
        return {"width": self.width, **values}


def plan_from(suggest: Callable[[str, Sequence[Any]], Any]) -> GhostNetPlan:
    """A plan whose every decision `suggest(name, options)` takes, such as Optuna's `trial.suggest_categorical`."""
    lists = {name: tuple(suggest(f"{name}.{i}", options) for i in BLOCKS) for name, options in PER_BOTTLENECK.items()}
    return GhostNetPlan(suggest("width", WIDTHS), **lists)


def uniform_plans() -> dict[str, GhostNetPlan]:
    """The paper's GhostNets: one width, everything else as in its table."""
    return {f"GhostNet {width:g}×": GhostNetPlan(width) for width in WIDTHS}


def space_size() -> int:
    """How many plans there are."""
    return len(WIDTHS) * prod(len(options) for options in PER_BOTTLENECK.values()) ** len(ROWS)
