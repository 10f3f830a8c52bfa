"""Fronts, ranks, crowding, hypervolume: laws that hold for any points, and values worked out by hand."""

from math import inf, nan, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.pareto import (
    crowding_distances,
    hypervolume,
    most_volume,
    non_dominated_ranks,
    pareto_front,
    standings,
)
from tests.dominance import dominates

coordinate = st.integers(0, 6)
points_2d = st.lists(st.tuples(coordinate, coordinate), max_size=12)
points_3d = st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=8)


@given(points_3d)
def test_front_is_what_nothing_dominates_each_value_once(points):
    front = pareto_front(points)
    values = [points[i] for i in front]
    assert len(set(values)) == len(values)
    assert set(values) == {p for p in points if not any(dominates(q, p) for q in points)}
    assert all(points.index(points[i]) == i for i in front), "of equals the first stands"


def test_points_without_a_number_are_not_on_the_front_and_hide_nothing():
    assert pareto_front([(nan, 0.0), (1.0, 1.0), (-inf, 0.0)]) == [1]


@given(points_3d)
def test_ranks_start_at_the_front_and_fall_along_domination(points):
    ranks = non_dominated_ranks(points)
    for i, p in enumerate(points):
        better = [ranks[j] for j, q in enumerate(points) if dominates(q, p)]
        assert ranks[i] == (max(better) + 1 if better else 0)


@given(points_2d)
def test_standings_are_by_rank_and_then_by_crowding_within_it(points):
    found, ranks = standings(points), non_dominated_ranks(points)
    assert [rank for rank, _ in found] == ranks
    for rank in set(ranks):
        members = [i for i, r in enumerate(ranks) if r == rank]
        assert [-found[i][1] for i in members] == crowding_distances([points[i] for i in members])


def test_crowding_by_hand():
    # Ends are infinitely alone; the middle one: (4 - 0) / 4 on the first axis and (4 - 0) / 4 on the second.
    assert crowding_distances([(0, 4), (1, 1), (4, 0)]) == [inf, 4 / 4 + 4 / 4, inf]


@given(points_3d)
def test_hypervolume_counts_the_cells_that_some_point_dominates(points):
    reference = (7, 7, 7)
    cells = {
        (x, y, z) for x in range(7) for y in range(7) for z in range(7)
        if any(p[0] <= x and p[1] <= y and p[2] <= z for p in points)
    }  # fmt: skip
    assert hypervolume(points, reference) == pytest.approx(len(cells))


@given(points_2d, st.tuples(coordinate, coordinate))
def test_another_point_never_takes_volume_away(points, point):
    assert hypervolume([*points, point], (7, 7)) >= hypervolume(points, (7, 7)) - 1e-9


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_one_point_makes_a_box(axes):
    point, reference = [0.5, 1.0, 2.0, 3.0][:axes], [4.0] * axes
    assert hypervolume([point], reference) == pytest.approx(prod(4 - x for x in point))


def test_points_beyond_the_reference_add_nothing():
    assert hypervolume([(5, 0), (1, 1)], (4, 4)) == 3 * 3


def test_most_volume_prefers_the_middle_to_the_ends():
    # (0, 1) and (1, 0) are the ends; the middle alone dominates (1.1 - 0.2)² of the plane, an end 1.1 · 0.1
    points = [(0.0, 1.0), (0.2, 0.2), (1.0, 0.0)]
    assert most_volume(points, 1) == [1]
    assert sorted(most_volume(points, 9)) == [0, 1, 2]
    assert most_volume([], 3) == []
