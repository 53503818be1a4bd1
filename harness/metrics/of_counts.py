"""Metrics: pure functions of counts.

Every function takes ``Counts`` whose arrays are ``(..., C)`` and works over the last axis, so one call serves a data
set, every image of it, or every bootstrap replicate.  Only the means over images, ``miou_per_class`` and the worst
cases, need ``(N, C)``: one row per image.  Values lie in [0, 1]; what is undefined is NaN and left out of means.

IoU, accuracies and which classes a mean is over: open-mmlab/mmsegmentation 1.2.2,
mmseg/evaluation/metrics/iou_metric.py.  Means over images and worst cases: Wang et al., "Revisiting Evaluation Metrics
for Semantic Segmentation", NeurIPS 2023 Datasets and Benchmarks; code zifuwanggg/JDTLosses, metrics/miouic_metric.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .counts import Counts, Int64

Float = NDArray[np.float64]
Averaging = Literal["mmseg", "labelled"]


@dataclass(frozen=True)
class HarmonicMIoU:
    """mIoU over the seen classes, over the unseen ones, and the harmonic mean of the two; each ``(...)`` float64."""

    seen: Float
    unseen: Float
    harmonic: Float


def iou(counts: Counts) -> Float:
    """Intersection over union per class, NaN where a class is neither labelled nor predicted.

    >>> c = Counts(np.array([2, 1, 0, 0]), np.array([2, 2, 0, 0]), np.array([2, 1, 1, 0]))
    >>> iou(c)
    array([1. , 0.5, 0. , nan])
    """
    return ratio(counts.tp, counts.gt + counts.pred - counts.tp)


def miou(counts: Counts, averaging: Averaging = "mmseg") -> Float:
    """Mean IoU.

    ``mmseg``: over classes that are labelled or predicted (a class that is only predicted counts 0), the rule of mmseg
    and of detectron2's older evaluator.  ``labelled``: over labelled classes only (detectron2's newer evaluator).

    >>> c = Counts(np.array([2, 1, 0, 0]), np.array([2, 2, 0, 0]), np.array([2, 1, 1, 0]))
    >>> float(miou(c)), float(miou(c, "labelled"))
    (0.5, 0.75)
    """
    return mean_of_present(iou_of_contained(counts, averaging))


def dice(counts: Counts) -> Float:
    """Dice (F1) per class, ``2 tp / (pred + gt)``, NaN where a class is neither labelled nor predicted.

    >>> c = Counts(np.array([2, 1, 0, 0]), np.array([2, 3, 0, 0]), np.array([3, 1, 1, 0]))
    >>> dice(c)
    array([0.8, 0.5, 0. , nan])
    """
    return ratio(2 * counts.tp, counts.gt + counts.pred)


def precision(counts: Counts) -> Float:
    """Share of a class's predicted pixels that are right, NaN where it is never predicted.

    >>> c = Counts(np.array([3, 1, 0, 0]), np.array([3, 2, 0, 1]), np.array([4, 1, 1, 0]))
    >>> precision(c)
    array([0.75, 1.  , 0.  ,  nan])
    """
    return ratio(counts.tp, counts.pred)


def recall(counts: Counts) -> Float:
    """Share of a class's labelled pixels that are found (its accuracy), NaN where it is never labelled.

    >>> c = Counts(np.array([3, 1, 0, 0]), np.array([3, 2, 0, 1]), np.array([4, 1, 1, 0]))
    >>> recall(c)
    array([1. , 0.5, nan, 0. ])
    """
    return ratio(counts.tp, counts.gt)


def coi_miou(counts: Counts, classes_of_interest: Sequence[int]) -> Float:
    """CoI-mIoU of MESS: mean IoU over the classes of interest that are labelled or predicted.

    Only labelled ones add to the sum; one that is only predicted has IoU 0 and lowers the mean.  Raises ``ValueError``
    for class ids out of range or given twice.

    >>> c = Counts(np.array([2, 1, 0, 0]), np.array([2, 2, 0, 0]), np.array([2, 1, 1, 0]))
    >>> float(coi_miou(c, [1, 2, 3]))  # IoU 1/2, 0 and undefined
    0.25
    """
    return miou(_select(counts, classes_of_interest))


def harmonic_miou(counts: Counts, unseen: Sequence[int], averaging: Averaging = "mmseg") -> HarmonicMIoU:
    """hIoU of zero-shot segmentation: ``2 s u / (s + u)`` of the mIoU over seen and over unseen classes.

    The counts must come from one prediction over all classes: offering the unseen names alone is another, much easier
    task.  Two zeros give 0; NaN where the seen or the unseen classes have no mIoU.  Raises ``ValueError`` as
    ``coi_miou`` does.

    >>> c = Counts(np.array([2, 1, 1]), np.array([2, 2, 2]), np.array([2, 2, 2]))
    >>> found = harmonic_miou(c, unseen=[1, 2])
    >>> float(found.seen), round(float(found.unseen), 4), round(float(found.harmonic), 4)
    (1.0, 0.3333, 0.5)
    """
    u = miou(_select(counts, unseen), averaging)
    s = miou(_select(counts, sorted(set(range(counts.gt.shape[-1])) - set(unseen))), averaging)
    return HarmonicMIoU(s, u, np.where(s + u == 0, 0.0, ratio(2 * s * u, s + u)))


def mean_accuracy(counts: Counts) -> Float:
    """mAcc: mean over labelled classes of the share of their pixels that is found.

    >>> c = Counts(np.array([2, 1, 0, 0]), np.array([2, 2, 0, 0]), np.array([2, 1, 1, 0]))
    >>> float(mean_accuracy(c))
    0.75
    """
    return mean_of_present(recall(counts))


def pixel_accuracy(counts: Counts) -> Float:
    """aAcc: share of all valid pixels that is right.

    >>> c = Counts(np.array([2, 1, 0, 0]), np.array([2, 2, 0, 0]), np.array([2, 1, 1, 0]))
    >>> float(pixel_accuracy(c))
    0.75
    """
    return ratio(counts.tp.sum(axis=-1), counts.gt.sum(axis=-1))


def frequency_weighted_iou(counts: Counts) -> Float:
    """fwIoU: IoU weighted by the share of labelled pixels.

    >>> c = Counts(np.array([3, 0]), np.array([3, 1]), np.array([4, 0]))
    >>> float(frequency_weighted_iou(c))
    0.5625
    """
    weight = ratio(counts.gt, counts.gt.sum(axis=-1, keepdims=True))
    return np.asarray((weight * np.nan_to_num(iou(counts))).sum(axis=-1))


def miou_per_image(counts: Counts, averaging: Averaging = "labelled") -> Float:
    """mIoU of every image, ``(N, C)`` counts -> ``(N,)``: the mean over the classes that the image contains.

    Its mean over images is mIoU^I of "Revisiting Evaluation Metrics for Semantic Segmentation" (NeurIPS 2023).  An
    image without valid pixels is NaN.  ``averaging`` says what an image contains: the classes labelled in it, or
    (``mmseg``, for binary tasks) those labelled or predicted.

    >>> c = Counts(np.array([[4, 1], [0, 2]]), np.array([[4, 2], [0, 2]]), np.array([[5, 1], [0, 2]]))
    >>> miou_per_image(c)  # (4/5 + 1/2) / 2, and class 1 alone
    array([0.65, 1.  ])
    """
    return miou(counts, averaging)


def miou_per_class(counts: Counts, averaging: Averaging = "labelled") -> Float:
    """mIoU^C: mean over classes of the mean IoU over the images that contain the class; ``(N, C)`` counts.

    ``averaging`` and source as in ``miou_per_image``.  The authors' code scores binary tasks by the foreground class
    alone and an image without foreground as 1; that variant is not offered.

    >>> c = Counts(np.array([[4, 1], [0, 2]]), np.array([[4, 2], [0, 2]]), np.array([[5, 1], [0, 2]]))
    >>> float(miou_per_class(c))  # class 0: 4/5 in the first image; class 1: 1/2 and 1
    0.775
    """
    return worst_case_miou_per_class(counts, 1.0, averaging)


def worst_case_miou_per_image(counts: Counts, share: float, averaging: Averaging = "labelled") -> Float:
    """mIoU^I over the worst ``share`` (in (0, 1], rounded down, at least one) of the images; ``(N, C)`` counts.

    Images without valid pixels are skipped and do not count as images.  Raises ``ValueError`` for another share.

    >>> c = Counts(np.array([[4, 1], [0, 2]]), np.array([[4, 2], [0, 2]]), np.array([[5, 1], [0, 2]]))
    >>> float(worst_case_miou_per_image(c, 0.5)), float(worst_case_miou_per_image(c, 1.0))
    (0.65, 0.825)
    """
    return mean_of_worst(miou_per_image(counts, averaging), share)


def worst_case_miou_per_class(counts: Counts, share: float, averaging: Averaging = "labelled") -> Float:
    """mIoU^C where each class is averaged over the worst ``share`` of the images that contain it; ``(N, C)`` counts.

    The share is taken for each class as in ``worst_case_miou_per_image``, at least one image.

    >>> c = Counts(np.array([[4, 1], [0, 2]]), np.array([[4, 2], [0, 2]]), np.array([[5, 1], [0, 2]]))
    >>> float(worst_case_miou_per_class(c, 0.5))  # class 0: 4/5; class 1: the worse of 1/2 and 1
    0.65
    """
    return mean_of_present(mean_of_worst(iou_of_contained(counts, averaging).T, share))


def classes_averaged(counts: Counts, averaging: Averaging = "mmseg") -> NDArray[np.int64]:
    """How many classes enter the mean of ``miou``: to be shown beside it.

    >>> c = Counts(np.array([2, 1, 0, 0]), np.array([2, 2, 0, 0]), np.array([2, 1, 1, 0]))
    >>> int(classes_averaged(c)), int(classes_averaged(c, "labelled"))
    (3, 2)
    """
    used = counts.gt if averaging == "labelled" else counts.gt + counts.pred
    return np.asarray((used > 0).sum(axis=-1))


def class_ids(ids: Sequence[int], num_classes: int) -> Int64:
    """Class ids as an array ``(K,)``; ``ValueError`` unless each lies in [0, num_classes).

    >>> class_ids([2, 0], 3)
    array([2, 0])
    """
    wrong = [c for c in ids if not 0 <= c < num_classes]
    if wrong:
        raise ValueError(f"class ids {wrong} are out of range: allowed is 0 to {num_classes - 1}")
    return np.array(ids, np.int64)


def mean_of_present(values: Float) -> Float:
    """Mean over the last axis without NaN; NaN where nothing is left.

    >>> float(mean_of_present(np.array([0.5, np.nan, 1.0])))
    0.75
    """
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))


def ratio(part: Int64 | Float, whole: Int64 | Float) -> Float:
    """``part / whole`` with broadcasting, NaN unless ``whole`` is above 0.

    >>> ratio(np.array([1, 0]), np.array([4, 0]))
    array([0.25,  nan])
    """
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def iou_of_contained(counts: Counts, averaging: Averaging) -> Float:
    """IoU, NaN for the classes that a mean by this rule leaves out.

    >>> iou_of_contained(Counts(np.array([2, 0]), np.array([2, 0]), np.array([2, 1])), "labelled")
    array([ 1., nan])
    """
    values = iou(counts)
    return np.where(counts.gt > 0, values, np.nan) if averaging == "labelled" else values


def mean_of_worst(values: Float, share: float) -> Float:
    """Mean over the worst ``share`` of the values on the last axis that are not NaN, at least one of them.

    >>> float(mean_of_worst(np.array([0.9, np.nan, 0.2, 0.4]), 0.67))
    0.30000000000000004
    """
    return mean_of_lowest(np.sort(values), share)  # a sorted sum does not depend on the order of the images


def mean_of_lowest(ranked: Float, share: float) -> Float:
    """``mean_of_worst`` of values that ascend, NaN last.

    >>> float(mean_of_lowest(np.array([0.25, 0.75, np.nan]), 1.0))
    0.5
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, it must be above 0 and at most 1")
    # 0.7 * 90 is 62.99999999999999: without the addend one image would be missing (as it is in the authors' code).
    kept = np.maximum(1, np.floor(share * (~np.isnan(ranked)).sum(axis=-1, keepdims=True) + 1e-9))
    return mean_of_present(np.where(np.arange(ranked.shape[-1]) < kept, ranked, np.nan))


def _select(counts: Counts, classes: Sequence[int]) -> Counts:
    """Counts of some classes, by their ids."""
    ids = class_ids(classes, counts.gt.shape[-1])
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes {list(classes)} name a class twice")
    return Counts(counts.tp[..., ids], counts.gt[..., ids], counts.pred[..., ids])
