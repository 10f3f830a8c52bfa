"""Which channels stay: backward elimination beside least squares solved again for every subset."""

import numpy as np
import pytest
import torch
from torch import nn

from ghostsearch.fits.least_squares import NormalEquations, damped
from ghostsearch.graph.plan import Edit
from ghostsearch.graph.widths import kept_channels, width_plan
from ghostsearch.space.choice import Width
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.fit_width import Elimination, fitted_channels

READERS = {
    "3×3 kernel": (nn.Conv2d(8, 6, 3, padding=1), {c: [c] for c in range(8)}),
    "1×1 kernel": (nn.Conv2d(8, 6, 1), {c: [c] for c in range(8)}),
    "linear layer behind a flatten": (nn.Linear(32, 5), {c: list(range(4 * c, 4 * c + 4)) for c in range(8)}),
    "a concatenation with some channels twice": (nn.Conv2d(12, 6, 1), {c: [c, c + 8][: 1 + (c < 4)] for c in range(8)}),
    "a reader of some channels only": (nn.Conv2d(5, 6, 1), {c: [c][: c < 5] for c in range(8)}),
}  # fmt: skip


def edit_of(positions):
    return Edit("0", "in", np.array([(c, p) for c, ps in positions.items() for p in ps]))


def inputs_of(layer, seed):
    """What a layer reads, its padding included, as `sampled_rows` gives it."""
    torch.manual_seed(seed)
    width = layer.weight.shape[1]
    mix = torch.randn(width, width)
    found = []
    for _ in range(2):
        x = torch.randn(16, width) @ mix
        found.append(
            x[..., None] if isinstance(layer, nn.Linear) else torch.randn(4, width, 8, 8) + x[:4, :, None, None]
        )
    return found


def equations_of(layer, seed):
    found = NormalEquations(layer)
    for x in inputs_of(layer, seed):
        found.add(x, None)
    return found


def loss_without(layer, equations, columns):
    """Least-squares loss when some inputs are not there, each output's as in `Elimination`: solved from nothing."""
    xx = equations.centred()[0]
    xt, whole = xx @ layer.weight.detach().double().flatten(1).T, damped(xx, 1e-4)
    scale = (torch.linalg.solve(whole, xt) * xt).sum(0).mean()
    rest = [i for i in range(len(whole)) if i not in columns]
    return -float((xt[rest] * torch.linalg.solve(whole[rest][:, rest], xt[rest])).sum() / scale)


def columns_of(layer, positions, gone):
    taps = layer.weight[0, 0].numel()
    return {p * taps + t for c in gone for p in positions[c] for t in range(taps)}


@pytest.mark.parametrize("name", READERS)
def test_the_channel_that_is_missed_least_leaves(name):
    layer, positions = READERS[name]
    equations = equations_of(layer, 0)
    model = nn.Sequential(layer)
    elimination = Elimination(model, [edit_of(positions)], {"0": inputs_of(layer, 0)}, 8)
    elimination.left(2)
    for i, channel in enumerate(elimination.gone):
        before = elimination.gone[:i]
        losses = {
            c: loss_without(layer, equations, columns_of(layer, positions, [*before, c]))
            for c in range(8)
            if c not in before
        }
        assert losses[channel] == pytest.approx(min(losses.values()), abs=1e-8)


def test_readers_are_added_up():
    layers = [READERS["3×3 kernel"][0], READERS["1×1 kernel"][0]]
    model, positions = nn.Sequential(*layers), READERS["1×1 kernel"][1]
    edits = [edit_of(positions), Edit("1", "in", edit_of(positions).pairs)]
    equations = {str(i): equations_of(layer, i) for i, layer in enumerate(layers)}
    inputs = {str(i): inputs_of(layer, i) for i, layer in enumerate(layers)}
    elimination = Elimination(model, edits, inputs, 8)
    (gone,) = set(range(8)) - set(elimination.left(7))
    totals = [
        sum(
            loss_without(layer, equations[str(i)], columns_of(layer, positions, [c]))
            for i, layer in enumerate(layers)
        )
        for c in range(8)
    ]  # fmt: skip
    assert gone == int(np.argmin(totals))


def test_narrower_widths_are_parts_of_wider_ones_in_any_order():
    layer, positions = READERS["3×3 kernel"]
    made = Elimination(nn.Sequential(layer), [edit_of(positions)], {"0": inputs_of(layer, 0)}, 8)
    few, many = made.left(3), made.left(6)
    assert set(few) < set(many)
    fresh = Elimination(nn.Sequential(layer), [edit_of(positions)], {"0": inputs_of(layer, 0)}, 8)
    assert fresh.left(6) == many
    assert fresh.left(3) == few
    assert fresh.left(8) == list(range(8))


class Mixed(nn.Module):
    """Channels read by a convolution and by a transposed one, which no least squares refits. x: (N, 3, H, W)"""

    def __init__(self):
        super().__init__()
        self.a, self.plain = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x):
        y = torch.relu(self.a(x))
        return self.plain(y), self.up(y)


@pytest.mark.parametrize("readers", ["plain", "both"])
def test_channels_are_chosen_by_images_where_every_reader_is_refitted(readers):
    torch.manual_seed(0)
    model, images = Mixed().eval(), torch.randn(16, 3, 8, 8)
    if readers == "plain":
        model.up = nn.Conv2d(8, 4, 2)
    with torch.no_grad():
        # Its channel of the largest weights hardly says anything on these images.
        model.a.weight[0], model.a.bias[0] = 3.0, -100.0
    widths, plan = {"a": Width(0.5)}, width_plan(model, images[:1])
    by_weight = kept_channels(model, widths, images[:1], 1)
    chosen = fitted_channels(BaselineStatistics(model, [images]), widths, plan, 1)
    assert 0 in by_weight["a"]
    assert (chosen == by_weight) is (readers == "both")
