"""Limits on exact costs: what nothing can meet is refused with the nearest that can."""

import dataclasses
from itertools import product
from types import SimpleNamespace

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.models.load import example_input, load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.preset import parse_preset
from ghostsearch.study.budget import check_budget, smallest
from ghostsearch.study.config import configure
from ghostsearch.study.setup import Setup, open_setup
from ghostsearch.surgery.sites import find_sites


@pytest.fixture(scope="module")
def opened(tiny, tmp_path_factory):
    return open_setup(configure(tiny(tmp_path_factory.mktemp("budget") / "run", calibration_images=0)))


@pytest.mark.parametrize("axis", ["macs", "params", "memory"])
def test_a_limit_that_nothing_can_meet_is_refused_with_the_nearest_that_can(opened, axis):
    with pytest.raises(GhostsearchError, match=rf"max_{axis}: .*nearest feasible limit is (\d+)") as refused:
        check_budget(limited(opened, axis, "1%"), opened.space)
    nearest = str(refused.value).partition("limit is ")[2].split()[0]
    check_budget(limited(opened, axis, nearest), opened.space)
    if axis != "memory":
        assert int(nearest) == smallest(opened, opened.space, axis)


def limited(opened, axis, text):
    return dataclasses.replace(opened, config=opened.config.model_copy(update={f"max_{axis}": text}))


def test_what_cannot_be_built_ends_no_search_for_the_least_memory(opened, monkeypatch):
    built = Setup.copied

    def refusing(setup, architecture):
        if "ghost(ratio=2, kernel=3)" in map(str, architecture.sites.values()):
            raise RuntimeError("no")
        return built(setup, architecture)

    monkeypatch.setattr(Setup, "copied", refusing)
    ghosts = Architecture.of(dict.fromkeys(opened.space.sites, "ghost(ratio=2, kernel=3)"))
    assert opened.peak_memory(ghosts) is None
    assert opened.peak_memory(Architecture()) == opened.baseline_cost.peak_memory_bytes
    with pytest.raises(GhostsearchError, match=r"nearest feasible limit is \d+"):
        check_budget(limited(opened, "memory", "1%"), opened.space)


@pytest.mark.parametrize("axis", ["macs", "params"])
def test_the_least_of_a_space_counts_what_lies_in_a_skipped_branch_once(axis):
    model = load_model("ghostsearch:resnet20")
    example = example_input(model.input)
    anatomy = find_sites(model.module, example)
    table = CostTable(model.module, example, anatomy)
    rules = {
        "include": ["layer3.2.*"],
        "sites": [{"match": "*", "choices": ["keep", "separable(multiplier=1)", "skip"]}],
    }
    space = parse_preset(rules, "p").resolve(anatomy)
    setup = SimpleNamespace(table=table, cost=table.predict)
    mixes = product(*space.sites.values())
    costs = [table.predict(space.architecture(dict(zip(space.sites, mix, strict=True)), {})) for mix in mixes]
    assert len(costs) > 4
    assert smallest(setup, space, axis) == min(getattr(cost, axis) for cost in costs)
