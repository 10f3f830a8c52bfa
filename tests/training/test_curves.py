"""Training curves as pictures."""

from __future__ import annotations

import pytest
from PIL import Image

from ghostsearch.errors import GhostsearchError
from ghostsearch.training.curves import draw_curves
from ghostsearch.training.recipe import Epoch

HISTORY = [Epoch(n, 10 * n, 2.0 / n, 0.1, float(n), score=1 - 1 / n) for n in (1, 2, 3)]


def test_curves_are_drawn_in_the_format_of_the_suffix(tmp_path):
    svg = draw_curves(HISTORY, tmp_path / "a" / "curves.svg", metric="mIoU", title="a <b> & c")
    assert "<svg" in svg.read_text()
    with Image.open(draw_curves(HISTORY, tmp_path / "curves.png")) as picture:
        pixels = picture.convert("RGB")
    colours = {colour for _, colour in pixels.getcolors(maxcolors=2**24)}
    assert (0xB4, 0x53, 0x09) in colours
    assert (0x1D, 0x4E, 0xD8) in colours


def test_without_scores_there_is_only_the_loss(tmp_path):
    unscored = [Epoch(n, n, 1.0, 0.1, 1.0) for n in (1, 2)]
    with Image.open(draw_curves(unscored, tmp_path / "curves.png")) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(maxcolors=2**24)}
    assert (0x1D, 0x4E, 0xD8) not in colours


def test_nothing_to_draw_gets_one_line(tmp_path):
    with pytest.raises(GhostsearchError, match="no training curves"):
        draw_curves([], tmp_path / "x.svg")
