"""Our counts and metrics against mmsegmentation's own ``IoUMetric``, and the differences that are meant."""

import logging
import subprocess
import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovss.harness.metrics.of_counts import iou, mean_accuracy, miou, pixel_accuracy
from ovss.harness.mmseg.shim import import_mmseg
from ovss.methods import UserError

count_module = import_module("ovss.harness.metrics.counting")
Counts, count = count_module.Counts, count_module.count
IoUMetric = import_mmseg().evaluation.IoUMetric

CLASSES = [2, 19, 21, 150, 171, 255, 459, 847]


def maps(classes: int, size: tuple[int, int], ignore: int, seed: int) -> tuple[Tensor, Tensor]:
    """Prediction and label, int64: blocks and noise, 60 % right, a tenth ignored, some classes absent or predicted."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> Tensor:
        coarse = torch.rand(-(-size[0] // 8), -(-size[1] // 8), generator=generator)
        fine = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)[: size[0], : size[1]]
        return (classes * (low + (high - low) * fine)).long()

    label, other = draw(0.0, 0.8), draw(0.0, 0.9)
    prediction = torch.where(torch.rand(size, generator=generator) < 0.6, label, other)
    label[torch.rand(size, generator=generator) < 0.1] = ignore
    return prediction, label


def their_counts(prediction: Tensor, label: Tensor, classes: int, ignore: int = 255) -> tuple[Tensor, ...]:
    """Intersection, union, prediction and label areas, as floats."""
    return IoUMetric.intersect_and_union(prediction, label, classes, ignore)  # type: ignore[no-any-return]


def assert_equal_counts(ours: Any, theirs: tuple[Tensor, ...]) -> None:
    intersection, union, predicted, labelled = (t.double().numpy() for t in theirs)
    assert np.array_equal(ours.tp, intersection)
    assert np.array_equal(ours.pred, predicted)
    assert np.array_equal(ours.gt, labelled)
    assert np.array_equal(ours.gt + ours.pred - ours.tp, union)


def their_metrics(results: list[tuple[Tensor, ...]], classes: int) -> tuple[dict[str, float], dict[str, Any]]:
    """What ``compute_metrics`` reports (percent, 2 decimals) and the same before rounding (per class and aAcc)."""
    metric = IoUMetric()
    metric.dataset_meta = {"classes": [str(c) for c in range(classes)]}
    summary = metric.compute_metrics(results)
    totals = [sum(r[k] for r in results) for k in range(4)]
    return summary, IoUMetric.total_area_to_metrics(*totals)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    logging.disable(logging.INFO)  # a table of 847 rows each time
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("size", [(37, 53), (256, 341), (500, 375)])
def test_counts_of_an_image_are_equal(classes: int, size: tuple[int, int]) -> None:
    ignore = 255 if classes <= 255 else 65535
    prediction, label = maps(classes, size, ignore, seed=classes)
    ours = count(prediction, label, classes, ignore)
    assert_equal_counts(ours, their_counts(prediction, label, classes, ignore))
    assert 0 < ours.tp.sum() < ours.gt.sum() < prediction.numel()
    if classes <= 255:
        assert_equal_counts(count(prediction.byte(), label.byte(), classes), their_counts(prediction, label, classes))


@pytest.mark.parametrize("classes", CLASSES)
def test_metrics_of_a_data_set_are_equal(classes: int) -> None:
    ignore = 255 if classes <= 255 else 65535
    pairs = [maps(classes, (60 + 7 * k, 90 - 5 * k), ignore, seed=k) for k in range(8)]
    theirs = [their_counts(p, t, classes, ignore) for p, t in pairs]
    ours = [count(p, t, classes, ignore) for p, t in pairs]
    total = sum(ours[1:], ours[0])
    assert_equal_counts(total, tuple(sum(r[k] for r in theirs) for k in range(4)))  # exact below 2^24
    summary, exact = their_metrics(theirs, classes)
    assert np.isnan(exact["IoU"]).any() or classes == 2  # absent classes take part
    assert np.allclose(iou(total), exact["IoU"], rtol=0, atol=1e-6, equal_nan=True)
    for name, value, unrounded in (
        ("mIoU", miou(total), np.nanmean(exact["IoU"].astype(np.float64))),
        ("mAcc", mean_accuracy(total), np.nanmean(exact["Acc"].astype(np.float64))),
        ("aAcc", pixel_accuracy(total), exact["aAcc"]),
    ):
        assert float(value) == pytest.approx(float(unrounded), abs=1e-6)
        assert round(100 * float(value), 2) == pytest.approx(float(summary[name]), abs=1e-4)


def test_rounded_values_are_equal_on_a_hundred_cases() -> None:
    """To the printed digit, but for float32 ties on their side (at most one step of 0.01)."""
    exact = 0
    for seed in range(100):
        classes = 2 + seed % 40
        prediction, label = maps(classes, (41, 57), 255, seed=seed)
        ours = count(prediction, label, classes)
        summary, _ = their_metrics([their_counts(prediction, label, classes)], classes)
        for name, value in (("mIoU", miou(ours)), ("mAcc", mean_accuracy(ours)), ("aAcc", pixel_accuracy(ours))):
            step = abs(round(100 * float(value), 2) - float(summary[name]))
            assert step < 0.0101
            exact += step < 1e-4
    assert exact >= 297


def test_their_whole_evaluator_reports_our_numbers() -> None:
    """``process`` and ``evaluate``, as a test loop of mmseg calls them."""
    metric = IoUMetric()
    metric.dataset_meta = {"classes": [str(c) for c in range(21)]}
    ours = []
    for seed in range(5):
        prediction, label = maps(21, (48, 64), 255, seed)
        metric.process({}, [{"pred_sem_seg": {"data": prediction[None]}, "gt_sem_seg": {"data": label[None]}}])
        ours.append(count(prediction, label, 21))
    total = sum(ours[1:], ours[0])
    values = metric.evaluate(size=5)
    assert values["mIoU"] == pytest.approx(round(100 * float(miou(total)), 2), abs=1e-4)
    assert values["mAcc"] == pytest.approx(round(100 * float(mean_accuracy(total)), 2), abs=1e-4)
    assert values["aAcc"] == pytest.approx(round(100 * float(pixel_accuracy(total)), 2), abs=1e-4)


# --- corner cases: what they do, what we do -----------------------------------------------------------------------


def row(*values: int) -> Tensor:
    return torch.tensor([values])


def test_absent_classes_are_treated_alike() -> None:
    prediction, label = row(0, 0, 1, 2), row(0, 0, 1, 1)
    summary, exact = their_metrics([their_counts(prediction, label, 5)], 5)
    ours = count(prediction, label, 5)
    assert np.array_equal(iou(ours), exact["IoU"], equal_nan=True)
    assert np.array_equal(exact["IoU"], [1, 0.5, 0, np.nan, np.nan], equal_nan=True)
    assert (summary["mIoU"], summary["mAcc"], summary["aAcc"]) == (50.0, 75.0, 75.0)
    assert (float(miou(ours)), float(mean_accuracy(ours)), float(pixel_accuracy(ours))) == (0.5, 0.75, 0.75)


def test_difference_label_outside() -> None:
    """Theirs: half of class 1 is lost in IoU, while both accuracies are 1.  Ours: an error."""
    prediction, label = row(0, 0, 1, 1), row(0, 0, 1, 7)
    _, exact = their_metrics([their_counts(prediction, label, 3)], 3)
    assert np.array_equal(exact["IoU"], [1, 0.5, np.nan], equal_nan=True)
    assert np.array_equal(exact["Acc"], [1, 1, np.nan], equal_nan=True)
    assert exact["aAcc"] == 1.0
    with pytest.raises(UserError, match="label values 7"):
        count(prediction, label, 3)


def test_difference_prediction_outside() -> None:
    """Theirs: a miss without a false positive.  Ours: an error, because a method that does this is broken."""
    prediction, label = row(0, 0, 1, 7), row(0, 0, 1, 1)
    intersection, _, predicted, labelled = their_counts(prediction, label, 3)
    assert (intersection.tolist(), predicted.tolist(), labelled.tolist()) == ([2, 1, 0], [2, 1, 0], [2, 2, 0])
    with pytest.raises(ValueError, match="predictions reach 7"):
        count(prediction, label, 3)


def test_difference_label_65535_with_ignore_255() -> None:
    """Theirs: class 255 vanishes and 65535 hurts class 1.  Ours: an error; with the right ignore value both agree."""
    prediction, label = row(255, 255, 1, 1), row(255, 255, 1, 65535)
    _, exact = their_metrics([their_counts(prediction, label, 300)], 300)
    assert np.isnan(exact["IoU"][255]) and exact["IoU"][1] == 0.5
    with pytest.raises(UserError, match="65535"):
        count(prediction, label, 300)
    assert_equal_counts(count(prediction, label, 300, 65535), their_counts(prediction, label, 300, 65535))


def test_only_ignored_pixels_are_zeros_for_both() -> None:
    prediction, label = torch.zeros(4, 5).long(), torch.full((4, 5), 255)
    theirs = their_counts(prediction, label, 7)
    assert_equal_counts(count(prediction, label, 7), theirs)
    assert all(not t.any() for t in theirs)


def test_difference_one_class() -> None:
    """Theirs: the limits of the histogram collapse, and a predicted 3 counts for class 0.  Ours counts or refuses."""
    prediction, label = row(0, 0, 3, 3), row(0, 0, 0, 0)
    assert their_counts(prediction, label, 1)[2].item() == 4
    with pytest.raises(ValueError, match="predictions reach 3"):
        count(prediction, label, 1)
    ours = count(row(0, 0, 0, 0), row(0, 0, 255, 0), 1)
    assert (ours.tp.item(), ours.gt.item(), ours.pred.item()) == (3, 3, 3)


def test_difference_totals_beyond_float32() -> None:
    """Theirs: float32 totals drop single pixels above 2^24.  Ours: integers."""
    large = torch.zeros(4096, 4096, dtype=torch.uint8)  # 2^24 pixels
    small = torch.zeros(1, 1, dtype=torch.uint8)
    theirs = [their_counts(m, m, 2) for m in (large, small, small, small)]
    total = sum(r[3] for r in theirs)
    assert total[0].item() == 2**24  # type: ignore[index]
    ours = [count(m, m, 2) for m in (large, small, small, small)]
    assert sum(ours[1:], ours[0]).gt.tolist() == [2**24 + 3, 0]


# --- the shim -----------------------------------------------------------------------------------------------------


def test_shim_opens_the_parts_it_promises() -> None:
    mmseg = import_mmseg()
    assert mmseg is import_mmseg() is sys.modules["mmseg"]
    assert {"ADE20KDataset", "PascalVOCDataset"} <= set(mmseg.registry.DATASETS.module_dict)
    assert {"LoadAnnotations", "PackSegInputs"} <= set(mmseg.registry.TRANSFORMS.module_dict)
    for part in ("mmseg.structures", "mmseg.visualization", "mmseg.datasets.transforms"):
        import_module(part)


def test_shim_stub_refuses_to_work() -> None:
    operators = sys.modules.get("mmcv.ops")
    if operators is None or operators.__spec__ is None or operators.__spec__.origin != "stub":
        pytest.skip("the compiled mmcv is installed")
    with pytest.raises(UserError, match="compiled mmcv"):
        operators.point_sample(torch.zeros(1), torch.zeros(1))
    with pytest.raises(AttributeError):
        _ = operators.nms


def test_shim_explains_an_unfit_version() -> None:
    code = (
        "import mmcv; mmcv.__version__ = '2.2.0'\n"
        "from ovss.harness.mmseg.shim import import_mmseg\n"
        "from ovss.methods import UserError\n"
        "try:\n    import_mmseg()\n"
        "except UserError as error:\n    assert 'MMCV==2.2.0' in str(error) and 'pip install' in str(error)\n"
        "else:\n    raise SystemExit('no error')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-500:]
