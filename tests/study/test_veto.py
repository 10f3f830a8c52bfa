"""Choices that do not pay on the device leave a search for latency."""

import dataclasses

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.table import DEVICES
from ghostsearch.study.bench import open_bench
from ghostsearch.study.config import configure
from ghostsearch.study.directory import read_study
from ghostsearch.study.run import search
from ghostsearch.study.veto import apply_veto, vetoed_choices

DEVICE, OTHER = "onnxruntime:cpu", "torch:cpu"
GHOST, QUARTER = "ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)"


@pytest.fixture(scope="module")
def opened(tiny, tmp_path_factory):
    return open_bench(configure(tiny(tmp_path_factory.mktemp("veto") / "run", objectives=["score", "latency"])))


def bench_of(opened, **changed):
    return dataclasses.replace(opened, config=opened.config.model_copy(update=changed))


def rows(bench, *choices, devices=(DEVICE,)):
    return [
        {"site": s, "choice": c, "device": d, "ratio": 1.2, "interval": (1.1, 1.3)}
        for s in bench.space.sites
        for c in choices
        for d in devices
    ]


def test_vetoed_choices_leave_the_space_and_their_table_still_fits(opened):
    bench = bench_of(opened)
    apply_veto(bench, rows(bench, QUARTER))
    assert all(texts == ("keep", GHOST) for texts in bench.space.sites.values())
    assert bench.space.groups == opened.space.groups
    assert bench.offered == opened.space
    for table in bench.latency_tables().values():
        assert table.space == bench.space
        assert table.complete
    assert all(table.space == opened.space for table in bench.timed_tables().values())


def test_on_several_devices_a_choice_stays_where_it_pays_on_one(opened):
    bench = bench_of(opened, device=(DEVICE, OTHER))
    apply_veto(bench, rows(bench, GHOST) + rows(bench, QUARTER, devices=(DEVICE, OTHER)))
    assert all(texts == ("keep", GHOST) for texts in bench.space.sites.values())


def test_widths_are_left_when_no_choice_pays_and_an_empty_space_is_told(opened):
    bench = bench_of(opened)
    apply_veto(bench, rows(bench, GHOST, QUARTER))
    assert not bench.space.sites
    assert bench.space.groups
    bare = bench_of(opened)
    bare.space = dataclasses.replace(opened.space, groups={})
    with pytest.raises(GhostsearchError, match=f"none of the 4 choices of this space pays on {DEVICE}.*--no-veto"):
        apply_veto(bare, rows(bare, GHOST, QUARTER))


def test_a_limit_that_only_vetoed_choices_meet_is_told(opened):
    bench = bench_of(opened, max_params="20%")
    with pytest.raises(GhostsearchError, match=r"nearest feasible limit.*do not pay.*--no-veto"):
        apply_veto(bench, rows(bench, GHOST, QUARTER))


@pytest.mark.parametrize("changed", [{"veto": False}, {"objectives": ("score", "macs")}])
def test_nothing_is_timed_where_latency_is_no_matter(opened, changed, monkeypatch):
    monkeypatch.setattr("ghostsearch.measure.profiling.measure_pairs", None)
    assert DEVICE in DEVICES
    assert vetoed_choices(bench_of(opened, **changed)) == []


def test_a_search_never_tries_what_it_vetoed(tiny, tmp_path):
    config = configure(tiny(tmp_path / "run", objectives=["score", "latency"], trials=4, seeds="uniform"))
    found = search(config)
    tried = {(s, c) for r in found.records for s, c in r.sites.items()}
    assert not tried & {(v["site"], v["choice"]) for v in found.vetoed}
    assert read_study(tmp_path / "run")["vetoed"] == [{**v, "interval": list(v["interval"])} for v in found.vetoed]
