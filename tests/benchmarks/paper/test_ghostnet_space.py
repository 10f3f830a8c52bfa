import random

import pytest
import torch

from benchmarks.paper.ghostnet_space import PER_BOTTLENECK, GhostNetPlan, plan_from
from ghostsearch.models.ghostnet import ghostnet


def test_the_default_plan_is_the_papers_network():
    plan, paper = GhostNetPlan().build(10), ghostnet(10)
    assert {k: v.shape for k, v in plan.state_dict().items()} == {k: v.shape for k, v in paper.state_dict().items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_parameters_and_plan_from_are_inverse_and_the_plan_runs(seed):
    draw = random.Random(seed)
    plan = plan_from(lambda _, options: draw.choice(list(options)))
    values = plan.parameters()
    assert plan_from(lambda name, options: values[name]) == plan
    assert all(value in options for name, options in PER_BOTTLENECK.items() for value in getattr(plan, name))
    assert plan.build(7, stem_stride=1).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
