"""Sampled tiles read what the layer reads, and the fits made from them obey their laws."""

import pytest
import torch
from torch import nn

from ghostsearch.fits.least_squares import by_channel, patches
from ghostsearch.fits.problem import FitSettings
from ghostsearch.fits.sampled_rows import Sampling, Window, crops
from ghostsearch.graph.paused import PausedRuns
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.convert import convert

CONVS = [
    nn.Conv1d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, dilation=2, padding="same", padding_mode="reflect"),
    nn.Conv2d(4, 6, (3, 1), groups=2), nn.Conv3d(4, 6, 2, stride=(1, 2, 1), padding=1),
    nn.Conv2d(4, 6, 5, padding=2, padding_mode="circular"), nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"),
]  # fmt: skip


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("rows", [6, 10**6])
def test_filters_on_sampled_patches_give_the_layers_outputs_there(conv, rows):
    torch.manual_seed(0)
    x = torch.randn(3, 4, *[9] * (conv.weight.dim() - 2))
    y = conv._conv_forward(x, conv.weight, None)
    tiles = Sampling(rows, 3, seed=1, images=3).tiles(0, 3, 3, y.shape[2:])
    assert tiles.whole == (rows == 10**6)
    columns = patches(crops(x, tiles, Window.of(conv)), conv)
    filters = conv.weight.flatten(1).reshape(conv.groups, -1, columns.shape[1])
    wanted = by_channel(crops(y, tiles, Window.point(y.dim() - 2)))
    torch.testing.assert_close((filters @ columns).flatten(0, 1), wanted, rtol=1e-4, atol=1e-4)


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1, bias=False)]
    made = nn.Sequential(*layers, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1))
    made(torch.randn(8, 3, 24, 24))
    return made.eval()


ARCHITECTURE = Architecture.of({"3": "ghost(ratio=2, kernel=3)"})


def error(model, baseline, x):
    with torch.no_grad():
        wanted = baseline(x)
        return float((model(x) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def test_few_sampled_rows_fit_nearly_as_well_as_all_and_the_same_each_time():
    baseline, images, unseen = net(), torch.randn(32, 3, 24, 24), torch.randn(16, 3, 24, 24)
    found = []
    for rows in ((2048, 2048), (2048, 2048), (10**6, 10**6)):
        settings = FitSettings(rows=rows)
        found.append(convert(baseline, ARCHITECTURE, example=images[:1], calibration=[images], settings=settings))
    few, again, every = found
    assert all(torch.equal(a, b) for a, b in zip(few.state_dict().values(), again.state_dict().values(), strict=True))
    assert error(few, baseline, unseen) < 1.3 * error(every, baseline, unseen) + 1e-6


def test_values_between_layers_stay_under_the_limit_and_the_report_says_what_was_fitted():
    baseline, images, reports = net(), torch.randn(64, 3, 24, 24), []
    limit = 12 * 16 * 24 * 24 * 4
    settings = FitSettings(memory_bytes=limit)
    batches = list(images.split(4))
    convert(baseline, ARCHITECTURE, example=images[:1], calibration=batches, settings=settings, on_fit=reports.append)
    (report,) = reports
    assert 0 < report.peak_bytes <= limit
    assert report.fitted == ("3", "6")
    assert not report.not_fitted


class Shared(nn.Module):
    """One convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(self.twice(self.twice(self.stem(x)).relu()).relu())


def test_a_layer_called_twice_is_reported_as_not_fitted():
    baseline, images, reports = Shared().eval(), torch.randn(8, 3, 12, 12), []
    statistics = BaselineStatistics(baseline, [images])
    architecture = Architecture.of({"stem": "lowrank(rank=0.5)"})
    convert(baseline, architecture, example=images[:1], statistics=statistics, on_fit=reports.append)
    assert list(reports[0].not_fitted) == ["twice"]
    assert reports[0].fitted == ("stem", "last")


def test_a_paused_forward_sees_the_layers_that_changed_meanwhile():
    model, batches = net(), [torch.randn(2, 3, 8, 8) for _ in range(3)]
    seen = {}
    with PausedRuns(model, batches, ["0", "3", "6"]) as runs:
        for path in ("0", "3", "6"):
            runs.reach(path, lambda number, x, path=path: seen.__setitem__((path, number), x.clone()))
            if path == "3":
                with torch.no_grad():
                    model[3].weight.zero_()
            runs.pass_by(path)
    assert len(seen) == 9
    assert all(run.done or not run.thread.is_alive() for run in runs.runs)
    with torch.no_grad():
        torch.testing.assert_close(seen["6", 1], model[:6](batches[1]))
