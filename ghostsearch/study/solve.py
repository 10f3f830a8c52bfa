"""Answers from a study's candidate table alone: which architectures meet bounds, without building or training any."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import read_json, write_text
from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.load import example_input
from ghostsearch.records import Axis, Record, device_of
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.space.limits import CostLimits, Limits, parse_limit
from ghostsearch.study.candidates import how_to_build
from ghostsearch.study.directory import baseline_directory, load_study
from ghostsearch.study.interactions import Additive, Term
from ghostsearch.study.pick import measured_within
from ghostsearch.study.program import Problem, Program, UndecidedError, exclusions
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.saved import load_directory

FILE = "problem.json"
DIVERSE, TRIES = 5, 40


@dataclass(frozen=True)
class Answer:
    """An architecture that the table promises to meet the bounds; predicted, not measured."""

    architecture: Architecture
    loss: float
    """Predicted divergence: the sum of the candidates' divergences."""
    resources: dict[str, float]
    """params, macs, latency_s[DEVICE]; under a bound on memory peak_memory_bytes too."""
    proven: bool
    """Whether nothing in the space is known to lose less; False where the solver stopped at its number of nodes."""


def write_problem(folder: Path, problem: Problem, space: SearchSpace) -> None:
    """Keep the integer program's data in a study directory."""
    content: dict[str, Any] = {
        "names": problem.names, "constant": problem.resources.constant.tolist(),
        "losses": [x.tolist() for x in problem.losses],
        "terms": [{"variables": t.variables, "values": t.values.tolist()} for t in problem.resources.terms],
        "sites": space.sites, "groups": space.groups, "width_multiple": space.width_multiple,
        "branches": space.branches,
    }  # fmt: skip
    write_text(folder / FILE, json.dumps(content))


def read_problem(folder: Path) -> tuple[Problem, SearchSpace]:
    """The program's data and its space; raises GhostsearchError when there is no study or it has no table."""
    if not (folder / FILE).is_file():
        # Raises where there is no study either.
        load_study(folder)
        raise GhostsearchError(f"{folder} has no candidate table; {how_to_build(folder)}")
    data = read_json(folder / FILE)
    try:
        assert isinstance(data, dict)
        terms = tuple(Term(tuple(t["variables"]), np.array(t["values"], dtype=float)) for t in data["terms"])
        resources = Additive(np.array(data["constant"], dtype=float), terms)
        space = SearchSpace(
            {k: tuple(v) for k, v in data["sites"].items()}, {k: tuple(v) for k, v in data["groups"].items()},
            data["width_multiple"], {k: tuple(v) for k, v in data.get("branches", {}).items()},
        )  # fmt: skip
        losses = [np.array(x, dtype=float) for x in data["losses"]]
        problem = Problem(losses, resources, tuple(data["names"]), exclusions(space))
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError):
        raise GhostsearchError(f"{folder / FILE}: no candidate table; delete it and search again") from None
    return problem, space


def solve_study(folder: Path | str, limits: Mapping[str, str], *, count: int = DIVERSE) -> list[Answer]:
    """The `count` architectures that lose least under bounds such as {"latency": "8ms", "macs": "50%"}, best first.

    A latency bound holds on every device of the study. Peak memory does not add up over layers: under a bound on
    `memory` the program's first TRIES answers are built and counted. Raises GhostsearchError, naming the least
    possible, when a bound cannot be met.
    """
    problem, space = read_problem(Path(folder))
    bounds = _bounds(problem, {axis: text for axis, text in limits.items() if axis != "memory"})
    peak_of = _peaks(Path(folder), space) if "memory" in limits else None
    most = parse_limit("memory", limits["memory"]).absolute(peak_of(Architecture())) if peak_of else inf
    program, answers, seen, peaks = Program(problem), list[Answer](), list[tuple[int, ...]](), list[float]()
    while len(answers) < count and len(seen) < (TRIES if peak_of else count):
        try:
            found = program.solve(bounds, seen)
        except UndecidedError:
            if not answers:
                raise
            break
        if found is None:
            break
        seen.append(found.code)
        architecture, resources = space.decode(found.code), problem.at(found.code)
        if peak_of:
            peaks.append(peak_of(architecture))
            resources = {**resources, "peak_memory_bytes": peaks[-1]}
        if not peak_of or peaks[-1] <= most:
            answers.append(Answer(architecture, problem.loss(found.code), resources, found.proven))
    if not seen:
        least = ", ".join(_text(name, program.least(name)) for name in bounds)
        raise GhostsearchError(f"no architecture of this space meets the limits; the minimum of each alone is {least}")
    if not answers:
        raise GhostsearchError(
            f"none of the {len(seen)} best architectures meets {_text('peak_memory_bytes', most)}; their minimum "
            f"is {_text('peak_memory_bytes', min(peaks))}; bound the MACs too, or allow more"
        )
    return answers


def measured_answers(folder: Path, limits: CostLimits) -> tuple[tuple[Axis, ...], list[Record]]:
    """A study's axes, and its finalists that keep limits and its own, best score first."""
    view = load_study(folder)
    return view.objectives, measured_within(view, Limits(**limits.model_dump()))


def _text(column: str, value: float) -> str:
    axis = Axis.of_column(column)
    return f"{axis.label} {axis.text(value)}"


def _peaks(folder: Path, space: SearchSpace) -> Callable[[Architecture], float]:
    """Peak activation memory in bytes of an architecture on one image, by building it from the study's baseline."""
    saved = load_directory(baseline_directory(folder))
    example = example_input(saved.input)

    def peak(architecture: Architecture) -> float:
        model = convert(saved.module, architecture, example=example, width_multiple=space.width_multiple)
        found = measure_cost(model, example).peak_memory_bytes
        if found is None:
            raise GhostsearchError("the peak memory of this network could not be worked out; leave --max-memory out")
        return found

    return peak


def _bounds(problem: Problem, limits: Mapping[str, str]) -> dict[str, float]:
    bounds = {}
    for axis, text in limits.items():
        names = [n for n in problem.names if n == axis or (axis == "latency" and device_of(n))]
        if not names:
            raise GhostsearchError(f"the table has no {axis}; it has {', '.join(problem.names)}")
        for name in names:
            bounds[name] = parse_limit(axis, text).absolute(problem.baseline(name))
    return bounds
