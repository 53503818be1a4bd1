"""From the counts of a sweep to its scores: every value over all images, the chosen one over the other half."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics.bootstrap import Difference, miou_interval, paired_difference
from ..metrics.counts import Counts
from ..metrics.halves import difference_of_differences, renumbered, tuning_half
from ..metrics.of_counts import Averaging, miou
from .sweep_record import Gap, Point, Score, SweptPair


@dataclass(frozen=True, eq=False)
class Halves:
    """Which images values are chosen on, ``(N,)`` bool, and the units of all, ``(N,)``."""

    tuning: NDArray[np.bool_]
    clusters: NDArray[np.int64]
    averaging: Averaging

    @classmethod
    def of(cls, clusters: NDArray[np.int64], averaging: Averaging) -> "Halves":
        """Raises ``UserError`` for a single unit."""
        return cls(tuning_half(clusters), clusters, averaging)

    def units(self, images: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Units of some images, counted from 0."""
        return renumbered(self.clusters[images])


@dataclass(frozen=True, eq=False)
class Scores:
    """A method's counts ``(N, T, C)`` under ascending ``values``."""

    counts: Counts
    values: tuple[float, ...]
    halves: Halves

    def under(self, value: float, images: NDArray[np.bool_]) -> Counts:
        """Counts ``(K, C)`` of some images under a value."""
        number = self.values.index(value)
        return Counts(*(a[images, number] for a in (self.counts.tp, self.counts.gt, self.counts.pred)))

    def score(self, value: float, images: NDArray[np.bool_]) -> Score:
        """mIoU of some images under a value."""
        counts, averaging = self.under(value, images), self.halves.averaging
        found = miou_interval(counts, self.halves.units(images), averaging)
        bounds = None if found is None else (100 * found.low, 100 * found.high)
        return Score(miou=_percent(float(miou(counts.total(), averaging))), interval=bounds)

    def points(self) -> tuple[Point, ...]:
        """Every value over all images."""
        everything = np.ones_like(self.halves.tuning)
        return tuple(Point(value=v, **self.score(v, everything).model_dump()) for v in self.values)

    def best(self, own: float) -> float:
        """The best value on the tuning half; of equal ones that nearest to ``own``, then the lowest."""
        totals = [self.under(v, self.halves.tuning).total() for v in self.values]
        found = [float(np.nan_to_num(miou(total, self.halves.averaging), nan=-1.0)) for total in totals]
        return min(zip(found, self.values, strict=True), key=lambda one: (-one[0], abs(one[1] - own), one[1]))[1]

    def tested(self, value: float) -> Counts:
        """Counts of the half to report on under a value."""
        return self.under(value, ~self.halves.tuning)

    def gain(self, value: float, own: float) -> Gap:
        """mIoU under ``value`` minus that under ``own``, on the half to report on."""
        return _gap_between(self.tested(value), self.tested(own), self.halves)


@dataclass(frozen=True, eq=False)
class Tuned:
    """A method's name, scores, and the values to compare it under."""

    method: str
    scores: Scores
    own: float
    best: float


def pair(one: Tuned, other: Tuned) -> SweptPair:
    """How two methods differ under their protocol's values and under their tuned ones."""
    halves = one.scores.halves
    own, best = (
        (one.scores.tested(a), other.scores.tested(b)) for a, b in ((one.own, other.own), (one.best, other.best))
    )
    units = halves.units(~halves.tuning)
    return SweptPair(
        method=one.method,
        against=other.method,
        at_own=_gap_between(*own, halves),
        at_tuned=_gap_between(*best, halves),
        of_value=_gap(difference_of_differences(own, best, units, halves.averaging)),
    )


def pairs_of(tuned: Sequence[Tuned]) -> tuple[SweptPair, ...]:
    """Every method against the first."""
    return tuple(pair(one, tuned[0]) for one in tuned[1:])


def _gap_between(a: Counts, b: Counts, halves: Halves) -> Gap:
    return _gap(paired_difference(a, b, halves.units(~halves.tuning), halves.averaging))


def _gap(found: Difference) -> Gap:
    bounds = None if found.interval is None else (100 * found.interval.low, 100 * found.interval.high)
    return Gap(estimate=_percent(found.estimate), interval=bounds, p_value=found.p_value)


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else 100 * value
