"""A layer's time over its channels: exact where it was timed, linear between, whatever axes are free."""

import numpy as np
import pytest

from ghostsearch.measure.surfaces import Surface

STEPS = np.array([[1.0, 1.0, 3.0], [2.0, 2.0, 6.0]])


def test_times_are_exact_at_every_level_and_linear_between():
    surface = Surface(((8, 16), (8, 16, 24)), STEPS)
    grid = np.array([[c, n] for c in (8, 16) for n in (8, 16, 24)])
    assert surface(grid) == pytest.approx(STEPS.ravel())
    assert surface(np.array([[12, 20], [8, 12]])) == pytest.approx([3.0, 1.0])


def test_axes_of_one_level_do_not_count():
    along = Surface(((3,), (8, 16)), np.array([[1.0, 2.0]]))
    assert along(np.array([[3, 12], [99, 16]])) == pytest.approx([1.5, 2.0])
    across = Surface(((8, 16), (4,)), np.array([[1.0], [2.0]]))
    assert across(np.array([[12, 4]])) == pytest.approx([1.5])
    assert Surface(((3,), (4,)), np.array([[7.0]]))(np.array([[3, 4], [1, 1]])) == pytest.approx([7.0, 7.0])
