"""Closing of label maps: by hand, against OpenCV, and from the protocol to the pixels."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ovss.datasets import find_record
from ovss.harness.decoding.closing import closed
from ovss.harness.protocol.protocol import Setting
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.methods import create_method


def test_by_hand() -> None:
    """A hole and a gap of one pixel get the higher class; so does the pixel between a high class and the border."""
    labels = torch.tensor([[2, 2, 2, 0, 2], [2, 0, 2, 0, 2], [2, 2, 2, 0, 2], [0, 0, 0, 0, 0], [0, 0, 0, 0, 5]])
    wanted = torch.tensor([[2, 2, 2, 2, 2], [2, 2, 2, 2, 2], [2, 2, 2, 2, 2], [0, 0, 0, 0, 2], [0, 0, 0, 0, 5]])
    found = closed(labels.to(torch.uint8), 3)
    assert found.dtype == torch.uint8 and found.long().equal(wanted)


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("size", [(40, 61), (2, 9), (1, 1)])
def test_is_opencv_s(side: int, size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 200, size, dtype=np.uint8)
    wanted = cv2.morphologyEx(labels, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    assert np.array_equal(closed(torch.from_numpy(labels), side).numpy(), wanted)


def test_many_classes_stay_what_they_are() -> None:
    labels = torch.full((4, 4), 846, dtype=torch.int32)
    assert closed(labels, 3).equal(labels)


@pytest.mark.parametrize("wrong", [2, 4, 9, -3])
def test_other_sides_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="0, 3, 5 or 7"):
        Setting(closing_px=wrong)


@pytest.mark.parametrize("changes", [{}, {"refine": "pamr", "refine_steps": 1}], ids=str)
def test_labels_of_a_pipeline_are_closed_last(changes: dict[str, Any]) -> None:
    """At the size of the output, after refinement and after the threshold."""
    blocks = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    photo = Photo(blocks.repeat(10, 0).repeat(10, 1))
    method, record = create_method("maskclip", "tiny-clip"), find_record("voc21")
    setting = Setting(probability_threshold=0.06, templates="simple", **changes)
    labels = Pipeline(method, setting, record).predict(photo, Clock())
    found = Pipeline(method, setting.model_copy(update={"closing_px": 3}), record).predict(photo, Clock())
    assert found.equal(closed(labels, 3)) and not found.equal(labels)
