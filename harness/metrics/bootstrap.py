"""How sure a number is: paired bootstrap over images, and the closed form it must agree with.

The unit is an image, or a cluster of dependent images (tiles of one photo, neighbouring frames of a drive).  The
bootstrap is that of Efron and Tibshirani, An Introduction to the Bootstrap (1993), with percentiles; both methods get
the same draws, and p = (1 + #{b: |delta_b - delta| >= |delta|}) / (B + 1).  Nothing here says anything about other
prompts, seeds or annotators.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...methods import UserError
from .counts import Counts, ImageCounts
from .draws import REPLICATES, SEED, drawn_iou, drawn_miou, units_of
from .of_counts import Averaging, Float, iou, miou

MIN_UNITS = 10
"""Fewest units for which an interval or a p value is given.  The percentile bootstrap draws from what was seen, so with
few units it is too sure: it never looks beyond the worst and the best of them, and its spread is too small by
``sqrt((n - 1) / n)`` (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 14; Hesterberg,
What Teachers Should Know About the Bootstrap, 2015).  What it covers with few units: docs/protocols.md."""
_RUNS_AT_ONCE = 16
"""Runs that are compared at once, so that their replicates stay in the cache."""


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """mIoU of A minus mIoU of B on the same images: estimate, 95 % interval, two-sided p value, number of units.

    Below ``MIN_UNITS`` there is no interval and no p value.
    """

    estimate: float
    interval: Interval | None
    p_value: float | None
    units: int


def why_no_interval(units: int) -> str:
    """The reason to print where an interval is missing; "" if there are enough units.

    >>> why_no_interval(2)
    'no interval: 2 units, 10 are needed'
    """
    if units >= MIN_UNITS:
        return ""
    return f"no interval: {units} unit{'' if units == 1 else 's'}, {MIN_UNITS} are needed"


def miou_interval(
    counts: ImageCounts,
    clusters: NDArray[np.int64] | None = None,
    averaging: Averaging = "mmseg",
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Interval | None:
    """Interval of the mIoU of ``(N, C)`` counts; None for fewer than ``MIN_UNITS``, or without valid pixels."""
    if units_of(counts, clusters) < MIN_UNITS:
        return None
    (drawn,) = drawn_miou([counts], clusters, averaging, replicates, seed)
    return interval_of(drawn)


def interval_of(drawn: Float) -> Interval | None:
    """Interval of the replicates of a value; None if all are NaN."""
    return None if np.isnan(drawn).all() else _percentiles(drawn)


@dataclass(frozen=True)
class Replicates:
    """Runs on the same images under the same draws: each is drawn once, however many pairs of them are compared.

    ``estimates`` are their mIoU, ``drawn`` those of all replicates, ``(B,)``; none below ``MIN_UNITS``.
    """

    estimates: Mapping[str, float]
    drawn: Mapping[str, Float]
    units: int

    @property
    def replicates(self) -> int:
        """B; 0 below ``MIN_UNITS``."""
        return len(next(iter(self.drawn.values()), ()))

    def difference(self, a: str, b: str) -> Difference:
        """The first minus the second."""
        estimate = self.estimates[a] - self.estimates[b]
        if not self.drawn:
            return Difference(estimate, None, None, self.units)
        interval = _percentiles(self.drawn[a] - self.drawn[b])
        return Difference(estimate, interval, self.p_values(a, [b])[b], self.units)

    def p_values(self, a: str, others: Sequence[str]) -> dict[str, float]:
        """The p value of the difference of ``a`` to each of the others; there must be replicates."""
        found: dict[str, float] = {}
        for start in range(0, len(others), _RUNS_AT_ONCE):
            names = others[start : start + _RUNS_AT_ONCE]
            estimates = np.array([self.estimates[a] - self.estimates[name] for name in names])
            deltas = self.drawn[a] - np.stack([self.drawn[name] for name in names])
            beyond = (np.abs(deltas - estimates[:, None]) >= np.abs(estimates)[:, None]).sum(axis=1)
            found |= {name: (1 + int(n)) / (deltas.shape[1] + 1) for name, n in zip(names, beyond, strict=True)}
        return found


def replicates_of(
    runs: Mapping[str, ImageCounts],
    clusters: NDArray[np.int64] | None = None,
    averaging: Averaging = "mmseg",
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Replicates:
    """Draw runs on the same images, in the same order (counts ``(N, C)``).

    Raises ``UserError`` when they were scored on different labels.
    """
    names, counts = list(runs), list(runs.values())
    check_same_labels(counts)
    estimates = {name: float(miou(one.total(), averaging)) for name, one in runs.items()}
    units = units_of(counts[0], clusters)
    drawn: Iterable[Float] = drawn_miou(counts, clusters, averaging, replicates, seed) if units >= MIN_UNITS else ()
    return Replicates(estimates, dict(zip(names, drawn, strict=False)), units)


def check_same_labels(counts: Sequence[ImageCounts]) -> None:
    """Raise ``UserError`` for runs that were scored on different labels."""
    if not all(map(partial(_same_labels, counts[0]), counts[1:])):
        raise UserError("the runs were not scored on the same labels: were label files edited?  Repeat with --fresh")


def _same_labels(a: ImageCounts, b: ImageCounts) -> bool:
    return len(a) == len(b) and all(np.array_equal(x.gt, y.gt) for x, y in zip(a.blocks(), b.blocks(), strict=True))


def paired_difference(
    a: ImageCounts,
    b: ImageCounts,
    clusters: NDArray[np.int64] | None = None,
    averaging: Averaging = "mmseg",
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Difference:
    """Compare two methods on the same images, in the same order (counts ``(N, C)``)."""
    return replicates_of({"a": a, "b": b}, clusters, averaging, replicates, seed).difference("a", "b")


def class_differences(
    a: ImageCounts,
    b: ImageCounts,
    clusters: NDArray[np.int64] | None = None,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> tuple[Float, Float | None]:
    """IoU of A minus that of B for every class, ``(C,)``, and its 95 % bounds, ``(2, C)``; NaN where one has no IoU.

    Below ``MIN_UNITS`` there are no bounds.
    """
    estimate = iou(a.total()) - iou(b.total())
    if units_of(a, clusters) < MIN_UNITS:
        return estimate, None
    drawn_a, drawn_b = drawn_iou([a, b], clusters, replicates, seed)
    deltas = drawn_a - drawn_b
    bounds = np.full((2, len(estimate)), np.nan)
    known = ~np.isnan(deltas).all(axis=0)
    bounds[:, known] = np.nanpercentile(deltas[:, known], [2.5, 97.5], axis=0)
    return estimate, bounds


def delta_standard_error(a: Counts, b: Counts | None = None) -> float:
    """Standard error of mIoU, or of its difference to ``b``, by the delta method; counts ``(N, C)``.

    With the influences d_i of the units (``_influence``, of two methods their difference) it is
    ``sqrt(N / (N - 1) sum_i (d_i - mean d)^2)``.
    """
    influence = _influence(a) - (0.0 if b is None else _influence(b))
    units = len(influence)
    if units < 2:
        return float("nan")
    return float(np.sqrt(units / (units - 1) * ((influence - influence.mean()) ** 2).sum()))


def _influence(counts: Counts) -> Float:
    """``psi_i = (1 / K) sum_c (I_ic - IoU_c U_ic) / U_c`` for every unit, ``(N,)``."""
    total = counts.total()
    union, value = total.gt + total.pred - total.tp, iou(total)
    used = union > 0
    own_union = (counts.gt + counts.pred - counts.tp)[:, used]
    terms = (counts.tp[:, used] - value[used] * own_union) / union[used]
    return np.asarray(terms.sum(axis=1) / used.sum())


def _percentiles(values: Float) -> Interval:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))
