"""Which channels stay: backward elimination beside least squares solved again for every subset."""

import numpy as np
import pytest
import torch
from torch import nn

from ghostsearch.graph.plan import Edit
from ghostsearch.surgery.fit_width import Elimination
from ghostsearch.surgery.least_squares import NormalEquations, damped

READERS = {
    "3×3 kernel": (nn.Conv2d(8, 6, 3, padding=1), {c: [c] for c in range(8)}),
    "1×1 kernel": (nn.Conv2d(8, 6, 1), {c: [c] for c in range(8)}),
    "linear layer behind a flatten": (nn.Linear(32, 5), {c: list(range(4 * c, 4 * c + 4)) for c in range(8)}),
    "a concatenation with some channels twice": (nn.Conv2d(12, 6, 1), {c: [c, c + 8][: 1 + (c < 4)] for c in range(8)}),
    "a reader of some channels only": (nn.Conv2d(5, 6, 1), {c: [c][: c < 5] for c in range(8)}),
}  # fmt: skip


def edit_of(positions):
    return Edit("0", "in", np.array([(c, p) for c, ps in positions.items() for p in ps]))


def equations_of(layer, seed):
    torch.manual_seed(seed)
    found = NormalEquations(layer)
    width = layer.weight.shape[1]
    mix = torch.randn(width, width)
    for _ in range(2):
        x = torch.randn(16, width) @ mix
        x = x if isinstance(layer, nn.Linear) else torch.randn(4, width, 6, 6) + x[:4, :, None, None]
        found.add(x, layer(x).detach())
    return found


def loss_without(layer, equations, columns):
    """Least-squares loss when some inputs are not there, each output's as in `Elimination`: solved from nothing."""
    xx, xt = equations.centred()
    whole = damped(xx[0], 1e-4)
    scale = (torch.linalg.solve(whole, xt[0]) * xt[0]).sum(0).mean()
    rest = [i for i in range(len(whole)) if i not in columns]
    return -float((xt[0][rest] * torch.linalg.solve(whole[rest][:, rest], xt[0][rest])).sum() / scale)


def columns_of(layer, positions, gone):
    taps = layer.weight[0, 0].numel()
    return {p * taps + t for c in gone for p in positions[c] for t in range(taps)}


@pytest.mark.parametrize("name", READERS)
def test_the_channel_that_is_missed_least_leaves(name):
    layer, positions = READERS[name]
    equations = equations_of(layer, 0)
    model = nn.Sequential(layer)
    elimination = Elimination(model, [edit_of(positions)], {"0": equations}, 8)
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
    elimination = Elimination(model, edits, equations, 8)
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
    made = Elimination(nn.Sequential(layer), [edit_of(positions)], {"0": equations_of(layer, 0)}, 8)
    few, many = made.left(3), made.left(6)
    assert set(few) < set(many)
    fresh = Elimination(nn.Sequential(layer), [edit_of(positions)], {"0": equations_of(layer, 0)}, 8)
    assert fresh.left(6) == many
    assert fresh.left(3) == few
    assert fresh.left(8) == list(range(8))
