"""Metrics: pure functions of counts.

Every function takes ``Counts`` whose arrays are ``(..., C)`` and works over the last axis, so one call serves a data
set, every image of it, or every bootstrap replicate.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .counting import Counts, Int64

Float = NDArray[np.float64]
Averaging = Literal["mmseg", "labelled"]


def iou(counts: Counts) -> Float:
    """Intersection over union per class, NaN where a class is neither labelled nor predicted.

    >>> c = Counts(np.array([2, 1, 0, 0]), np.array([2, 2, 0, 0]), np.array([2, 1, 1, 0]))
    >>> iou(c)
    array([1. , 0.5, 0. , nan])
    """
    return _ratio(counts.tp, counts.gt + counts.pred - counts.tp)


def miou(counts: Counts, averaging: Averaging = "mmseg") -> Float:
    """Mean IoU.

    ``mmseg``: over classes that are labelled or predicted (a class that is only predicted counts 0), the rule of mmseg
    and of detectron2's older evaluator.  ``labelled``: over labelled classes only (detectron2's newer evaluator).

    >>> c = Counts(np.array([2, 1, 0, 0]), np.array([2, 2, 0, 0]), np.array([2, 1, 1, 0]))
    >>> float(miou(c)), float(miou(c, "labelled"))
    (0.5, 0.75)
    """
    values = iou(counts)
    return _mean(np.where(counts.gt > 0, values, np.nan) if averaging == "labelled" else values)


def mean_accuracy(counts: Counts) -> Float:
    """mAcc: mean over labelled classes of the share of their pixels that is found."""
    return _mean(_ratio(counts.tp, counts.gt))


def pixel_accuracy(counts: Counts) -> Float:
    """aAcc: share of all valid pixels that is right."""
    return _ratio(counts.tp.sum(axis=-1), counts.gt.sum(axis=-1))


def frequency_weighted_iou(counts: Counts) -> Float:
    """fwIoU: IoU weighted by the share of labelled pixels."""
    weight = _ratio(counts.gt, counts.gt.sum(axis=-1, keepdims=True))
    return np.asarray((weight * np.nan_to_num(iou(counts))).sum(axis=-1))


def miou_per_image(counts: Counts) -> Float:
    """mIoU of every image, ``(N, C)`` counts -> ``(N,)``: the mean over the classes labelled in that image.

    Its mean over images is mIoU^I of "Revisiting Evaluation Metrics for Semantic Segmentation" (NeurIPS 2023).  An
    image without valid pixels is NaN.
    """
    return miou(counts, "labelled")


def classes_averaged(counts: Counts, averaging: Averaging = "mmseg") -> NDArray[np.int64]:
    """How many classes enter the mean of ``miou``: to be shown beside it."""
    used = counts.gt if averaging == "labelled" else counts.gt + counts.pred
    return np.asarray((used > 0).sum(axis=-1))


def _mean(values: Float) -> Float:
    """Mean over the last axis without NaN; NaN where nothing is left."""
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))


def _ratio(part: Int64 | Float, whole: Int64) -> Float:
    """``part / whole``, NaN where ``whole`` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
