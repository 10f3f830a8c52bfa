"""Costs as sums of small terms: exact for real networks' formulas and for any function of meeting variables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostsearch.study.interactions import decompose


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_layers_of_a_choice_and_two_widths_are_found_exactly(seed):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 4, size=7).tolist()
    # Layers read one group and make another; each has a choice of its own: 7 variables, 3 layers of 3 variables.
    layers = [(0, 4, 5), (1, 5, 6), (2, 4, 6)]
    tables = [draw.integers(0, 100, size=(2, *(sizes[v] for v in layer))) for layer in layers]

    def predict(codes):
        return 7 + sum(t[:, *(codes[:, v] for v in layer)] for t, layer in zip(tables, layers, strict=True))

    found = decompose(predict, sizes)
    codes = np.array([[draw.integers(s) for s in sizes] for _ in range(50)])
    assert np.allclose(np.array([found.at(c) for c in codes]).T, predict(codes))
    assert all(len(t.variables) <= 3 for t in found.terms)


def test_what_does_not_meet_is_kept_apart():
    found = decompose(lambda codes: codes.sum(axis=1, keepdims=True).T, [3, 3, 3])
    assert sorted(t.variables for t in found.terms) == [(0,), (1,), (2,)]


@pytest.mark.parametrize("name", ["ghostsearch:digits_cnn", "ghostsearch:resnet20", "torchvision:mobilenet_v2"])
def test_the_cost_table_of_a_network_is_such_a_sum(name):
    from ghostsearch.measure.cost_table import CostTable
    from ghostsearch.models.load import example_input, load_model
    from ghostsearch.space.preset import load_preset
    from ghostsearch.surgery.sites import find_sites

    loaded = load_model(name)
    example = example_input(loaded.input)
    anatomy = find_sites(loaded.module, example)
    space = load_preset("ghost_width").resolve(anatomy)
    table = CostTable(loaded.module, example, anatomy)
    sizes = [len(o) for o in (*space.sites.values(), *space.groups.values())]
    found = decompose(lambda codes: table.predict_codes(space, codes), sizes)
    draw = np.random.default_rng(0)
    codes = np.array([[draw.integers(s) for s in sizes] for _ in range(30)])
    assert np.allclose(np.array([found.at(c) for c in codes]).T, table.predict_codes(space, codes))
