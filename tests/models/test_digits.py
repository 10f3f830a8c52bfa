import torch

from ghostsearch.models.digits import digits_cnn
from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.space.costs import theoretical_speedup
from ghostsearch.surgery.sites import find_sites

IMAGE = torch.zeros(1, 1, 8, 8)


def test_every_site_gains_by_ghosts_and_some_by_widths():
    anatomy = find_sites(digits_cnn(), IMAGE)
    assert len(anatomy.sites) >= 5
    choice = parse_layer_choice("ghost(ratio=2, kernel=3)")
    assert all(theoretical_speedup(site, choice) > 1.8 for site in anatomy.sites)
    assert any(not group.fixed for group in anatomy.groups)


def test_shapes():
    assert digits_cnn(4)(torch.zeros(3, 1, 8, 8)).shape == (3, 4)
