"""The recommended model: the cheapest within the allowed drop, and never one that the front beats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.pareto import pareto_front
from ghostsearch.records import Axis, Cost, Record, Score, packed
from ghostsearch.study.recommendation import (
    BASELINE,
    TRAINED,
    beaten_by,
    not_separable_from,
    recommended,
    worth_finishing,
)
from ghostsearch.study.statistics import error_of_difference
from tests.dominance import dominates

AXES = (Axis.of_score("accuracy"), Axis.of_cost("macs"))


def score(value, right=None, stderr=None):
    bits = "" if right is None else packed(np.asarray(right, dtype=bool))
    images = 100 if right is None else len(right)
    return Score(metric="accuracy", value=value, split="validation", epochs=0, images=images, seed=0, stderr=stderr,
                 right=bits)  # fmt: skip


def model(name, value, macs, **more):
    cost = Cost(params=1, macs=macs, size_bytes=4)
    return Record(number=0, digest=name, origin="sampler", state="complete", cost=cost, scores=(score(value, **more),))


def test_the_cheapest_within_the_drop_is_recommended_and_the_better_baseline_counts():
    front = [model("a", 0.95, 60), model("b", 0.94, 40), model("c", 0.80, 10)]
    baseline = [model(BASELINE, 0.93, 100)]
    assert recommended(front, baseline, AXES, 0.0) == "b"
    assert recommended(front, baseline, AXES, 0.2) == "c"
    trained = [*baseline, model(TRAINED, 0.96, 100)]
    assert recommended(front, trained, AXES, 0.015) == "a"
    assert recommended(front, trained, AXES, 0.0) == "", "nothing keeps the limit that was given"
    assert recommended(front, trained, AXES, None) == "a", "without one, the best is recommended"


def test_one_standard_error_of_the_paired_difference_is_allowed():
    right = np.arange(100) < 90
    same = right.copy()
    same[:3] = False
    baseline = model(BASELINE, 0.90, 100, right=right)
    paired = model("p", 0.87, 10, right=same)
    shuffled = model("s", 0.87, 10, right=np.roll(right, 50) & (np.arange(100) != 99))
    assert error_of_difference(paired.score(), baseline.score()) == pytest.approx(0.0171, abs=1e-4)
    assert error_of_difference(shuffled.score(), baseline.score()) > 0.03
    fallback = model("x", 0.90, 50)
    assert recommended([paired, fallback], [baseline], AXES, None) == "x"
    assert recommended([shuffled, fallback], [baseline], AXES, None) == "s"


def test_the_best_models_at_a_limit_are_finished_though_they_add_little_volume():
    """Under a limit of 60 the good models lie at the front's end; far cheaper ones would dominate more."""
    front = [model(f"m{i}", 0.5 + 0.3 * i / 9, 10 + 5 * i) for i in range(10)]
    front += [model("good", 0.88, 58), model("best", 0.89, 59)]
    found = [r.digest for r in worth_finishing(front, model(BASELINE, 0.93, 100), AXES, None, 4)]
    assert found[:2] == ["best", "good"]
    assert len(set(found)) == 4
    cheap = worth_finishing(front, model(BASELINE, 0.93, 100), AXES, 0.3, 2)
    assert cheap[0].cost.macs == 30, "the cheapest within a drop of 0.3 comes first"
    assert worth_finishing(front, model(BASELINE, 0.93, 100), AXES, 0.001, 1)[0].digest == "best", "training may help"
    assert worth_finishing([], model(BASELINE, 0.93, 100), AXES, None, 4) == []


MODELS = st.lists(st.tuples(st.integers(50, 100), st.integers(1, 99)), min_size=1, max_size=12)


@given(MODELS, st.one_of(st.none(), st.floats(0, 0.5)))
def test_what_is_recommended_is_beaten_by_no_model_of_the_front(found, max_drop):
    models = [model(f"m{i}", value / 100, macs) for i, (value, macs) in enumerate(found)]
    points = [[axis.minimised(m) for axis in AXES] for m in models]
    front = [models[i] for i in pareto_front(points)]
    chosen = recommended(front, [model(BASELINE, 0.9, 100)], AXES, max_drop)
    if chosen:
        mine = next(p for m, p in zip(models, points, strict=True) if m.digest == chosen)
        assert not any(dominates(p, mine) for p in points)


