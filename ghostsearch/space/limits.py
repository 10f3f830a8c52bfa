"""Budgets as people write them: `60%` of the baseline, `12ms`, `300M`, `8MB`."""

from __future__ import annotations

import re
from math import inf

from pydantic import BaseModel, ConfigDict

from ghostsearch.errors import GhostsearchError

FACTORS = {
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "memory": {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
}
"""Units of each axis; letter case does not matter."""

EXAMPLES = {"latency": "60% or 12ms", "macs": "50% or 300M", "params": "50% or 4M", "memory": "50% or 8MB"}


class Limit(BaseModel):
    """An upper bound on one axis: absolute in its base unit (seconds, MACs, parameters, bytes) or a share."""

    model_config = ConfigDict(frozen=True)

    axis: str
    value: float
    relative: bool

    def absolute(self, baseline: float) -> float:
        """The bound in the axis' base unit, given the baseline's figure."""
        return self.value * baseline if self.relative else self.value


def parse_limit(axis: str, text: str) -> Limit:
    """The bound that a text such as `60%` or `12ms` names; raises GhostsearchError when it names none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([%a-zµ]*)\s*", text.lower())
    units = FACTORS[axis]
    if match:
        number, unit = float(match[1]), match[2]
        if unit == "%" and 0 < number < inf:
            return Limit(axis=axis, value=number / 100, relative=True)
        if unit in units and 0 < number < inf:
            return Limit(axis=axis, value=number * units[unit], relative=False)
    known = ", ".join(u for u in units if u)
    raise GhostsearchError(
        f"max_{axis} {text[:60]!r} does not parse: a number above 0 with % or a unit ({known}); write {EXAMPLES[axis]}"
    )


def parse_drop(text: str) -> float:
    """A loss of score that a text such as `1%` (percentage points) or `0.01` allows; raises GhostsearchError else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", text)
    if not match:
        raise GhostsearchError(f"max_drop {text[:60]!r} does not parse: points of the score; write 1% or 0.01")
    return float(match[1]) / (100 if match[2] else 1)


DURATIONS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """The seconds that a text such as `90min` or `1h30m` names; raises GhostsearchError when it names none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[hms])", text.lower())
    rest = re.sub(r"(\d+(?:\.\d+)?)\s*(min|[hms])", "", text.lower()).strip()
    seconds = sum(float(number) * DURATIONS[unit] for number, unit in parts)
    if rest or seconds <= 0:
        raise GhostsearchError(f"time_budget {text[:60]!r} does not parse: a time above 0; write 90min or 2h")
    return seconds
