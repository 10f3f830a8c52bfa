import pytest

from benchmarks.paper.ghostnet_space import uniform_plans
from benchmarks.paper.ghostnet_study import GhostNetTrainer, search_ghostnet
from ghostsearch.data.load import load_data
from ghostsearch.models.input import InputSpec
from ghostsearch.training.recipe import Recipe


@pytest.fixture(scope="module")
def trainer():
    spec = InputSpec(8)
    return GhostNetTrainer(
        load_data("digits", input=spec, batch=32, train_images=64), spec, Recipe(epochs=1, compute_device="cpu")
    )


@pytest.fixture(scope="module")
def remembered():
    return {}


@pytest.fixture(scope="module")
def candidates(trainer, remembered):
    def scores(plan):
        return remembered.setdefault(plan, trainer.scores(plan))

    return search_ghostnet(trainer, trials=5, scores=scores, device="torch:cpu", time_limit_s=0.2)


def test_told_the_same_it_asks_the_same(candidates, trainer, remembered):
    again = search_ghostnet(trainer, trials=5, scores=remembered.__getitem__, device="torch:cpu", time_limit_s=0.1)
    assert [(c.plan, c.score, c.test) for c in again] == [(c.plan, c.score, c.test) for c in candidates]


def test_uniform_networks_come_first_then_searched_ones(candidates):
    names = [c.name for c in candidates]
    assert names[:4] == list(uniform_plans())
    assert len(set(names)) == len(names) == 5
    assert all(name.startswith("searched ") for name in names[4:])


def test_front_is_not_dominated(candidates):
    for a in candidates:
        beaten = any(b.score >= a.score and b.cost.macs < a.cost.macs for b in candidates)
        assert not (a.on_front and beaten)
    assert any(c.on_front for c in candidates)


def test_front_and_uniform_ones_are_timed(candidates):
    for c in candidates:
        timed = c.on_front or c.name in uniform_plans()
        assert (c.latency_s is not None and c.latency_s > 0) is timed
        assert (c.ratio is not None) is timed
