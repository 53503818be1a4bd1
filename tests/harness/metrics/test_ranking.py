"""Mean, Borda rank and its interval, by hand."""

import numpy as np
import pytest

from ovss.harness.metrics.counts import Counts
from ovss.harness.metrics.ranking import Scored, borda_points, shared_ranks, standings


def counted(right: list[int], size: int = 10) -> Counts:
    """One class, ``size`` pixels an image, all predicted as it where right: IoU is the share of right pixels."""
    tp = np.array(right)[:, None]
    return Counts(tp, np.full_like(tp, size), tp)


def test_three_methods_on_two_data_sets() -> None:
    """First: 0.9, 0.5, 0.1; second: 0.4, 0.6, 0.2.  Points: 2 + 1, 1 + 2, 0."""
    first = Scored([counted([9, 9]), counted([5, 5]), counted([1, 1])])
    second = Scored([counted([4]), counted([6]), counted([2])])
    found = standings([first, second])
    assert [s.mean for s in found] == pytest.approx([0.65, 0.55, 0.15])
    assert [s.rank for s in found] == [1, 1, 3]
    assert [s.interval for s in found] == [None] * 3  # two images and one


def test_ties_share_points_and_ranks() -> None:
    points = borda_points(np.array([[0.5], [0.5], [0.2]]))
    assert points.tolist() == [1.5, 1.5, 0.0] and shared_ranks(points).tolist() == [1, 1, 3]


def test_intervals_of_what_is_sure_and_of_what_is_not() -> None:
    """A is better on every image; B and C win on half of the images each, by as much."""
    halves = [2, 6] * 10
    data = Scored([counted([9] * 20), counted(halves), counted(halves[::-1])])
    found = standings([data])
    assert found[0].interval == (1, 1) and found[1].interval == found[2].interval == (2, 3)
    assert found == standings([data])  # a fixed seed


def test_equal_methods_stay_equal_in_every_draw() -> None:
    """They get the same draws."""
    same = counted(list(range(10)) * 2)
    assert [s.interval for s in standings([Scored([same, same])])] == [(1, 1), (1, 1)]


def test_units_are_clusters() -> None:
    counts = [counted([9] * 20), counted([5] * 20)]
    assert standings([Scored(counts, np.arange(20) // 4)])[0].interval is None
    assert standings([Scored(counts, np.arange(20) // 2)])[0].interval == (1, 1)
