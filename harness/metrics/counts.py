"""Counts: what was counted, as arrays.  ``counting`` says how pixels become counts; nothing here needs torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Pixels per class, over the pixels whose label is not ignored; each array ``(..., C)`` int64.

    ``tp``: prediction and label are the class.  ``gt``: the label is.  ``pred``: the prediction is.
    Counts of disjoint images add.
    """

    tp: Int64
    gt: Int64
    pred: Int64

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.gt + other.gt, self.pred + other.pred)

    @classmethod
    def stack(cls, counts: "Sequence[Counts]") -> "Counts":
        """Counts of N images, each ``(C,)``, as one ``(N, C)``."""
        return cls(*(np.stack([getattr(c, name) for c in counts]) for name in ("tp", "gt", "pred")))

    def first(self, classes: int) -> "Counts":
        """Counts of the first classes alone."""
        return Counts(self.tp[..., :classes], self.gt[..., :classes], self.pred[..., :classes])

    def at(self, images: NDArray[np.bool_]) -> "Counts":
        """Counts ``(K, C)`` of some images, chosen by a mask ``(N,)``."""
        return Counts(self.tp[images], self.gt[images], self.pred[images])

    def total(self) -> "Counts":
        """Sum over the first axis (images)."""
        return Counts(self.tp.sum(axis=0), self.gt.sum(axis=0), self.pred.sum(axis=0))
