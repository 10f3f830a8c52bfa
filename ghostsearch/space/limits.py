"""Budgets as people write them: `60%` of the baseline, `12ms`, `300M`, `8MB`."""

from __future__ import annotations

import re
from math import inf
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator

from ghostsearch.errors import GhostsearchError
from ghostsearch.options import Frozen, Options, option, refused
from ghostsearch.units import AGAINST_BASELINE, SHARES

BUDGET = "Budget"

FACTORS = {
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "memory": {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
}
"""Units of each axis; letter case does not matter."""

EXAMPLES = {"latency": "60% or 12ms", "macs": "50% or 300M", "params": "50% or 4M", "memory": "50% or 8MB"}


class Limit(Frozen):
    """An upper bound on one axis: absolute in its base unit (seconds, MACs, parameters, bytes) or a share."""

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


def parse_drop(text: str, name: str = "max_drop") -> float:
    """A share of the score that a text such as `1%` or `0.01` names; raises GhostsearchError, with `name`, else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", text)
    if not match:
        raise GhostsearchError(f"{name} {text[:60]!r} does not parse: a share of the score; write 1% or 0.01")
    if match[2] and float(match[1]) > 100:
        raise GhostsearchError(f"{name} must be at most 100%, got {text[:60]!r}")
    return float(match[1]) / (100 if match[2] else 1)


def _as_share(value: Any) -> Any:
    with refused():
        return parse_drop(value, "min_accuracy") if isinstance(value, str) else value


Share = Annotated[float | None, BeforeValidator(_as_share)]
"""A score as 97% or 0.97."""


class CostLimits(Options):
    """Upper bounds on what a model costs."""

    max_latency: str | None = option(None, "Latency limit, absolute (12ms) or of the baseline (60%).", panel=BUDGET)
    max_macs: str | None = option(None, "MACs limit, absolute (300M) or of the baseline (50%).", panel=BUDGET)
    max_params: str | None = option(None, "Parameter limit, absolute (4M) or of the baseline (50%).", panel=BUDGET)
    max_memory: str | None = option(
        None, "Peak activation memory limit, absolute (8MB) or of the baseline (50%).", panel=BUDGET
    )

    @model_validator(mode="after")
    def _limits_parse(self) -> Self:
        with refused():
            self.limits()
        return self

    def limits(self) -> tuple[Limit, ...]:
        """The upper bounds asked for."""
        return tuple(parse_limit(axis, text) for axis, text in self.cost_texts().items())

    def cost_texts(self) -> dict[str, str]:
        """The upper bounds as they were given, by axis."""
        texts = {axis: getattr(self, f"max_{axis}") for axis in FACTORS}
        return {axis: text for axis, text in texts.items() if text is not None}


class Limits(CostLimits):
    """Bounds on what a model costs and on how well it must do."""

    min_accuracy: Share = option(None, "Minimum score, such as 97%, or 30 for 30 dB.", panel=BUDGET, ge=0)
    max_drop: str | None = option(
        None,
        "Points of the score that a model may lose against the baseline, such as 1%; where one is recommended, by "
        "default one standard error of the difference.",
        panel=BUDGET,
    )

    @model_validator(mode="after")
    def _drop_parses(self) -> Self:
        with refused():
            self.drop()
        return self

    def drop(self) -> float | None:
        """`max_drop` in the score's unit: 1% of an accuracy is 0.01; None without one."""
        return None if self.max_drop is None else parse_drop(self.max_drop)

    def check_score(self, metric: str) -> None:
        """Raise GhostsearchError for a limit that takes a share for percent, or another score for a share."""
        if metric.removesuffix(AGAINST_BASELINE) not in SHARES and "%" in str(self.max_drop):
            raise GhostsearchError(f"--max-drop {self.max_drop}: {metric} is no share; write the drop in its own unit")
        for name, value in (("min-accuracy", self.min_accuracy), ("max-drop", self.drop())):
            # A drop of all of the score is no limit: whoever writes 1 means a point.
            whole = name == "max-drop" and value == 1 and "%" not in str(self.max_drop)
            if metric.removesuffix(AGAINST_BASELINE) in SHARES and value is not None and (value > 1 or whole):
                hint = f"{value:g}% or {value / 100:g}" if value <= 100 else "at most 100%"
                raise GhostsearchError(f"--{name} {value:g}: {metric} is a share; write {hint}")

    def limit_texts(self) -> dict[str, str]:
        """The limits asked for, as they were given; the score's is `score`."""
        found = self.cost_texts()
        return found if self.min_accuracy is None else found | {"score": str(self.min_accuracy)}


DURATIONS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """The seconds that a text such as `90min` or `1h30m` names; raises GhostsearchError when it names none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[hms])", text.lower())
    rest = re.sub(r"(\d+(?:\.\d+)?)\s*(min|[hms])", "", text.lower()).strip()
    seconds = sum(float(number) * DURATIONS[unit] for number, unit in parts)
    if rest or seconds <= 0:
        raise GhostsearchError(f"time_budget {text[:60]!r} does not parse: a time above 0; write 90min or 2h")
    return seconds
