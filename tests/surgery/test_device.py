"""A fit stays on the device that it is given: nothing of one device meets anything of another."""

import pytest
import torch
from torch import nn

from ghostsearch.graph.widths import width_plan
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.fit_problem import FitSettings
from ghostsearch.surgery.fit_width import fitted_channels
from ghostsearch.surgery.inherit import fit_weights
from tests.labelled_device import ELSEWHERE, ElsewhereMode


def test_mixing_devices_is_noticed():
    with ElsewhereMode() as mode:
        there = torch.randn(3).to(ELSEWHERE)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.randn(3)
        assert float((there * 2).cpu().sum()) == pytest.approx(2 * float(there.sum()))
    assert mode.left["_to_copy"] == 3


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture.of({"0": "ghost(ratio=2, kernel=3)", "3": "ghost(ratio=4, kernel=3)", "6": "ghost(ratio=2)"}),
        Architecture.of({"3": "lowrank(rank=0.5)", "6": "lowrank(rank=0.5)"}),
    ],
    ids=["ghost", "lowrank"],
)
def test_a_fit_stays_on_its_device_and_gives_the_same(architecture):
    torch.manual_seed(0)
    net, images = small().eval(), torch.randn(24, 3, 9, 9)

    def fitted(device: str) -> nn.Module:
        settings = FitSettings(compute_device=device, rows=(300, 300), metric_images=8)
        statistics = BaselineStatistics(net, [images], settings)
        made = convert(net, architecture, example=images[:1])
        return fit_weights(net, made, architecture, example=images[:1], statistics=statistics)[0]

    with ElsewhereMode() as mode:
        there = fitted(str(ELSEWHERE))
    here = fitted("cpu")
    assert mode.computed > 300
    for name, value in here.state_dict().items():
        torch.testing.assert_close(there.state_dict()[name], value, rtol=2e-3, atol=2e-3)


def test_the_channels_of_a_width_are_chosen_on_the_device():
    torch.manual_seed(0)
    net, images = small().eval(), torch.randn(24, 3, 9, 9)
    widths = Architecture.of({}, {"3": "width(0.5)"}).groups
    plan = width_plan(net, images[:1])

    def chosen(device: str) -> dict[str, list[int]]:
        return fitted_channels(BaselineStatistics(net, [images], FitSettings(compute_device=device)), widths, plan, 8)

    with ElsewhereMode():
        there = chosen(str(ELSEWHERE))
    assert there == chosen("cpu")
