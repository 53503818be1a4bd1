"""count: the only place where pixels become counts.

Counts are exact int64.  ``count_reference`` says what is counted; ``confusion`` is one histogram without a mask:
ignored pixels fall into rows of the table that are dropped.  ``count`` adds runs of equal pixels in a compiled kernel,
or takes the sums of that table (``docs/design/count.md``).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...methods import UserError
from ..native.door import kernels
from .counts import Counts as Counts
from .counts import Int64 as Int64
from .of_confusion import SparseConfusion, counts_of, sparse

_TYPES = {torch.uint8, torch.int16, torch.int32, torch.int64}
"""What the compiled kernel tells apart by their number of bytes."""
_TABLE_CLASSES = 1024
"""Classes up to which a whole table of an image is at most 8 MB."""


def count(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> Counts:
    """Counts of one image.

    ``prediction`` and ``label`` are integer maps of the same shape, on one device; predictions lie in
    [0, num_classes), labels there or at ``ignore_index``.

    Raises ``UserError`` for any other label value and ``ValueError`` for any other prediction or a wrong shape.
    """
    counts = _count_runs(prediction, label, num_classes, ignore_index)
    if counts or num_classes <= _TABLE_CLASSES:
        return counts or tally(confusion(prediction, label, num_classes, ignore_index))
    return tally_cells(count_cells(prediction, label, num_classes, ignore_index), num_classes)


def _count_runs(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int) -> Counts | None:
    """Counts by the compiled kernel; None where it cannot count, or where a value is not allowed."""
    library, both = kernels(), [m.int() if m.dtype == torch.uint16 else m for m in (prediction, label)]
    known = all(m.device.type == "cpu" and m.dtype in _TYPES for m in both)
    # ``confusion`` makes labels int32.
    if library is None or not known or prediction.shape != label.shape or abs(ignore_index) >= 2**31:
        return None
    maps, found = [m.contiguous() for m in both], np.zeros((3, num_classes), np.int64)
    values = [part for m in maps for part in (m.data_ptr(), m.element_size())]
    failed = library.ovss_count(*values, label.numel(), num_classes, ignore_index, found.ctypes.data)
    return None if failed else Counts(*found)


def tally(table: Tensor) -> Counts:
    """Counts of a confusion matrix ``(C, C)``, rows are labels."""
    tp, gt, pred = table.diagonal(), table.sum(dim=1), table.sum(dim=0)
    return Counts(*(t.cpu().numpy().copy() for t in (tp, gt, pred)))


def tally_cells(cells: SparseConfusion, num_classes: int) -> Counts:
    """Counts of the cells of one image."""
    counts = counts_of(cells, 1, num_classes)
    return Counts(counts.tp[0], counts.gt[0], counts.pred[0])


def count_cells(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> SparseConfusion:
    """Nonzero cells of the confusion matrix of one image.  Same contract as ``count``.

    For many classes there is no table: pixels are taken run by run.
    """
    if num_classes <= _TABLE_CLASSES:
        return sparse(confusion(prediction, label, num_classes, ignore_index))
    _check_shapes(prediction, label)
    _check_predictions(prediction, num_classes)
    runs, lengths = torch.unique_consecutive(label.long() * num_classes + prediction.long(), return_counts=True)
    pairs, which = torch.unique(runs, return_inverse=True)
    labels = pairs.div(num_classes, rounding_mode="floor")
    _check_labels(labels, num_classes, ignore_index)
    pixels = torch.zeros_like(pairs).index_add_(0, which, lengths)
    kept = labels != ignore_index
    cells = torch.stack([torch.zeros_like(pairs), labels, pairs % num_classes, pixels])[:, kept]
    return SparseConfusion(*cells.cpu().numpy())


def confusion(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Confusion matrix ``(C, C)`` int64, rows are labels and columns predictions.  Same contract as ``count``."""
    _check_shapes(prediction, label)
    rows = max(256, num_classes)
    if label.dtype != torch.uint8:
        label = label.int()
        _check_labels(label, num_classes, ignore_index)
        # One extra row for ignored pixels: 65535 rows of 847 classes would be a table of half a gigabyte.
        label = torch.where(label == ignore_index, num_classes, label)
        ignore_index, rows = num_classes, num_classes + 1
    # `label * C + prediction` cannot tell a prediction of C from the next label's 0, so the range is checked first.
    _check_predictions(prediction, num_classes)
    index = label.int().mul_(num_classes).add_(prediction)
    table = torch.bincount(index.reshape(-1), minlength=rows * num_classes).view(rows, num_classes)
    outside = table[num_classes:].sum(dim=1).nonzero()[:, 0] + num_classes
    wrong_values = [v for v in outside.tolist() if v != ignore_index]
    if wrong_values:
        raise UserError(_bad_label(wrong_values, num_classes))
    if 0 <= ignore_index < num_classes:
        table[ignore_index] = 0
    return table[:num_classes]


