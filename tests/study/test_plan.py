"""What is searched: the space after the veto, its limits, and what a study starts from."""

import dataclasses

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Axis, Cost, Record, Score
from ghostsearch.study.baseline import Baseline
from ghostsearch.study.config import configure
from ghostsearch.study.outcome import final_front
from ghostsearch.study.plan import Plan, make_plan, uniform_seeds
from ghostsearch.study.recommendation import BASELINE, TRAINED
from ghostsearch.study.setup import open_setup
from ghostsearch.study.veto import without_slow
from ghostsearch.study.watch import Watch

DEVICE, OTHER = "onnxruntime:cpu", "torch:cpu"
GHOST, QUARTER = "ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)"


@pytest.fixture(scope="module")
def opened(tiny, tmp_path_factory):
    return open_setup(configure(tiny(tmp_path_factory.mktemp("veto") / "run", calibration_images=0)))


def rows(space, *choices, devices=(DEVICE,)):
    return [
        {"site": s, "choice": c, "device": d, "ratio": 1.2, "interval": (1.1, 1.3)}
        for s in space.sites
        for c in choices
        for d in devices
    ]


def test_vetoed_choices_leave_the_space_and_the_given_one_stays_as_it_is(opened):
    before = dataclasses.asdict(opened.space)
    left = without_slow(opened.space, rows(opened.space, QUARTER), [DEVICE])
    assert dict(left.sites) == dict.fromkeys(opened.space.sites, ("keep", GHOST))
    assert left.groups == opened.space.groups
    assert dataclasses.asdict(opened.space) == before


def test_a_search_goes_without_what_the_veto_found(opened, tmp_path):
    setup = dataclasses.replace(
        opened, config=opened.config.model_copy(update={"sampler": "random", "seeds": "uniform"})
    )
    plan = make_plan(Baseline(setup, "vetoed", (), {}, tuple(rows(opened.space, QUARTER))), Watch(tmp_path))
    assert dict(plan.space.sites) == dict.fromkeys(opened.space.sites, ("keep", GHOST))
    assert {str(choice) for a, _ in plan.seeds for choice in a.sites.values()} == {GHOST}


def test_on_several_devices_a_choice_stays_where_it_is_faster_on_one(opened):
    slow = rows(opened.space, GHOST) + rows(opened.space, QUARTER, devices=(DEVICE, OTHER))
    left = without_slow(opened.space, slow, [DEVICE, OTHER])
    assert dict(left.sites) == dict.fromkeys(opened.space.sites, ("keep", GHOST))


def test_widths_are_left_when_no_choice_is_faster_and_an_empty_space_is_refused(opened):
    slow = rows(opened.space, GHOST, QUARTER)
    left = without_slow(opened.space, slow, [DEVICE])
    assert not left.sites
    assert left.groups
    with pytest.raises(GhostsearchError, match=f"none of the 4 choices of this space is faster on {DEVICE}.*--no-veto"):
        without_slow(dataclasses.replace(opened.space, groups={}), slow, [DEVICE])


def test_uniform_seeds_are_the_baseline_then_each_choice_and_width_everywhere(opened):
    (baseline, origin), *others = uniform_seeds(opened.space)
    assert (baseline.is_baseline, origin) == (True, "baseline")
    found = [{str(c) for c in (*a.sites.values(), *a.groups.values())} for a, _ in others]
    assert found == [{GHOST}, {QUARTER}, {"width(0.5)"}]


def finalist(digest, macs, value, epochs=1):
    return Record(
        number=0, digest=digest, origin="solver", state="complete", cost=Cost(params=1, macs=macs, size_bytes=1),
        scores=(Score(metric="accuracy", value=value, split="validation", epochs=epochs, images=9, seed=0),),
    )  # fmt: skip


@pytest.fixture
def plan(opened):
    axes = (Axis.of_cost("macs"), Axis.of_score("accuracy"))
    return Plan(Baseline(opened, "it", (), {}, ()), opened.space, axes, None, ())


def test_finalists_of_unequal_training_share_no_front(plan):
    """The given baseline was never trained on; the one that was competes, and what is slower and worse goes."""
    trained = finalist(TRAINED, 4, 0.95)
    finalists = [finalist(BASELINE, 4, 0.99, 0), trained, finalist("early", 1, 0.97, 0), finalist("late", 2, 0.9)]
    assert [r.digest for r in final_front(plan, finalists)[0]] == ["late"]
    assert [r.digest for r in final_front(plan, [*finalists[:3], finalist("slow", 5, 0.9)])[0]] == [BASELINE]


def test_the_front_begins_with_the_best_score_whichever_objective_was_named_first(plan):
    finalists = [finalist(f"{i}", *pair) for i, pair in enumerate([(1, 0.5), (3, 0.9), (2, 0.7), (4, 0.8)])]
    front, missed = final_front(plan, finalists)
    assert [r.digest for r in front] == ["1", "2", "0"]
    assert not missed
