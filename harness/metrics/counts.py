"""Counts: what was counted, as arrays.  ``counting`` says how pixels become counts; nothing here needs torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
BLOCK = 1 << 12
"""Images that are worked on at once where a data set may have very many."""


class ImageCounts(Protocol):
    """Counts of N images, ``(N, C)``, in memory (``Counts``) or on disk.

    ``blocks`` gives them in order, ``BLOCK`` images at a time, as often as it is asked.  ``tp``, ``gt`` and ``pred``
    hold all at once.
    """

    @property
    def tp(self) -> Int64: ...
    @property
    def gt(self) -> Int64: ...
    @property
    def pred(self) -> Int64: ...
    @property
    def classes(self) -> int: ...
    def __len__(self) -> int: ...
    def blocks(self) -> "Iterator[Counts]": ...
    def total(self) -> "Counts": ...
    def at(self, images: NDArray[np.bool_]) -> "ImageCounts": ...
    def labelled(self) -> Int64: ...


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

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def classes(self) -> int:
        """How many classes are counted."""
        return self.tp.shape[-1]

    def blocks(self) -> "Iterator[Counts]":
        """Counts ``(N, C)`` in pieces of at most ``BLOCK`` images, one at least."""
        for start in range(0, max(1, len(self)), BLOCK):
            yield Counts(*(a[start : start + BLOCK] for a in (self.tp, self.gt, self.pred)))

    def labelled(self) -> Int64:
        """How many images are labelled with each class, ``(C,)``."""
        return np.asarray((self.gt > 0).sum(axis=0))

    def first(self, classes: int) -> "Counts":
        """Counts of the first classes alone."""
        return Counts(self.tp[..., :classes], self.gt[..., :classes], self.pred[..., :classes])

    def at(self, images: NDArray[np.bool_]) -> "Counts":
        """Counts ``(K, C)`` of some images, chosen by a mask ``(N,)``."""
        return Counts(self.tp[images], self.gt[images], self.pred[images])

    def total(self) -> "Counts":
        """Sum over the first axis (images)."""
        return Counts(self.tp.sum(axis=0), self.gt.sum(axis=0), self.pred.sum(axis=0))