def answering(name, wrong, macs, images=400):
    right = np.ones(images, dtype=bool)
    right[list(wrong)] = False
    return model(name, float(right.mean()), macs, right=right)


def test_a_cheaper_model_is_not_separable_until_the_same_images_prove_it_worse():
    # 4 images of 400 that only one gets right: p = 0.125; 15 of them: p < 0.001.
    dear, close, worse = (answering(n, range(w), m) for n, w, m in (("d", 20, 100), ("c", 24, 50), ("w", 35, 20)))
    assert not_separable_from(dear, [dear, close, worse], AXES) == close
    assert not_separable_from(dear, [dear, worse], AXES) is None
    assert not_separable_from(worse, [dear, close, worse], AXES) is None, "nothing is cheaper"


def test_what_costs_no_more_beats_a_model_only_where_the_images_prove_it_better():
    better, close = answering("b", range(20), 50), answering("c", range(16, 40), 50)
    assert beaten_by(answering("x", range(35), 60), [better], AXES) == better
    assert beaten_by(answering("x", range(24), 60), [better], AXES) is None, "4 images prove nothing"
    assert beaten_by(answering("x", range(35), 40), [better], AXES) is None, "it costs more"
    # 10 images that only one of them gets right are proof (p = 0.002), 10 and 20 wrong of 400 others none.
    best = answering("b", range(10), 50)
    assert beaten_by(answering("x", range(20), 60), [best], AXES) == best
    assert beaten_by(answering("x", range(10, 30), 60), [best], AXES) is None
    # 20 wrong and 24 wrong, but hardly the same ones: 20 against 16 images, which chance explains.
    assert beaten_by(close, [better], AXES) is None
    assert not_separable_from(close, [better], AXES) == better


def test_without_single_images_the_standard_errors_decide_and_unknown_ones_count_as_exact():
    good, bad = model("g", 0.95, 50, stderr=0.01), model("b", 0.90, 60, stderr=0.01)
    assert beaten_by(bad, [good], AXES) == good
    assert beaten_by(model("b", 0.93, 60, stderr=0.01), [good], AXES) is None
    exact = Axis.of_score("PSNR"), AXES[1]
    plain = [r.model_copy(update={"scores": (r.score().model_copy(update={"metric": "PSNR", "stderr": None}),)})
             for r in (good, bad)]  # fmt: skip
    assert beaten_by(plain[1], plain[:1], exact) == plain[0]
    error = Axis.of_score("error", maximize=False), AXES[1]
    assert beaten_by(plain[0].model_copy(update={"cost": plain[1].cost}), [plain[1]], error) == plain[1]


ANSWERS = st.lists(st.tuples(st.sets(st.integers(0, 29), max_size=29), st.integers(1, 20)), min_size=1, max_size=8)


@given(ANSWERS, st.one_of(st.none(), st.floats(0, 0.5)), st.permutations(range(30)))
def test_the_front_beats_none_of_its_own_and_each_other_model_is_beaten_or_not_separable(found, max_drop, order):
    models = [answering(f"m{i}", wrong, macs, 30) for i, (wrong, macs) in enumerate(found)]
    front = [models[i] for i in pareto_front([[axis.minimised(m) for axis in AXES] for m in models])]
    for one in models:
        beaten, close = beaten_by(one, front, AXES), not_separable_from(one, front, AXES)
        if one in front:
            assert beaten is None
        else:
            assert beaten or close, "something of the front costs no more and scores as well"
    names = {m.digest for m in front}
    assert recommended(front, [answering(BASELINE, (), 21, 30)], AXES, max_drop) in {"", *names}
    # In which order the images come says nothing.
    mixed = [
        answering(m.digest, [order[i] for i in wrong], macs, 30) for m, (wrong, macs) in zip(models, found, strict=True)
    ]
    again = [m for m in mixed if m.digest in names]
    for one, other in zip(models, mixed, strict=True):
        before, after = ([f(r, f_front, AXES) for f in (beaten_by, not_separable_from)]
                         for r, f_front in ((one, front), (other, again)))  # fmt: skip
        assert [r and r.digest for r in before] == [r and r.digest for r in after]
