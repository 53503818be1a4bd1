"""Two halves of a data set: a value is chosen on one and reported on the other, so that no result is its own judge."""

import numpy as np
from numpy.typing import NDArray

from ...methods import UserError
from .bootstrap import MIN_UNITS, Difference, Interval
from .counts import Counts
from .draws import SEED, cluster_counts, draw_weights, replicate_miou
from .of_counts import Averaging, miou


def tuning_half(clusters: NDArray[np.int64], seed: int = SEED) -> NDArray[np.bool_]:
    """Images of the half to choose on, ``(N,)``: units of the bootstrap are drawn, never parts of one.

    The other half is to report on; it has one unit more where their number is odd.  Raises ``UserError`` for one unit.
    """
    units = np.unique(clusters)
    if len(units) < 2:
        raise UserError(
            f"{len(clusters)} images of one unit cannot be split into a half to choose on and one to report on: take "
            "more images (--limit)"
        )
    drawn = np.random.default_rng(seed).permutation(units)[: len(units) // 2]
    return np.isin(clusters, drawn)


def renumbered(clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """The units of some images, counted from 0."""
    return np.unique(clusters, return_inverse=True)[1].astype(np.int64)


def difference_of_differences(
    first: tuple[Counts, Counts],
    second: tuple[Counts, Counts],
    clusters: NDArray[np.int64],
    averaging: Averaging = "mmseg",
) -> Difference:
    """``(mIoU a - mIoU b) - (mIoU c - mIoU d)`` of ``(a, b), (c, d)`` on the same images, all under the same draws.

    Without a p value.
    """
    signed = list(zip((*first, *second), (1, -1, -1, 1), strict=True))
    estimate = sum(sign * float(miou(counts.total(), averaging)) for counts, sign in signed)
    units = [(cluster_counts(counts, clusters), sign) for counts, sign in signed]
    size = len(units[0][0].tp)
    if size < MIN_UNITS:
        return Difference(estimate, None, None, size)
    weights = draw_weights(size)
    drawn = np.sum([sign * replicate_miou(counts, weights, averaging) for counts, sign in units], axis=0)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Difference(estimate, Interval(float(low), float(high)), None, size)
