"""``upsample = "labels"``: classes on the grid, labels resized by nearest, as CLIP-DIY's released code does."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ovss.harness.decoding.on_grid as module
from ovss.datasets import find_record
from ovss.harness import decode
from ovss.harness.decoding.on_grid import decode_on_grid, nearest
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.protocol.protocol import Setting, load_protocol
from ovss.harness.protocol.words import vocabulary_for
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.methods import ScoreField, UserError, create_method, load_backbone
from ovss.methods.core.windows import Box, WindowGeometry

from ...methods.random_parts import random_parts


def field_of(scores: Tensor, frame: tuple[int, int]) -> ScoreField:
    whole = (Box(0, 0, *frame),)
    return ScoreField(scores[None], whole, whole, frame, tuple(range(len(scores))), activated=True)


def random_scores(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(256, 256), (375, 500), (500, 375), (392, 98), (1024, 2048), (448, 597), (17, 3)])
def test_nearest_is_opencv_s(size: tuple[int, int]) -> None:
    """Whole numbers would pick another cell at 98 and 392 px, where OpenCV's quotient is rounded."""
    labels = torch.arange(256).repeat(256, 1).to(torch.uint8)
    labels = labels + 7 * labels.T
    wanted = cv2.resize(labels.numpy(), size[::-1], interpolation=cv2.INTER_NEAREST)
    assert torch.equal(nearest(labels, size), torch.from_numpy(wanted))


def test_a_grid_is_decided_cell_by_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def seen(field: ScoreField, size: tuple[int, int], rule: DecodeRule) -> Tensor:
        sizes.append(size)
        return decode(field, size, rule)

    monkeypatch.setattr(module, "decode", seen)
    scores = random_scores(5, 6, 8)
    labels = decode_on_grid(field_of(scores, (60, 90)), (12, 24), DecodeRule(activation="none"))
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), scores.argmax(dim=0).repeat_interleave(2, 0).repeat_interleave(3, 1))
    assert sizes == [(6, 8)]  # nothing of classes x height x width at full size
    assert not torch.equal(labels, decode(field_of(scores, (60, 90)), (12, 24)))


def test_the_threshold_is_applied_on_the_grid() -> None:
    scores = torch.tensor([[[0.1, 0.2]], [[0.6, 0.3]]])
    rule = DecodeRule(activation="none", probability_threshold=0.5, background=0)
    assert decode_on_grid(field_of(scores, (1, 2)), (1, 6), rule).tolist() == [[1, 1, 1, 0, 0, 0]]


def test_windows_are_decided_in_the_frame() -> None:
    boxes = WindowGeometry(8, 4).boxes(8, 12)
    field = ScoreField(random_scores(2, 3, 2, 2), boxes, boxes, (8, 12), (0, 1, 2), activated=True)
    rule = DecodeRule(activation="none")
    wanted = nearest(decode(field, (8, 12), rule), (20, 31))
    assert torch.equal(decode_on_grid(field, (20, 31), rule), wanted)


def test_clip_diy_under_its_preset() -> None:
    """Argmax of the 256 x 256 probabilities, then OpenCV's nearest: the released code's order."""
    backbone = load_backbone("tiny-clip")
    method = create_method("clip-diy", backbone=backbone, **random_parts("clip-diy", backbone))
    record = find_record("voc21")
    setting = load_protocol("paper:clip-diy").setting("voc21")
    assert setting.upsample == "labels"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(15, 0).repeat(20, 1)
    labels = Pipeline(method, setting, record).predict(Photo(pixels), Clock())
    scores = method.segment(torch.from_numpy(pixels).permute(2, 0, 1), vocabulary_for(setting, record)).scores[0]
    assert scores.shape == (21, 256, 256)
    wanted = cv2.resize(scores.argmax(dim=0).numpy().astype(np.uint8), (160, 90), interpolation=cv2.INTER_NEAREST)
    assert torch.equal(labels, torch.from_numpy(wanted)) and len(labels.unique()) > 1
    blown_up = F.interpolate(scores[None], (90, 160), mode="bilinear", align_corners=False)[0].argmax(dim=0)
    assert (labels.long() != blown_up).any()


def test_it_cannot_be_refined() -> None:
    with pytest.raises(ValueError, match=r"upsample = 'labels'.*refine = 'pamr'"):
        Setting(upsample="labels", refine="pamr")
    with pytest.raises(UserError, match="set refine to none, or upsample to frame"):
        load_protocol("clip-diy").changed(refine="pamr")
    assert load_protocol("clip-diy").changed(refine="pamr", upsample="frame").setting("voc21").refine == "pamr"
