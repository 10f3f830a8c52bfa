"""How long each stage of a search will take on this machine, from one measured step of each; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ghostsearch.errors import GhostsearchError
from ghostsearch.machine import peak_memory
from ghostsearch.study.budget import check_budget
from ghostsearch.study.candidates import single_changes
from ghostsearch.study.config import RunConfig
from ghostsearch.study.explore import final_pass_s
from ghostsearch.study.plan import uniform_seeds
from ghostsearch.study.setup import Setup, open_setup
from ghostsearch.study.steps import seconds_of, seconds_of_a_forward
from ghostsearch.training.evaluate import length

PROMOTED = 0.5
"""Share of the trials that a rung promotes."""


@dataclass(frozen=True)
class Expected:
    """What a stage will take on this machine."""

    minutes: float
    memory_bytes: int
    """The most that the process has taken by the end of the stage."""


def plan_stages(config: RunConfig) -> dict[str, Expected]:
    """Expected time and memory of each stage of a search that begins anew; GhostsearchError where it would refuse to.

    One batch is trained and scored, one candidate and one architecture are fitted, and multiplied by how many there
    will be; the architecture twice, since the first fit of a process also samples the baseline's values. Timings are
    counted with their whole time budgets, which most do not use up.
    """
    setup = open_setup(config)
    check_budget(setup, setup.space)
    _check_lengths(setup)
    opened = peak_memory()
    epoch_s, score_s = setup.epoch_s, len(setup.data.validation) * seconds_of_a_forward(setup)  # type: ignore[arg-type]
    trained = peak_memory()
    changes = list(single_changes(setup.space))
    table = config.sampler == "table" or config.seeds in ("solver", "only solver")
    candidate_s = seconds_of(lambda: setup.convert_quickly(changes[0].architecture)) if table and changes else 0.0
    tabled = peak_memory()
    first_s, fit_s = (seconds_of(lambda: setup.convert(uniform_seeds(setup.space)[-1][0])) for _ in range(2))
    fitted = peak_memory()
    devices = len(config.device)
    cells = sum(len(c) for d in config.device for c in _missing(setup, d)) if config.counts_latency() else 0
    corrected_s = devices * setup.corrected_by * config.time_limit if config.counts_latency() else 0.0
    finalists = min(config.finalists, config.trials - 1)
    trial_s = fit_s + score_s * len(config.rungs()) + PROMOTED * config.epochs * epoch_s + devices * config.time_limit
    stages = {
        "latency table": (2 * cells * config.cell_time_limit + corrected_s, opened),
        "baseline": (config.baseline_training() * epoch_s, trained),
        "candidate table": (len(changes) * candidate_s, tabled),
        "trials": (first_s + config.trials * trial_s, fitted),
        "final": (final_pass_s(config, finalists, epoch_s, score_s), fitted),
    }
    return {stage: Expected(spent / 60, memory) for stage, (spent, memory) in stages.items()}


def _check_lengths(setup: Setup) -> None:
    """Raise GhostsearchError where a split does not tell the number of its batches."""
    for split in ("train", "validation"):
        if length(getattr(setup.data, split)) is None:
            raise GhostsearchError(
                f"--plan multiplies by the number of batches, and the {split} loader of {setup.config.data} does not "
                "tell it; give the loader a length, or search without --plan"
            )


def _missing(setup: Setup, device: str) -> list[list[Any]]:
    return [list(cells) for cells in setup.latency_table(device, cell_s=None).missing().values()]
