"""Metrics of the confusion matrix: which class was taken for which.

A table is ``(C, C)`` int64 with labels as rows and predictions as columns, as ``counting.confusion`` gives it.
(Formulas that write C[p, g], the prediction first, mean ``table[g, p]`` here.)  For storage a table is its nonzero
cells, ``SparseConfusion``: tens of rows per image instead of C x C.

The soft metrics below give credit for near misses.  They belong beside mIoU, never in its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .counts import Counts, Int64
from .of_counts import Float, class_ids, mean_of_present, ratio

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SparseConfusion:
    """Nonzero cells of the tables of some images; each array ``(R,)`` int64, one entry per cell.

    ``image``: index of the image.  ``label``, ``prediction``: class ids in [0, C).  ``pixels``: the cell's count.
    Cells of one image and class pair given twice add.
    """

    image: Int64
    label: Int64
    prediction: Int64
    pixels: Int64

    @classmethod
    def stack(cls, parts: "Sequence[SparseConfusion]") -> "SparseConfusion":
        """Cells of N images, each from ``sparse``, as one: the cells of ``parts[i]`` get image index i.

        >>> both = SparseConfusion.stack([sparse(np.array([[3, 1], [0, 0]])), sparse(np.array([[0, 0], [2, 0]]))])
        >>> both.image, both.pixels
        (array([0, 0, 1]), array([3, 1, 2]))
        """
        image = np.repeat(np.arange(len(parts), dtype=np.int64), [len(p.pixels) for p in parts])
        cells = (np.concatenate([getattr(p, n) for p in parts]) for n in ("label", "prediction", "pixels"))
        return cls(image, *cells)


def sparse(table: "Int64 | Tensor") -> SparseConfusion:
    """Nonzero cells of one image's table ``(C, C)``, row by row, with image index 0.

    >>> cells = sparse(np.array([[3, 1], [0, 2]]))
    >>> cells.label, cells.prediction, cells.pixels
    (array([0, 0, 1]), array([0, 1, 1]), array([3, 1, 2]))
    """
    import torch  # here: metrics of stored cells are computed without it

    on_device = table if isinstance(table, torch.Tensor) else torch.from_numpy(np.array(table, np.int64))
    cells = on_device.nonzero()
    label, prediction = cells.T
    # One transfer of the few cells that count, not of the whole table.
    columns = torch.stack([torch.zeros_like(label), label, prediction, on_device[label, prediction]])
    return SparseConfusion(*columns.cpu().numpy())


def dense(rows: SparseConfusion, num_classes: int) -> Int64:
    """Table ``(C, C)`` int64 of all images together.  Raises ``ValueError`` for a class id outside [0, num_classes).

    >>> dense(sparse(np.array([[3, 1], [0, 2]])), 2)
    array([[3, 1],
           [0, 2]])
    """
    _check_ids(rows, num_classes)
    table = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(table, (rows.label, rows.prediction), rows.pixels)
    return table


def counts_of(rows: SparseConfusion, num_images: int, num_classes: int) -> Counts:
    """Per-image counts ``(N, C)``, exactly what ``counting.count`` gives; an image without cells counts nothing.

    Raises ``ValueError`` for a class id outside [0, num_classes) or an image index outside [0, num_images).

    >>> counts = counts_of(sparse(np.array([[3, 1], [0, 2]])), num_images=1, num_classes=2)
    >>> counts.tp, counts.gt, counts.pred
    (array([[3, 2]]), array([[4, 2]]), array([[3, 3]]))
    """
    _check_ids(rows, num_classes)
    if len(rows.image) and not 0 <= rows.image.min() <= rows.image.max() < num_images:
        raise ValueError(f"image index {rows.image.min()} to {rows.image.max()}, allowed is 0 to {num_images - 1}")
    right = rows.label == rows.prediction
    counts = Counts(*(np.zeros((num_images, num_classes), np.int64) for _ in range(3)))
    np.add.at(counts.tp, (rows.image[right], rows.label[right]), rows.pixels[right])
    np.add.at(counts.gt, (rows.image, rows.label), rows.pixels)
    np.add.at(counts.pred, (rows.image, rows.prediction), rows.pixels)
    return counts


def table_counts(table: Int64) -> Counts:
    """Counts ``(C,)`` of a table ``(C, C)``: its diagonal, row sums and column sums.

    >>> counts = table_counts(np.array([[3, 1], [0, 2]]))
    >>> counts.tp, counts.gt, counts.pred
    (array([3, 2]), array([4, 2]), array([3, 3]))
    """
    return Counts(table.diagonal().copy(), table.sum(axis=1), table.sum(axis=0))


def grouped(table: Int64, groups: Sequence[int]) -> Int64:
    """Table of class groups: class c counts as group ``groups[c]``; ``(C, C)`` -> ``(max(groups) + 1,) * 2``.

    Every metric applies to it through ``table_counts``; mIoU on it shows how much of the error lies inside groups.
    Raises ``ValueError`` unless each class has a group, none below 0.

    >>> grouped(np.array([[3, 1, 0], [2, 4, 0], [0, 5, 6]]), [0, 0, 1])
    array([[10,  0],
           [ 5,  6]])
    """
    if len(groups) != len(table) or min(groups) < 0:
        raise ValueError(f"groups must name a group from 0 for each of {len(table)} classes, got {list(groups)}")
    of_class = np.array(groups)
    out = np.zeros((max(groups) + 1,) * 2, np.int64)
    np.add.at(out, (of_class[:, None], of_class[None, :]), table)
    return out


def sg_iou(table: Int64, parents: Mapping[int, Sequence[int]]) -> Float:
    """SG-IoU per class (SCAN, CVPR 2024): predicting a parent of the labelled class earns part of the credit.

    Pixels of class c predicted as its parent f count with ``(n_cf + n_ff) / P_f``: the share of the P_f pixels
    predicted f that are f or c.  The union keeps the strict hits.  NaN for a class neither labelled nor predicted.
    Values stay within [0, 1] while a class's parents are distinct and do not hold the class itself; otherwise they may
    exceed 1 and are not clipped.  Raises ``ValueError`` for class ids out of range.

    >>> sea_water = np.array([[2, 2], [0, 6]])  # half of the sea is called water
    >>> sg_iou(sea_water, {0: [1]})  # weight (2 + 6) / 8 = 1: sea (2 + 1 * 2) / 4
    array([1.  , 0.75])
    """
    pairs = [(child, parent) for child, found in parents.items() for parent in found]
    child, parent = class_ids([c for pair in pairs for c in pair], len(table)).reshape(-1, 2).T
    counts = table_counts(table)
    near = table[child, parent]
    # A parent that is never predicted has weight 1 by definition; there `near` is 0 and the weight does not matter.
    weight = np.nan_to_num(ratio(near + counts.tp[parent], counts.pred[parent]), nan=1.0)
    hits = counts.tp.astype(np.float64)
    np.add.at(hits, child, weight * near)
    return ratio(hits, counts.gt + counts.pred - counts.tp)


def sg_miou(table: Int64, parents: Mapping[int, Sequence[int]]) -> Float:
    """Mean of ``sg_iou`` over classes labelled or predicted (detectron2's older rule: only predicted counts 0).

    >>> float(sg_miou(np.array([[2, 2], [0, 6]]), {0: [1]}))
    0.875
    """
    return mean_of_present(sg_iou(table, parents))


def soft_iou(table: Int64, similarity: Float) -> Float:
    """Soft IoU per class: a pixel of class c predicted p counts ``similarity[c, p]`` instead of 1 or 0.

    ``similarity`` ``(C, C)`` has labels as rows like the table, and ones on its diagonal.  The union keeps the strict
    hits.  NaN for a class neither labelled nor predicted.  Raises ``ValueError`` for another shape or diagonal.

    This is a generic soft IoU; it has not been checked against any published metric of similar intent.

    >>> soft_iou(np.array([[2, 2], [0, 6]]), np.array([[1, 0.5], [0.5, 1]]))  # (2 + 0.5 * 2) / 4
    array([0.75, 0.75])
    """
    if similarity.shape != table.shape or not np.allclose(similarity.diagonal(), 1):
        raise ValueError(f"similarity must be {table.shape} with ones on its diagonal, got {similarity.shape}")
    counts = table_counts(table)
    return ratio((table * similarity).sum(axis=1), counts.gt + counts.pred - counts.tp)


def soft_miou(table: Int64, similarity: Float) -> Float:
    """Mean of ``soft_iou`` over classes labelled or predicted.

    >>> float(soft_miou(np.array([[2, 2], [0, 6]]), np.array([[1, 0.5], [0.5, 1]])))
    0.75
    """
    return mean_of_present(soft_iou(table, similarity))


def _check_ids(rows: SparseConfusion, num_classes: int) -> None:
    """A negative id would silently count for a class from the end."""
    class_ids(
        [int(v) for ids in (rows.label, rows.prediction) if len(ids) for v in (ids.min(), ids.max())], num_classes
    )
