"""Order of methods over several data sets: mean and Borda rank, from counts.

A method gets a point for each method that it beats on a data set, half a point for each that it ties with; more points
are a better rank, equal points share one (1, 1, 3).  The interval of a rank is a bootstrap over units (images, or
clusters of dependent ones) within every data set, drawn alike for all methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bootstrap import MIN_UNITS
from .counts import ImageCounts
from .draws import REPLICATES, SEED, drawn_miou, units_of
from .of_counts import Averaging, Float, miou


@dataclass(frozen=True)
class Scored:
    """One data set: ``counts`` ``(N, C)`` of every method on the same images, ``clusters`` ``(N,)`` or None."""

    counts: Sequence[ImageCounts]
    clusters: NDArray[np.int64] | None = None
    averaging: Averaging = "mmseg"


@dataclass(frozen=True)
class Standing:
    """``mean`` mIoU (0 to 1), ``rank`` from 1, and its 95 % interval; None if a data set has too few units."""

    mean: float
    rank: int
    interval: tuple[int, int] | None


def borda_points(scores: Float) -> Float:
    """Points of every method: scores ``(..., M, D)`` -> ``(..., M)``.

    >>> borda_points(np.array([[0.5, 0.4], [0.3, 0.4], [0.1, 0.6]]))
    array([2.5, 1.5, 2. ])
    """
    mine, others = scores[..., :, None, :], scores[..., None, :, :]
    points = (mine > others).sum(axis=(-2, -1)) + 0.5 * (mine == others).sum(axis=(-2, -1))
    return np.asarray(points - 0.5 * scores.shape[-1])  # each ties with itself


def shared_ranks(points: Float) -> NDArray[np.int64]:
    """Rank of every method, ``(..., M)``: one more than the number of methods with more points.

    >>> shared_ranks(np.array([2.0, 3.0, 2.0, 1.0]))
    array([2, 1, 2, 4])
    """
    return np.asarray(1 + (points[..., None, :] > points[..., :, None]).sum(axis=-1), np.int64)


def standings(datasets: Sequence[Scored], replicates: int = REPLICATES, seed: int = SEED) -> list[Standing]:
    """Standing of every method over one data set or more, each with all methods in one order."""
    scores = np.array([[miou(c.total(), data.averaging) for c in data.counts] for data in datasets]).T
    ranks = shared_ranks(borda_points(scores))
    bounds = _rank_bounds(datasets, replicates, seed)
    return [
        Standing(float(scores[k].mean()), int(ranks[k]), None if bounds is None else (bounds[0][k], bounds[1][k]))
        for k in range(len(scores))
    ]


def _rank_bounds(datasets: Sequence[Scored], replicates: int, seed: int) -> tuple[list[int], list[int]] | None:
    """Lowest and highest rank of every method that 95 % of the draws allow."""
    drawn = []
    for number, data in enumerate(datasets):
        if units_of(data.counts[0], data.clusters) < MIN_UNITS:
            return None
        # Data sets are drawn apart: one seed for all would tie their images together.
        drawn.append(drawn_miou(data.counts, data.clusters, data.averaging, replicates, seed + number).T)
    points = np.stack([borda_points(scores) for scores in np.stack(drawn, axis=-1)])  # one draw at a time: M x M x D
    ranks = shared_ranks(points)
    low = np.percentile(ranks, 2.5, axis=0, method="lower")
    high = np.percentile(ranks, 97.5, axis=0, method="higher")
    return [int(k) for k in low], [int(k) for k in high]