def count_reference(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> Counts:
    """What ``count`` computes, class by class."""
    valid = label != ignore_index
    predicted, labelled = prediction[valid].long(), label[valid].long()
    classes = range(num_classes)
    tp = np.array([int(((predicted == c) & (labelled == c)).sum()) for c in classes], np.int64)
    gt = np.array([int((labelled == c).sum()) for c in classes], np.int64)
    pred = np.array([int((predicted == c).sum()) for c in classes], np.int64)
    return Counts(tp, gt, pred)


def count_boundary(
    prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255, ratio: float = 0.02
) -> Counts:
    """Counts within the inner boundary bands of each class (Cheng et al., CVPR 2021).

    Bands are those of bowenc0221/boundary-iou-api, boundary_iou/utils/boundary_utils.py.  The band of a class is what
    an erosion by ``d = max(1, round(ratio * diagonal))`` px removes from its mask; outside of the image counts as
    another class.  Predictions are set to "ignore" where the label is, before bands are taken.  ``tp`` is the
    intersection of the two bands, so ``tp / (gt + pred - tp)`` is the class's Boundary IoU.

    Two halves of a picture of 4 x 6 px, predicted one column too far to the right.  The bands are 1 px wide, so each
    labelled half of 4 x 3 px loses its 2 inner pixels; 8 and 6 pixels of bands agree:

    >>> label = torch.tensor([[0, 0, 0, 1, 1, 1]] * 4)
    >>> counts = count_boundary(torch.tensor([[0, 0, 0, 0, 1, 1]] * 4), label, num_classes=2)
    >>> counts.tp, counts.gt, counts.pred
    (array([8, 6]), array([10, 10]), array([12,  8]))
    """
    count(prediction, label, num_classes, ignore_index)  # refuses wrong values
    height, width = label.shape
    distance = max(1, round(ratio * (height**2 + width**2) ** 0.5))
    ignored = label == ignore_index
    out = np.zeros((3, num_classes), np.int64)
    present = torch.cat([prediction[~ignored].long().unique(), label[~ignored].long().unique()]).unique()
    for c in present.tolist():
        masks = torch.stack([(prediction == c) & ~ignored, (label == c) & ~ignored])
        predicted, labelled = _inner_band(masks, distance)
        out[:, c] = [int((predicted & labelled).sum()), int(labelled.sum()), int(predicted.sum())]
    return Counts(*out)


def _inner_band(masks: Tensor, distance: int) -> Tensor:
    """Pixels of each mask ``(N, H, W)`` within ``distance`` (Chebyshev) of its outside."""
    outside = F.pad((~masks).float()[None], (distance,) * 4, value=1.0)
    side = 2 * distance + 1  # a square's maximum is that of its columns' maxima, and 2 * side is less than side * side
    near_outside = F.max_pool2d(F.max_pool2d(outside, (side, 1), stride=1), (1, side), stride=1)[0] > 0
    return masks & near_outside


def _check_shapes(prediction: Tensor, label: Tensor) -> None:
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape")


def _check_predictions(prediction: Tensor, num_classes: int) -> None:
    if prediction.numel() and (int(prediction.max()) >= num_classes or int(prediction.min()) < 0):
        raise ValueError(f"predictions reach {int(prediction.max())}, allowed is 0 to {num_classes - 1}")


def _check_labels(label: Tensor, num_classes: int, ignore_index: int) -> None:
    wrong = label[((label < 0) | (label >= num_classes)) & (label != ignore_index)]
    if wrong.numel():
        raise UserError(_bad_label(wrong.unique().tolist(), num_classes))


def _bad_label(values: list[int], num_classes: int) -> str:
    shown = ", ".join(str(v) for v in values[:8]) + (" ..." if len(values) > 8 else "")
    return f"label values {shown} are neither a class (0 to {num_classes - 1}) nor the ignore value"
