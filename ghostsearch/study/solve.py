"""Answers from a study's candidate table alone: which architectures meet bounds, without building or training any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.records import device_of
from ghostsearch.space.architecture import Architecture, SearchSpace, read_json
from ghostsearch.space.choice import DROP
from ghostsearch.space.limits import parse_limit
from ghostsearch.study.interactions import Additive, Term
from ghostsearch.study.solver import Exclusion, Problem, Program

FILE = "problem.json"
DIVERSE = 5


@dataclass(frozen=True)
class Answer:
    """An architecture that the table promises to meet the bounds; predicted, not measured."""

    architecture: Architecture
    loss: float
    """Predicted divergence: the square of the summed square roots of the candidates' divergences."""
    resources: dict[str, float]
    """params, macs, latency_s[DEVICE]."""
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
    """The program's data and its space; raises GhostsearchError when the study has no table."""
    if not (folder / FILE).is_file():
        raise GhostsearchError(f"{folder} has no candidate table; 'ghostsearch search --seeds solver' builds it")
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

    A latency bound holds on every device of the study. Raises GhostsearchError, naming the least possible, when a bound
    cannot be met.
    """
    problem, space = read_problem(Path(folder))
    bounds = _bounds(problem, limits)
    program, answers, seen = Program(problem), [], list[tuple[int, ...]]()
    for _ in range(count):
        found = program.solve(bounds, seen)
        if found is None:
            break
        seen.append(found.code)
        answers.append(
            Answer(decode(space, found.code), problem.loss(found.code), problem.at(found.code), found.proven)
        )
    if not answers:
        least = ", ".join(f"{name} {program.least(name):.4g}" for name in bounds)
        raise GhostsearchError(f"no architecture of this space meets the bounds; the least possible alone is {least}")
    return answers


def _bounds(problem: Problem, limits: Mapping[str, str]) -> dict[str, float]:
    bounds = {}
    for axis, text in limits.items():
        names = [n for n in problem.names if n == axis or (axis == "latency" and device_of(n))]
        if not names:
            raise GhostsearchError(f"the table knows nothing of {axis}; it has {', '.join(problem.names)}")
        for name in names:
            bounds[name] = parse_limit(axis, text).absolute(problem.baseline(name))
    return bounds


def exclusions(space: SearchSpace) -> tuple[Exclusion, ...]:
    """What a dropped branch of the space leaves no choice to."""
    names = [*space.sites, *space.groups]
    return tuple(
        # A group is named like the site that makes its channels: both lie inside.
        Exclusion(names.index(end), space.sites[end].index(drop), tuple(i for i, n in enumerate(names) if n in inside))
        for drop in [str(DROP)]
        for end, inside in space.branches.items()
        if drop in space.sites.get(end, ())
    )


def decode(space: SearchSpace, code: tuple[int, ...]) -> Architecture:
    """The architecture of choice numbers, sites first, in the space's order."""
    names = [*space.sites.items(), *space.groups.items()]
    chosen = [(name, texts[i]) for (name, texts), i in zip(names, code, strict=True)]
    return Architecture.of(dict(chosen[: len(space.sites)]), dict(chosen[len(space.sites) :]))
