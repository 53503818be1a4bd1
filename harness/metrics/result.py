"""EvalResult: metrics of a set of per-image counts, with their uncertainty.  Percent throughout."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets import DatasetRecord
from . import of_counts as metrics
from .bootstrap import MIN_UNITS, Interval, Replicates, check_same_labels, interval_of
from .counts import Counts, ImageCounts
from .draws import drawn_miou, units_of
from .of_confusion import SparseConfusion, dense, grouped, sg_iou, table_counts
from .of_counts import Averaging, Float
from .over_images import over_classes, per_image

_WORST = 0.05
"""Share of images that worst-case means look at."""


@dataclass(frozen=True)
class EvalResult:
    """Result over ``len(ids)`` images.

    ``counts`` are per image, ``(N, C)``.  ``clusters`` ``(N,)`` are the units of the bootstrap.  ``planned`` is the
    number of images that the data set should have: with fewer the result is partial.  ``boundary`` are counts within
    boundary bands, ``(N, C)``, and ``confusion`` the confusion matrices (or their sum), if they were asked for.
    """

    record: DatasetRecord
    ids: tuple[str, ...]
    counts: ImageCounts
    clusters: NDArray[np.int64]
    planned: int
    averaging: Averaging = "mmseg"
    boundary: ImageCounts | None = None
    confusion: SparseConfusion | None = None

    @property
    def complete(self) -> bool:
        """Whether every image of the data set is in."""
        return len(self.ids) == self.planned

    @cached_property
    def _total(self) -> Counts:
        return self.counts.total()

    @property
    def miou(self) -> float:
        """mIoU in percent from the summed counts (never a mean over images); NaN without valid pixels."""
        return 100 * float(metrics.miou(self._total, self.averaging))

    @property
    def per_class(self) -> dict[str, float | None]:
        """IoU in percent by class; None for a class that is neither labelled nor predicted."""
        values = 100 * metrics.iou(self._total)
        return {name: None if math.isnan(v) else float(v) for name, v in zip(self.record.classes, values, strict=True)}

    @property
    def per_image(self) -> Float:
        """mIoU of each image in percent, ``(N,)``, over the classes labelled in it; NaN without valid pixels.

        With two classes a predicted class counts as present.
        """
        return 100 * per_image(self.counts, self._present)

    @property
    def _present(self) -> Averaging:
        return "mmseg" if len(self.record.classes) == 2 else "labelled"

    @property
    def units(self) -> int:
        """Units of the bootstrap: images, or clusters of dependent ones."""
        return len(np.unique(self.clusters))

    @cached_property
    def interval(self) -> Interval | None:
        """95 % bootstrap interval of ``miou`` in percent; None for fewer than ``bootstrap.MIN_UNITS`` units."""
        found = None if self._drawn is None else interval_of(self._drawn)
        return found and Interval(100 * found.low, 100 * found.high)

    @cached_property
    def _drawn(self) -> Float | None:
        """mIoU of every replicate, ``(B,)``; kept, as it is small and takes long."""
        if units_of(self.counts, self.clusters) < MIN_UNITS:
            return None
        return drawn_miou([self.counts], self.clusters, self.averaging)[0]

    @property
    def note(self) -> str:
        """What has to be said beside its numbers: 100 % means nothing where only one class is labelled."""
        labelled = np.flatnonzero(self._total.gt)
        if len(labelled) != 1:
            return ""
        name = self.record.classes[labelled[0]]
        return f"all scored pixels of {self.record.key} are of one class ({name}): painting everything so scores 100"

    @property
    def boundary_iou(self) -> float | None:
        """Mean Boundary IoU in percent, averaged as ``miou`` is; None unless its counts were asked for."""
        return None if self.boundary is None else 100 * float(metrics.miou(self.boundary.total(), self.averaging))

    def summary(self) -> dict[str, Any]:
        """All metrics as JSON values (NaN becomes None).  What each means: docs/protocols.md, metrics."""
        total = self._total
        values = {
            "miou": self.miou,
            "interval": None if self.interval is None else [self.interval.low, self.interval.high],
            "averaging": self.averaging,
            "classes_averaged": int(metrics.classes_averaged(total, self.averaging)),
            "aacc": 100 * float(metrics.pixel_accuracy(total)),
            "macc": 100 * float(metrics.mean_accuracy(total)),
            "fwiou": 100 * float(metrics.frequency_weighted_iou(total)),
            "miou_without_background": self._without_background(total),
            "boundary_iou": self.boundary_iou,
            **self._fine_grained(),
            **self._split(total),
            **self._from_confusion(),
            "per_class": self.per_class,
            "images": len(self.ids),
            "units": self.units,
            "complete": self.complete,
        }
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}

    def _fine_grained(self) -> dict[str, float]:
        """Means over images.

        ``metrics.of_counts`` says where the definitions are from.  With two classes their authors' code scores class 1
        alone; here both count.
        """
        images = per_image(self.counts, self._present)
        classes = over_classes(self.counts, _WORST, self._present)
        values = {
            "miou_per_image": float(np.nanmean(images)) if np.isfinite(images).any() else math.nan,
            "miou_over_classes": classes.mean,
            "worst5_per_image": float(metrics.mean_of_worst(images, _WORST)),
            "worst5_over_classes": classes.worst,
        }
        return {name: 100 * value for name, value in values.items()}

    def _split(self, total: Counts) -> dict[str, float]:
        """Metrics of some of the classes, where the record names them."""
        out = {}
        if self.record.classes_of_interest:
            out["coi_miou"] = 100 * float(metrics.coi_miou(total, self.record.classes_of_interest))
        if self.record.unseen:
            unseen = [self.record.classes.index(name) for name in self.record.unseen]
            found = metrics.harmonic_miou(total, unseen, self.averaging)
            pairs = (("seen_miou", found.seen), ("unseen_miou", found.unseen), ("hiou", found.harmonic))
            out.update({name: 100 * float(value) for name, value in pairs})
        return out

    def _from_confusion(self) -> dict[str, float]:
        """Metrics that give credit for near misses, where confusion was stored and the record says what is near."""
        if self.confusion is None:
            return {}
        classes, groups = len(self.record.classes), self.record.groups
        # A protocol may let a method answer "none of the classes": one more column, which is a miss and nothing else.
        size = max(classes, int(self.confusion.prediction.max(initial=0)) + 1)
        table = dense(self.confusion, size)
        out = {}
        if groups:
            kept = max(groups) + 1
            counts = table_counts(grouped(table, (*groups, *[kept] * (size - classes)))).first(kept)
            out["group_miou"] = 100 * float(metrics.miou(counts, self.averaging))
        if self.record.parents:
            values = sg_iou(table, self.record.parents)[:classes]
            out["sg_miou"] = 100 * float(metrics.mean_of_present(values))
        return out

    def _without_background(self, total: Counts) -> float | None:
        if self.record.background is None:
            return None
        kept = [np.delete(a, self.record.background) for a in (total.tp, total.gt, total.pred)]
        return 100 * float(metrics.miou(Counts(*kept), self.averaging))


def replicates_of_results(results: Mapping[str, EvalResult]) -> Replicates:
    """``replicates_of`` results of one column of a table, each drawn once however often it is asked.

    Raises ``UserError`` when they were scored on different labels.
    """
    every = list(results.values())
    check_same_labels([result.counts for result in every])
    estimates = {name: float(metrics.miou(result._total, result.averaging)) for name, result in results.items()}
    drawn = {name: result._drawn for name, result in results.items() if result._drawn is not None}
    return Replicates(estimates, drawn, units_of(every[0].counts, every[0].clusters))
