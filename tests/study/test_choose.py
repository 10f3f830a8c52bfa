"""The recommended model: the cheapest within the allowed drop, and never one that the front beats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.pareto import dominates, pareto_front
from ghostsearch.records import Axis, Cost, Record, Score, packed
from ghostsearch.study.choose import BASELINE, TRAINED, cheaper_equal, error_of_difference, recommended, worth_finishing

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


def test_a_cheaper_model_counts_as_equal_until_the_same_images_prove_it_worse():
    images = np.arange(400)
    dear = model("dear", 0.95, 100, right=images < 380)
    close, worse = model("close", 0.94, 50, right=images < 376), model("worse", 0.93, 20, right=images < 365)
    # 4 images of 400 that only one gets right: p = 0.125; 15 of them: p < 0.001.
    assert cheaper_equal(dear, [dear, close, worse], AXES) == close
    assert cheaper_equal(dear, [dear, worse], AXES) is None
    assert cheaper_equal(worse, [dear, close, worse], AXES) is None, "nothing is cheaper"
    assert cheaper_equal(model("x", 0.95, 100), [close], AXES) is None, "it does not say which images were right"
