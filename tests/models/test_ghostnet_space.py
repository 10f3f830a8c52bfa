import pytest
import torch

from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.ghostnet import ghostnet
from ghostsearch.models.ghostnet_space import (
    PER_BOTTLENECK,
    WIDTHS,
    GhostNetPlan,
    plan_from,
    sample_plan,
    space_size,
    uniform_plans,
)

IMAGE = torch.zeros(1, 3, 32, 32)


def test_the_default_plan_is_the_papers_network():
    plan, paper = GhostNetPlan().build(10), ghostnet(10)
    assert {k: v.shape for k, v in plan.state_dict().items()} == {k: v.shape for k, v in paper.state_dict().items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_parameters_and_plan_from_are_inverse(seed):
    plan = sample_plan(seed)
    values = plan.parameters()
    assert plan_from(lambda name, options: values[name]) == plan
    assert len(values) == 1 + 4 * 16
    assert plan != sample_plan(seed + 1)


def test_every_sample_is_in_the_space_and_runs():
    plan = sample_plan(3)
    assert plan.width in WIDTHS
    assert all(value in options for name, options in PER_BOTTLENECK.items() for value in getattr(plan, name))
    assert plan.build(7, stem_stride=1).eval()(IMAGE).shape == (1, 7)


def test_uniform_plans_grow_with_width():
    macs = [measure_cost(plan.build(10, 1), IMAGE).macs for plan in uniform_plans().values()]
    assert macs == sorted(macs)
    assert len(set(macs)) == len(WIDTHS)


def test_space_size():
    assert space_size() == 4 * (3 * 3 * 3 * 2) ** 16
