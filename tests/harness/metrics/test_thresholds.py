"""count_thresholds against labels that are thresholded one value after the other, as decode does it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ovss.harness.metrics.counting import count_reference
from ovss.harness.metrics.counts import Counts
from ovss.harness.metrics.thresholds import count_thresholds
from ovss.methods import UserError

THRESHOLDS = (0.0, 0.05, 0.1, 0.15, 0.3, 0.35, 0.7, 0.95)


def one_by_one(
    prediction: Tensor, probability: Tensor, label: Tensor, thresholds: tuple[float, ...], background: int, classes: int
) -> Counts:
    found = []
    for value in thresholds:
        labels = prediction.clone()
        if value:  # 0 is off
            labels[probability < value] = background
        found.append(count_reference(labels, label, classes))
    return Counts.stack(found)


def assert_equal(one: Counts, other: Counts) -> None:
    for name in ("tp", "gt", "pred"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype == np.int64 and np.array_equal(a, b), name


def test_six_pixels_by_hand() -> None:
    prediction, label = torch.tensor([[1, 1, 2, 0, 2, 1]]), torch.tensor([[1, 0, 2, 0, 1, 255]])
    probability = torch.tensor([[0.9, 0.4, 0.5, 0.1, 0.2, 0.0]])
    found = count_thresholds(prediction, probability, label, (0.0, 0.3, 0.5, 0.6), 0, 3)
    assert found.gt.tolist() == [[2, 2, 1]] * 4
    assert found.pred.tolist() == [[1, 2, 2], [2, 2, 1], [3, 1, 1], [4, 1, 0]]
    assert found.tp.tolist() == [[1, 1, 1], [1, 1, 1], [2, 1, 1], [2, 1, 0]]


@pytest.mark.parametrize("background", [0, 3, 6])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_every_value_is_as_if_it_was_decoded_alone(background: int, kind: torch.dtype) -> None:
    """Probabilities lie at the thresholds, as float32, and right beside them."""
    generator = torch.Generator().manual_seed(background)
    at = torch.tensor(THRESHOLDS[1:])
    near = torch.cat([at, at.nextafter(torch.tensor(0.0)), at.nextafter(torch.tensor(1.0)), torch.rand(9)])
    probability = near[torch.randint(len(near), (40, 50), generator=generator)]
    prediction = torch.randint(7, (40, 50), generator=generator).to(kind)
    label = torch.where(torch.rand(40, 50, generator=generator) < 0.5, prediction, prediction.flip(0)).to(kind)
    label[torch.rand(40, 50, generator=generator) < 0.1] = 255
    found = count_thresholds(prediction, probability, label, THRESHOLDS, background, 7)
    assert_equal(found, one_by_one(prediction, probability, label, THRESHOLDS, background, 7))
    assert len(np.unique(found.pred, axis=0)) == len(THRESHOLDS)  # every value moves something


def test_values_below_zero_pass_a_threshold_that_is_off() -> None:
    """Scores that are compared as they are may be negative."""
    prediction, label = torch.tensor([[1, 1]]), torch.tensor([[1, 1]])
    found = count_thresholds(prediction, torch.tensor([[-0.5, 0.5]]), label, (0.0, 0.1), 0, 2)
    assert found.tp.tolist() == [[0, 2], [0, 1]]


def test_without_a_background_only_zero_is_allowed() -> None:
    prediction, label, probability = torch.tensor([[1, 0]]), torch.tensor([[1, 1]]), torch.tensor([[0.2, 0.9]])
    assert count_thresholds(prediction, probability, label, (0.0,), None, 2).pred.tolist() == [[1, 1]]
    with pytest.raises(ValueError, match="background"):
        count_thresholds(prediction, probability, label, (0.1,), None, 2)


def test_thresholds_ascend() -> None:
    labels = torch.zeros(1, 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="ascend"):
        count_thresholds(labels, torch.zeros(1, 1), labels, (0.5, 0.1), 0, 2)


def test_a_bad_label_is_refused_as_count_does() -> None:
    labels = torch.zeros(1, 2, dtype=torch.uint8)
    with pytest.raises(UserError, match="label values 9"):
        count_thresholds(labels, torch.zeros(1, 2), torch.tensor([[0, 9]]), (0.1,), 0, 2)


def test_an_image_where_everything_is_ignored() -> None:
    labels = torch.zeros(2, 2, dtype=torch.uint8)
    found = count_thresholds(labels, torch.rand(2, 2), torch.full((2, 2), 255), (0.1, 0.2), 1, 2)
    assert not found.gt.any() and not found.pred.any() and found.tp.shape == (2, 2)
