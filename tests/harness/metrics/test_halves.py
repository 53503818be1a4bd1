"""Halves of a data set and differences of differences."""

import numpy as np
import pytest

from ovss.harness.metrics.bootstrap import paired_difference
from ovss.harness.metrics.counts import Counts
from ovss.harness.metrics.halves import difference_of_differences, renumbered, tuning_half
from ovss.methods import UserError


def counts(seed: int, right: float, images: int = 20) -> Counts:
    """Two classes of 100 pixels an image each; ``right`` is the share that is found."""
    rng = np.random.default_rng(seed)
    tp = rng.binomial(100, right, (images, 2))
    return Counts(tp, np.full_like(tp, 100), tp + (100 - tp)[:, ::-1])


def test_units_are_never_split() -> None:
    clusters = np.repeat(np.arange(9), [3, 1, 4, 1, 5, 9, 2, 6, 5])
    half = tuning_half(clusters)
    inside = {int(u) for u in clusters[half]}
    assert len(inside) == 4 and inside.isdisjoint({int(u) for u in clusters[~half]})


def test_the_halves_are_the_same_each_time_and_another_seed_gives_others() -> None:
    clusters = np.arange(40)
    half = tuning_half(clusters)
    assert half.sum() == 20 and np.array_equal(half, tuning_half(clusters))
    assert not np.array_equal(half, tuning_half(clusters, seed=1))


def test_a_single_unit_cannot_be_split() -> None:
    with pytest.raises(UserError, match="more images"):
        tuning_half(np.zeros(7, np.int64))


def test_units_are_counted_from_zero() -> None:
    assert renumbered(np.array([7, 2, 7, 9])).tolist() == [1, 0, 1, 2]


def test_a_difference_of_differences_by_hand() -> None:
    """IoU of both classes is tp / (200 - tp): 80 found are 2/3, 50 are 1/3, 100 are 1, 0 are 0."""

    def found(tp: int) -> Counts:
        one = np.full((10, 2), tp)
        return Counts(one, np.full_like(one, 100), np.full_like(one, 100))

    result = difference_of_differences((found(100), found(50)), (found(80), found(0)), np.arange(10))
    assert result.estimate == pytest.approx((1 - 1 / 3) - (2 / 3 - 0))
    assert result.interval is not None and result.interval.low == pytest.approx(0) == result.interval.high


def test_it_is_the_paired_difference_where_the_second_is_nothing() -> None:
    a, b, same = counts(0, 0.8), counts(1, 0.7), counts(2, 0.6)
    clusters = np.arange(20)
    one = difference_of_differences((a, b), (same, same), clusters)
    other = paired_difference(a, b, clusters)
    assert one.estimate == pytest.approx(other.estimate)
    assert one.interval is not None and other.interval is not None
    assert one.interval.low == pytest.approx(other.interval.low)
    assert one.interval.high == pytest.approx(other.interval.high)


def test_few_units_have_no_interval() -> None:
    a, b = counts(0, 0.8, 5), counts(1, 0.7, 5)
    assert difference_of_differences((a, b), (a, a), np.arange(5)).interval is None
