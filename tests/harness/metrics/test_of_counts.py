"""Metrics of made-up counts, against values worked out by hand."""

import doctest
import math
from collections.abc import Callable
from statistics import mean
from types import ModuleType

import numpy as np
import pytest

from ovss.harness.metrics import counting
from ovss.harness.metrics import of_counts as metrics
from ovss.harness.metrics.counting import Counts
from ovss.harness.metrics.of_counts import (
    classes_averaged,
    coi_miou,
    dice,
    frequency_weighted_iou,
    harmonic_miou,
    iou,
    mean_accuracy,
    miou,
    miou_per_class,
    miou_per_image,
    pixel_accuracy,
    precision,
    recall,
    worst_case_miou_per_class,
    worst_case_miou_per_image,
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


@pytest.mark.parametrize(
    "metric",
    [
        *(iou, dice, precision, recall, miou, mean_accuracy, pixel_accuracy, frequency_weighted_iou),
        lambda c: coi_miou(c, [1, 4, 8]),
        lambda c: harmonic_miou(c, [0, 5]).harmonic,
    ],
)
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


# Four images, three classes.  Image 0: class 0 with IoU 4/5, class 1 with 1/2, class 2 predicted only.  Image 1: class
# 1 perfect.  Image 2: all ignored.  Image 3: class 0 with 2/4, class 1 predicted only.
IMAGES = Counts(
    np.array([[4, 1, 0], [0, 2, 0], [0, 0, 0], [2, 0, 0]]),
    np.array([[4, 2, 0], [0, 2, 0], [0, 0, 0], [4, 0, 0]]),
    np.array([[5, 1, 1], [0, 2, 0], [0, 0, 0], [2, 2, 0]]),
)


@pytest.mark.parametrize(("module", "examples"), [(metrics, 30), (counting, 3)])
def test_examples_in_the_docstrings(module: ModuleType, examples: int) -> None:
    found = doctest.testmod(module)
    assert found.failed == 0
    assert found.attempted >= examples


def test_every_public_function_has_an_example() -> None:
    public = [f for n, f in vars(metrics).items() if callable(f) and f.__module__ == metrics.__name__ and n[0] != "_"]
    assert len(public) > 15
    assert [f.__name__ for f in public if ">>>" not in (f.__doc__ or "") and not isinstance(f, type)] == []


def test_dice_precision_recall_by_hand() -> None:
    assert np.array_equal(dice(HAND), [12 / 18, 6 / 9, 0, 0, np.nan], equal_nan=True)
    assert np.array_equal(precision(HAND), [6 / 10, 3 / 5, 0, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(recall(HAND), [6 / 8, 3 / 4, np.nan, 0, np.nan], equal_nan=True)


def test_dice_is_a_function_of_iou_and_the_harmonic_mean_of_precision_and_recall() -> None:
    total = many().total()
    j, p, r = iou(total)[:-1], precision(total)[:-1], recall(total)[:-1]
    assert dice(total)[:-1] == pytest.approx(2 * j / (1 + j))
    assert dice(total)[:-1] == pytest.approx(2 * p * r / (p + r))


def test_coi_miou_by_hand() -> None:
    assert float(coi_miou(HAND, [0, 2, 4])) == pytest.approx((0.5 + 0) / 2)  # 2 is predicted only, 4 is in neither
    assert float(coi_miou(HAND, [1, 0])) == pytest.approx(0.5)
    assert math.isnan(coi_miou(HAND, [4]))
    assert math.isnan(coi_miou(HAND, []))
    assert float(coi_miou(HAND, range(5))) == float(miou(HAND))


def test_harmonic_miou_by_hand() -> None:
    counts = Counts(np.array([6, 1, 3, 0]), np.array([6, 2, 6, 1]), np.array([8, 3, 4, 0]))
    found = harmonic_miou(counts, unseen=[1, 3])
    seen, unseen = (6 / 8 + 3 / 7) / 2, (1 / 4 + 0) / 2
    assert (float(found.seen), float(found.unseen)) == pytest.approx((seen, unseen))
    assert float(found.harmonic) == pytest.approx(2 * seen * unseen / (seen + unseen))


def test_harmonic_miou_follows_the_averaging_rule() -> None:
    found = harmonic_miou(HAND, unseen=[1, 2, 4], averaging="labelled")
    assert (float(found.seen), float(found.unseen)) == (0.25, 0.5)
    assert float(harmonic_miou(HAND, unseen=[1, 2, 4]).unseen) == 0.25  # class 2 is predicted only


def test_harmonic_miou_at_its_limits() -> None:
    nothing_right = harmonic_miou(Counts(np.zeros(2, int), np.array([1, 1]), np.array([1, 1])), [1])
    assert float(nothing_right.harmonic) == 0
    assert math.isnan(harmonic_miou(HAND, [4]).harmonic)  # no unseen class occurs
    assert math.isnan(harmonic_miou(HAND, []).harmonic)
    assert math.isnan(harmonic_miou(HAND, range(5)).harmonic)


@pytest.mark.parametrize("classes", [[5], [-1], [0, 1, 0]])
def test_wrong_class_ids_are_refused(classes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"out of range|twice"):
        coi_miou(HAND, classes)
    with pytest.raises(ValueError, match=r"out of range|twice"):
        harmonic_miou(HAND, classes)


def test_means_over_images_by_hand() -> None:
    assert miou_per_image(IMAGES) == pytest.approx([(4 / 5 + 1 / 2) / 2, 1, np.nan, 1 / 2], nan_ok=True)
    assert float(miou_per_class(IMAGES)) == pytest.approx(((4 / 5 + 2 / 4) / 2 + (1 / 2 + 1) / 2) / 2)


def test_presence_by_label_or_prediction_for_binary_tasks() -> None:
    both = miou_per_image(IMAGES, "mmseg")
    assert both == pytest.approx([(4 / 5 + 1 / 2 + 0) / 3, 1, np.nan, (1 / 2 + 0) / 2], nan_ok=True)
    per_class = ((4 / 5 + 2 / 4) / 2 + (1 / 2 + 1 + 0) / 3 + 0) / 3
    assert float(miou_per_class(IMAGES, "mmseg")) == pytest.approx(per_class)


@pytest.mark.parametrize(
    ("share", "images"), [(0.05, [0.5]), (0.34, [0.5]), (0.67, [0.5, 0.65]), (1.0, [0.5, 0.65, 1])]
)
def test_worst_images_by_hand(share: float, images: list[float]) -> None:
    """The ignored image is none: 3 images are left, the share is rounded down, at least one is used."""
    assert float(worst_case_miou_per_image(IMAGES, share)) == pytest.approx(mean(images))


def test_worst_images_of_each_class_by_hand() -> None:
    assert float(worst_case_miou_per_class(IMAGES, 0.05)) == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert float(worst_case_miou_per_class(IMAGES, 0.99)) == pytest.approx((2 / 4 + 1 / 2) / 2)


def test_share_is_not_cut_by_rounding() -> None:
    """0.7 * 90 is 62.99999999999999 in float64."""
    gt = np.arange(1, 91)[:, None] + 100
    counts = Counts(np.arange(1, 91)[:, None], gt, np.arange(1, 91)[:, None])
    assert float(worst_case_miou_per_image(counts, 0.7)) == pytest.approx(mean(i / (i + 100) for i in range(1, 64)))


def test_whole_share_is_the_plain_mean() -> None:
    counts = many()
    assert float(worst_case_miou_per_image(counts, 1.0)) == pytest.approx(float(np.nanmean(miou_per_image(counts))))
    values = np.where(counts.gt > 0, iou(counts), np.nan)[:, :-1]  # the last class is in no image
    assert float(miou_per_class(counts)) == pytest.approx(float(np.nanmean(np.nanmean(values, axis=0))))
    assert float(worst_case_miou_per_class(counts, 1.0)) == float(miou_per_class(counts))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan])
def test_wrong_share_is_refused(share: float) -> None:
    for metric in (worst_case_miou_per_image, worst_case_miou_per_class):
        with pytest.raises(ValueError, match="share"):
            metric(IMAGES, share)


def test_no_valid_pixel_anywhere_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    nothing = Counts(*(np.zeros((3, 4), np.int64),) * 3)
    assert math.isnan(miou_per_class(nothing))
    assert math.isnan(worst_case_miou_per_image(nothing, 0.1)) and math.isnan(worst_case_miou_per_class(nothing, 0.1))
    for per_class in (dice, precision, recall):
        assert np.isnan(per_class(nothing)).all()
    assert not recwarn.list


def loop_of_the_definition(counts: Counts, percent: int, binary: bool) -> tuple[float, float]:
    """mIoU^I_q and mIoU^C_q in plain loops over images and classes."""

    def worst(values: list[float]) -> float:
        return mean(sorted(values)[: max(1, percent * len(values) // 100)])

    per_image: list[float] = []
    per_class: dict[int, list[float]] = {}
    for tp, gt, pred in zip(counts.tp.tolist(), counts.gt.tolist(), counts.pred.tolist(), strict=True):
        values = {c: tp[c] / (gt[c] + pred[c] - tp[c]) for c in range(len(tp)) if gt[c] > 0 or (binary and pred[c] > 0)}
        if not values:
            continue
        per_image.append(mean(values.values()))
        for c, value in values.items():
            per_class.setdefault(c, []).append(value)
    return worst(per_image), mean(worst(v) for v in per_class.values())


@pytest.mark.parametrize("classes", [2, 3, 9])
@pytest.mark.parametrize("percent", [1, 5, 10, 50, 70, 100])
def test_equals_a_loop_over_images_and_classes(classes: int, percent: int) -> None:
    counts = many(90, classes + 1, seed=percent)
    for array in (counts.tp, counts.gt, counts.pred):
        array[::7] = 0
    for averaging, binary in (("labelled", False), ("mmseg", True)):
        image, per_class = loop_of_the_definition(counts, percent, binary)
        share = percent / 100
        assert float(worst_case_miou_per_image(counts, share, averaging)) == pytest.approx(image)
        assert float(worst_case_miou_per_class(counts, share, averaging)) == pytest.approx(per_class)


@pytest.mark.parametrize("seed", range(5))
def test_class_subsets_equal_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = many(3, seed=seed).total()
    chosen = rng.permutation(9)[:4].tolist()

    def mean_iou(classes: list[int]) -> float:
        there = [c for c in classes if total.gt[c] + total.pred[c] > 0]
        return sum(total.tp[c] / (total.gt[c] + total.pred[c] - total.tp[c]) for c in there if total.gt[c]) / len(there)

    assert float(coi_miou(total, chosen)) == pytest.approx(mean_iou(chosen))
    u, s = mean_iou(chosen), mean_iou([c for c in range(9) if c not in chosen])
    found = harmonic_miou(total, chosen)
    assert (float(found.seen), float(found.unseen)) == pytest.approx((s, u))
    assert float(found.harmonic) == pytest.approx(2 / (1 / s + 1 / u))


@pytest.mark.parametrize(
    "metric",
    [
        miou_per_class,
        lambda c: worst_case_miou_per_image(c, 0.3),
        lambda c: worst_case_miou_per_class(c, 0.3),
        lambda c: worst_case_miou_per_class(c, 1.0),
    ],
)
def test_order_of_images_changes_no_bit(metric: Callable[[Counts], object]) -> None:
    counts = many(50)
    for seed in range(5):
        assert metric(pick(counts, np.random.default_rng(seed).permutation(50))) == metric(counts)


def test_worse_share_never_has_a_higher_mean() -> None:
    counts = many(40)
    for metric in (worst_case_miou_per_image, worst_case_miou_per_class):
        values = [float(metric(counts, share)) for share in np.linspace(0.05, 1, 20)]
        assert values == sorted(values)


def test_pixels_given_to_a_class_that_is_not_counted_are_wrong() -> None:
    """Of 6 labelled pixels 2 went to a background that the data set lacks: ``pred`` sums to less than ``gt``."""
    counts = Counts(np.array([3, 1, 2]), np.array([4, 2, 2]), np.array([3, 1, 2])).first(2)
    assert [a.tolist() for a in (counts.tp, counts.gt, counts.pred)] == [[3, 1], [4, 2], [3, 1]]
    assert float(pixel_accuracy(counts)) == 4 / 6
    assert float(frequency_weighted_iou(counts)) == pytest.approx(4 / 6 * 3 / 4 + 2 / 6 * 1 / 2)


def test_one_labelled_pixel_is_enough_for_a_class_to_be_there() -> None:
    counts = Counts(np.array([4, 0, 0]), np.array([4, 1, 0]), np.array([4, 0, 1]))
    assert (float(miou(counts, "labelled")), int(classes_averaged(counts, "labelled"))) == (0.5, 2)
    assert (float(miou(counts)), int(classes_averaged(counts))) == (pytest.approx(1 / 3), 3)


def test_harmonic_mean_of_equal_halves_is_either() -> None:
    half = Counts(np.array([1, 1]), np.array([2, 2]), np.array([1, 1]))
    found = harmonic_miou(half, unseen=[1])
    assert float(found.seen) == float(found.unseen) == float(found.harmonic) == 0.5
