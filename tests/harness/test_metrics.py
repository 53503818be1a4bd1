"""Metrics of made-up counts, against values worked out by hand."""

import numpy as np
import pytest

from ovss.harness.counting import Counts
from ovss.harness.metrics import (
    classes_averaged,
    frequency_weighted_iou,
    iou,
    mean_accuracy,
    miou,
    miou_per_image,
    pixel_accuracy,
)

# Class 0 and 1 are ordinary, 2 is predicted only, 3 is labelled only, 4 is in neither.
#            label 0: 6 right, 2 as class 1;  label 1: 3 right, 1 as class 2;  label 3: 4 as class 0
HAND = Counts(np.array([6, 3, 0, 0, 0]), np.array([8, 4, 0, 4, 0]), np.array([10, 5, 1, 0, 0]))
IOUS = [6 / 12, 3 / 6, 0.0, 0.0, np.nan]


def many(images: int = 20, classes: int = 9, seed: int = 0) -> Counts:
    """Counts of random confusion matrices; in every image some classes are absent."""
    rng = np.random.default_rng(seed)
    tables = rng.integers(0, 40, (images, classes, classes))
    tables *= rng.random((images, classes, 1)) < 0.6
    tables[:, :, -1] = 0
    tables[:, -1, :] = 0
    return Counts(tables.diagonal(axis1=1, axis2=2).copy(), tables.sum(2), tables.sum(1))


def pick(counts: Counts, rows: object) -> Counts:
    return Counts(counts.tp[rows], counts.gt[rows], counts.pred[rows])  # type: ignore[index]


def test_iou() -> None:
    assert np.array_equal(iou(HAND), IOUS, equal_nan=True)


def test_miou_by_both_rules() -> None:
    assert float(miou(HAND)) == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)  # prediction-only counts 0
    assert float(miou(HAND, "labelled")) == pytest.approx((0.5 + 0.5 + 0) / 3)


def test_accuracies() -> None:
    assert float(mean_accuracy(HAND)) == pytest.approx((6 / 8 + 3 / 4 + 0 / 4) / 3)
    assert float(pixel_accuracy(HAND)) == pytest.approx(9 / 16)


def test_frequency_weighted_iou() -> None:
    assert float(frequency_weighted_iou(HAND)) == pytest.approx((8 * 0.5 + 4 * 0.5 + 4 * 0) / 16)


def test_classes_averaged() -> None:
    assert classes_averaged(HAND) == 4


def test_published_example_of_the_corner_cases() -> None:
    counts = Counts(np.array([2, 1, 0, 0, 0]), np.array([2, 2, 0, 0, 0]), np.array([2, 1, 1, 0, 0]))
    assert np.array_equal(iou(counts), [1, 0.5, 0, np.nan, np.nan], equal_nan=True)
    assert (float(miou(counts)), float(mean_accuracy(counts)), float(pixel_accuracy(counts))) == (0.5, 0.75, 0.75)


def test_all_classes_labelled_makes_both_rules_equal() -> None:
    rng = np.random.default_rng(1)
    table = rng.integers(1, 50, (6, 6))
    counts = Counts(table.diagonal().copy(), table.sum(1), table.sum(0))
    assert float(miou(counts)) == float(miou(counts, "labelled"))


def test_perfect_and_hopeless() -> None:
    gt = np.array([5, 0, 7])
    perfect = Counts(gt, gt, gt)
    for metric in (miou, mean_accuracy, pixel_accuracy, frequency_weighted_iou):
        assert float(metric(perfect)) == 1.0
    hopeless = Counts(np.zeros(3, int), gt, np.array([7, 0, 5]))
    for metric in (miou, mean_accuracy, pixel_accuracy, frequency_weighted_iou):
        assert float(metric(hopeless)) == 0.0


def test_nothing_counted_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    nothing = Counts(*(np.zeros(4, np.int64),) * 3)
    for metric in (miou, mean_accuracy, pixel_accuracy, frequency_weighted_iou):
        assert np.isnan(metric(nothing))
    assert np.isnan(iou(nothing)).all() and classes_averaged(nothing) == 0
    assert not recwarn.list


@pytest.mark.parametrize("metric", [iou, miou, mean_accuracy, pixel_accuracy, frequency_weighted_iou])
def test_works_over_the_last_axis(metric: object) -> None:
    counts = many()
    whole = metric(counts)  # type: ignore[operator]
    single = np.stack([metric(pick(counts, i)) for i in range(20)])  # type: ignore[operator]
    assert np.array_equal(whole, single, equal_nan=True)
    folded = Counts(*(a.reshape(4, 5, -1) for a in (counts.tp, counts.gt, counts.pred)))
    assert np.array_equal(metric(folded).reshape(whole.shape), whole, equal_nan=True)  # type: ignore[operator]


def test_per_image_mean_counts_labelled_classes_only() -> None:
    counts = many()
    for i, value in enumerate(miou_per_image(counts)):
        one = pick(counts, i)
        ious = [t / (g + p - t) for t, g, p in zip(one.tp, one.gt, one.pred, strict=True) if g > 0]
        assert value == pytest.approx(np.mean(ious))
    assert float(np.mean(miou_per_image(counts))) != pytest.approx(float(miou(counts.total())))


def test_image_without_pixels_is_nan_per_image_and_nothing_in_total() -> None:
    counts = many(3)
    for array in (counts.tp, counts.gt, counts.pred):
        array[1] = 0
    assert np.isnan(miou_per_image(counts)).tolist() == [False, True, False]
    assert float(miou(counts.total())) == float(miou(pick(counts, [0, 2]).total()))


def test_order_of_images_changes_nothing() -> None:
    counts = many()
    shuffled = pick(counts, np.random.default_rng(5).permutation(20))
    for metric in (miou, mean_accuracy, pixel_accuracy, frequency_weighted_iou):
        assert float(metric(counts.total())) == float(metric(shuffled.total()))
    assert sorted(miou_per_image(counts)) == sorted(miou_per_image(shuffled))


def test_exact_for_a_trillion_pixels() -> None:
    """Products and sums of int64 counts stay exact far beyond float32."""
    counts = Counts(np.array([10**12, 1]), np.array([10**12 + 1, 1]), np.array([10**12, 2]))
    assert iou(counts)[0] == 10**12 / (10**12 + 1) < 1
    assert float(pixel_accuracy(counts)) == (10**12 + 1) / (10**12 + 2) < 1
