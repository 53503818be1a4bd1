"""EvalResult: metrics of a set of per-image counts, with their uncertainty.  Percent throughout."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import metrics
from .bootstrap import Interval, miou_interval
from .counting import Counts
from .metrics import Averaging


@dataclass(frozen=True)
class EvalResult:
    """Result over ``len(ids)`` images.

    ``counts`` are per image, ``(N, C)``.  ``clusters`` ``(N,)`` are the units of the bootstrap.  ``planned`` is the
    number of images that the data set should have: with fewer the result is partial.  ``boundary`` are counts within
    boundary bands, ``(N, C)``, if they were asked for.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    counts: Counts
    clusters: NDArray[np.int64]
    planned: int
    averaging: Averaging = "mmseg"
    background: int | None = None
    boundary: Counts | None = None

    @property
    def complete(self) -> bool:
        """Whether every image of the data set is in."""
        return len(self.ids) == self.planned

    @property
    def miou(self) -> float:
        """mIoU in percent from the summed counts (never a mean over images); NaN without valid pixels."""
        return 100 * float(metrics.miou(self.counts.total(), self.averaging))

    @property
    def per_class(self) -> dict[str, float | None]:
        """IoU in percent by class; None for a class that is neither labelled nor predicted."""
        values = 100 * metrics.iou(self.counts.total())
        return {name: None if math.isnan(v) else float(v) for name, v in zip(self.classes, values, strict=True)}

    @cached_property
    def interval(self) -> Interval | None:
        """95 % bootstrap interval of ``miou`` in percent; None for fewer than two units."""
        found = miou_interval(self.counts, self.clusters, self.averaging)
        return found and Interval(100 * found.low, 100 * found.high)

    @property
    def boundary_iou(self) -> float | None:
        """Mean Boundary IoU in percent, averaged as ``miou`` is; None unless its counts were asked for."""
        return None if self.boundary is None else 100 * float(metrics.miou(self.boundary.total(), self.averaging))

    def summary(self) -> dict[str, Any]:
        """All metrics as JSON values (NaN becomes None)."""
        total = self.counts.total()
        per_image = metrics.miou_per_image(self.counts)
        values = {
            "miou": self.miou,
            "interval": None if self.interval is None else [self.interval.low, self.interval.high],
            "averaging": self.averaging,
            "classes_averaged": int(metrics.classes_averaged(total, self.averaging)),
            "aacc": 100 * float(metrics.pixel_accuracy(total)),
            "macc": 100 * float(metrics.mean_accuracy(total)),
            "fwiou": 100 * float(metrics.frequency_weighted_iou(total)),
            "miou_per_image": 100 * float(np.nanmean(per_image)) if np.isfinite(per_image).any() else math.nan,
            "miou_without_background": self._without_background(total),
            "boundary_iou": self.boundary_iou,
            "per_class": self.per_class,
            "images": len(self.ids),
            "complete": self.complete,
        }
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}

    def _without_background(self, total: Counts) -> float | None:
        if self.background is None:
            return None
        kept = [np.delete(a, self.background) for a in (total.tp, total.gt, total.pred)]
        return 100 * float(metrics.miou(Counts(*kept), self.averaging))
