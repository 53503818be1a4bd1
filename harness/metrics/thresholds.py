"""Counts under many probability thresholds at once, from the class of every pixel and how probable it is.

Under a threshold a pixel keeps its class or becomes background.  So a histogram of the pixels of each class over the
intervals between thresholds holds the counts for all of them.  ``count`` on thresholded labels gives the same numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .counting import count
from .counts import Counts, Int64


def count_thresholds(
    prediction: Tensor,
    probability: Tensor,
    label: Tensor,
    thresholds: Sequence[float],
    background: int | None,
    num_classes: int,
    ignore_index: int = 255,
) -> Counts:
    """Counts ``(T, C)`` for ascending thresholds.

    A pixel becomes ``background`` where ``probability`` (float32) is below the threshold, both as float32; a threshold
    of 0 is off.  ``prediction``, ``label``, ``num_classes`` and ``ignore_index`` are those of ``count``, and so are the
    errors.  ``background`` None allows no threshold but 0.
    """
    if list(thresholds) != sorted(thresholds) or (background is None and any(thresholds)):
        raise ValueError("thresholds must ascend, and need a background")
    gt = count(prediction, label, num_classes, ignore_index).gt
    valid = label != ignore_index
    predicted, labelled = prediction[valid].long(), label[valid].long()
    passed = _passed(probability[valid], thresholds)
    right = predicted == labelled
    pred = _still(passed, predicted, len(thresholds), num_classes)
    tp = _still(passed[right], predicted[right], len(thresholds), num_classes)
    if background is not None:
        of_background = labelled == background
        pred[:, background] += _gone(passed, len(thresholds))
        tp[:, background] += _gone(passed[of_background], len(thresholds))
    return Counts(tp, np.broadcast_to(gt, tp.shape).copy(), pred)


def _passed(probability: Tensor, thresholds: Sequence[float]) -> Tensor:
    """How many of the thresholds each pixel passes, ``(N,)`` int64; all pass those that are 0."""
    off = sum(value == 0 for value in thresholds)
    # In float32, as ``decode`` compares a map with a number.
    edges = torch.tensor(list(thresholds)[off:], dtype=torch.float32, device=probability.device)
    return off + torch.bucketize(probability, edges, right=True)


def _still(passed: Tensor, predicted: Tensor, thresholds: int, num_classes: int) -> Int64:
    """Pixels of each predicted class that pass each threshold, ``(T, C)``."""
    table = torch.bincount(passed * num_classes + predicted, minlength=(thresholds + 1) * num_classes)
    counts = table.view(thresholds + 1, num_classes).cpu().numpy()
    return np.asarray(counts[1:][::-1].cumsum(axis=0)[::-1].copy())


def _gone(passed: Tensor, thresholds: int) -> Int64:
    """Pixels that do not pass each threshold, ``(T,)``."""
    counts = torch.bincount(passed, minlength=thresholds + 1).cpu().numpy()
    return np.asarray(counts[:-1].cumsum())
