"""Means over very many images: the numbers of ``of_counts``, from counts that are read in blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .counts import ImageCounts
from .of_counts import Averaging, Float, iou_of_contained, mean_of_lowest, mean_of_present, miou_per_image

_VALUES = 1 << 22
"""IoUs of images that are ranked at once."""


@dataclass(frozen=True)
class OverClasses:
    """``miou_per_class`` and ``worst_case_miou_per_class``."""

    mean: float
    worst: float


def per_image(counts: ImageCounts, averaging: Averaging) -> Float:
    """``miou_per_image``, ``(N,)``."""
    return np.concatenate([miou_per_image(block, averaging) for block in counts.blocks()])


def over_classes(counts: ImageCounts, share: float, averaging: Averaging) -> OverClasses:
    """Means over classes of the mean IoU over the images with the class: all of them, and the worst ``share``.

    Each class needs its IoUs of all images, sorted; some classes are done at a time.
    """
    found: list[tuple[Float, Float]] = []
    for classes in _groups(_contained(counts, averaging)):
        values: list[list[Float]] = [[] for _ in classes]
        for block in counts.blocks():
            columns = iou_of_contained(block, averaging)[:, classes.start : classes.stop]
            for mine, column in zip(values, columns.T, strict=True):
                mine.append(column[~np.isnan(column)])
        found += [_means(mine, len(counts), share) for mine in values]
    means = np.array(found, np.float64).T
    return OverClasses(*(float(mean_of_present(row)) for row in means))


def _means(values: Sequence[Float], images: int, share: float) -> tuple[Float, Float]:
    """Mean of all and of the worst; numpy's sums depend on the length, so there is a NaN for every other image."""
    ranked = np.full(images, np.nan)
    kept = np.sort(np.concatenate(values))
    ranked[: len(kept)] = kept
    return mean_of_lowest(ranked, 1.0), mean_of_lowest(ranked, share)


def _contained(counts: ImageCounts, averaging: Averaging) -> list[int]:
    """How many images contain each class."""
    if averaging == "labelled":
        return [int(n) for n in counts.labelled()]
    return [int(n) for n in sum(((b.gt + b.pred) > 0).sum(axis=0) for b in counts.blocks())]


def _groups(sizes: Sequence[int]) -> list[range]:
    """Neighbouring classes that have at most ``_VALUES`` images together, or one class with more."""
    found, start = [], 0
    for k in range(1, len(sizes) + 1):
        if k == len(sizes) or sum(sizes[start : k + 1]) > _VALUES:
            found.append(range(start, k))
            start = k
    return found
