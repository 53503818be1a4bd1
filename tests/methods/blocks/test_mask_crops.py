"""Crops by masks and the fusion of scores, against hand-made cases and an explicit cubic kernel."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods.blocks.mask_crops import Fill, binary_masks, cut_masked, fuse_scores

MEAN, STD = (0.4, 0.5, 0.25), (0.2, 0.25, 0.5)


def image_5x7() -> Tensor:
    return torch.arange(3 * 5 * 7, dtype=torch.uint8).view(3, 5, 7) * 2


def mask_5x7() -> Tensor:
    """An L: rows 1 to 3, columns 2 to 5."""
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1:4, 2] = mask[3, 2:6] = True
    return mask


def normalised(image: Tensor) -> Tensor:
    return (image.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def cubic_rows(length: int, side: int) -> Tensor:
    """The matrix that resizes a line of ``length`` to ``side``: pixel centres, borders repeated, no antialias."""
    matrix = torch.zeros(side, length, dtype=torch.float64)
    for row in range(side):
        place = (row + 0.5) * length / side - 0.5
        first = int(torch.tensor(place).floor())
        for source in range(first - 1, first + 3):
            matrix[row, min(max(source, 0), length - 1)] += cubic(place - source)
    return matrix


def test_rectangle_fill_and_both_resizings() -> None:
    crops, crop_masks, valid = cut_masked(image_5x7(), mask_5x7()[None], MEAN, STD, side_px=10)
    assert crops.shape == (1, 3, 10, 10) and crops.dtype == torch.float32 and valid.tolist() == [True]
    inside = mask_5x7()[1:4, 2:6]
    cut = normalised(image_5x7())[:, 1:4, 2:6] * inside
    assert (cut[:, ~inside] == 0).all(), "the mean colour is exactly 0 once it is normalised"
    wanted = cubic_rows(3, 10) @ cut.double() @ cubic_rows(4, 10).T
    assert (crops[0] - wanted).abs().max() < 1e-5
    rows, columns = (torch.arange(10) * 3 // 10, torch.arange(10) * 4 // 10)
    assert torch.equal(crop_masks[0], inside[rows][:, columns])


def test_a_crop_of_the_wanted_size_is_not_resampled() -> None:
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[0:5, 2:7] = True
    crops, crop_masks, _ = cut_masked(image_5x7(), mask[None], MEAN, STD, side_px=5)
    assert torch.allclose(crops[0], normalised(image_5x7())[:, :, 2:7], atol=1e-6) and crop_masks.all()


def test_what_lies_outside_the_mask() -> None:
    image = torch.randint(0, 256, (3, 100, 140), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mask, whole = mask_5x7().repeat_interleave(20, 0).repeat_interleave(20, 1), torch.zeros(100, 140, dtype=torch.bool)
    whole[20:80, 40:120] = True
    plain = cut_masked(image, whole[None], MEAN, STD, side_px=80)[0][0]
    inside = F.interpolate(mask[20:80, 40:120][None, None].float(), (80, 80), mode="nearest")[0, 0] > 0
    # pixels that are a cubic kernel's reach away from the mask's edge
    inner, outer = (F.max_pool2d(m[None].float(), 7, 1, 3)[0] == 0 for m in (~inside, inside))

    def cut(fill: Fill) -> Tensor:
        return cut_masked(image, mask[None], MEAN, STD, fill, side_px=80)[0][0]

    for fill in get_args(Fill):
        assert torch.allclose(cut(fill)[:, inner], plain[:, inner], atol=1e-5)
    assert torch.allclose(cut("keep"), plain, atol=1e-5)
    assert (cut("mean")[:, outer] == 0).all()
    assert 0 < cut("blur")[:, outer].std() < plain[:, outer].std() / 3, "noise is smoothed away"
    flat = torch.full((3, 5, 7), 80, dtype=torch.uint8)
    blurred = cut_masked(flat, mask_5x7()[None], MEAN, STD, "blur", side_px=12)[0]
    kept = cut_masked(flat, mask_5x7()[None], MEAN, STD, "keep", side_px=12)[0]
    assert torch.allclose(blurred, kept, atol=1e-5), "a flat image stays flat up to its border"


@pytest.mark.parametrize(
    ("expand", "square", "rows", "columns"),
    [
        (1.0, False, (4, 7), (3, 9)),
        (2.0, False, (2, 8), (0, 12)),  # 4 is (4 + 7) / 2 - 3 = 2.5 truncated, 8.5 likewise
        (9.0, False, (0, 10), (0, 12)),
        (1.0, True, (2, 8), (3, 9)),
        (0.1, False, (5, 6), (5, 6)),  # 6.3 and 5.7: never empty
    ],
)
def test_expanded_and_square_rectangles(
    expand: float, square: bool, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = torch.randint(0, 256, (3, 10, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mask = torch.zeros(10, 12, dtype=torch.bool)
    mask[4:7, 3:9] = True
    crops, _, _ = cut_masked(image, mask[None], MEAN, STD, "keep", expand, square, side_px=9)
    wanted = torch.zeros(10, 12, dtype=torch.bool)
    wanted[slice(*rows), slice(*columns)] = True
    assert torch.allclose(crops, cut_masked(image, wanted[None], MEAN, STD, "keep", side_px=9)[0], atol=1e-6)


def test_empty_masks_have_no_crop() -> None:
    masks = torch.stack([torch.zeros_like(mask_5x7()), mask_5x7(), torch.zeros_like(mask_5x7())])
    crops, crop_masks, valid = cut_masked(image_5x7(), masks, MEAN, STD, side_px=8)
    assert len(crops) == len(crop_masks) == 1 and valid.tolist() == [False, True, False]
    for none in (masks[:1], masks[:0]):
        crops, crop_masks, valid = cut_masked(image_5x7(), none, MEAN, STD, side_px=8)
        assert crops.shape == (0, 3, 8, 8) and crop_masks.shape == (0, 8, 8) and not valid.any()
    with pytest.raises(ValueError, match="an image"):
        cut_masked(image_5x7(), masks.float(), MEAN, STD)


def test_masks_are_cut_above_the_threshold() -> None:
    masks = torch.tensor([[[0.39, 0.4, 0.41]]])
    assert binary_masks(masks, 0.4).tolist() == [[[False, False, True]]]


# ---- fusion

P = torch.tensor([[0.5, 0.2], [0.1, 0.6], [0.3, 0.3]])
PHAT = torch.tensor([[0.9, 0.1], [0.25, 0.75]])
VALID = torch.tensor([True, False, True])


def test_scores_are_a_geometric_mean() -> None:
    scores = fuse_scores(PHAT, VALID, P, 0.7)
    for q, c, phat in ((0, 0, 0.9), (0, 1, 0.1), (2, 0, 0.25), (2, 1, 0.75)):
        assert scores[q, c] == pytest.approx(float(P[q, c]) ** 0.3 * phat**0.7, rel=1e-6)
    assert scores[1].tolist() == pytest.approx([0.1**0.3, 0.6**0.3]), "an empty mask is not dropped"
    assert scores.dtype == torch.float32


def test_special_weights() -> None:
    assert torch.equal(fuse_scores(PHAT, VALID, P, 1.0)[VALID], PHAT)
    assert fuse_scores(PHAT, VALID, P, 1.0)[1].tolist() == [1, 1]
    alone = fuse_scores(PHAT, VALID, P, 0.0)
    assert torch.equal(alone[VALID], PHAT) and alone[1].tolist() == [0, 0], "0 is the crops alone, not p alone"
    assert torch.equal(fuse_scores(None, VALID, P, 0.7), P), "without crops it is p"
    with pytest.raises(ValueError, match="nothing to score"):
        fuse_scores(None, VALID, None, 0.7)
    with pytest.raises(ValueError, match="between 0 and 1"):
        fuse_scores(PHAT, VALID, P, 1.2)
    with pytest.raises(ValueError, match="1 crops for 2"):
        fuse_scores(PHAT[:1], VALID, P, 0.7)


def test_objectness_and_nothing_at_all() -> None:
    sure = torch.tensor([[0.5], [0.25], [1.0]])
    scores = fuse_scores(PHAT, VALID, sure, 0.7)
    assert torch.allclose(scores, fuse_scores(PHAT, VALID, sure.expand(3, 2), 0.7))
    assert scores[1].tolist() == pytest.approx([0.25**0.3] * 2)
    bare = fuse_scores(PHAT, VALID, None, 1.0)
    assert torch.equal(bare[VALID], PHAT) and bare[1].tolist() == [0, 0]


def test_no_valid_proposal_gives_finite_scores() -> None:
    none = torch.zeros(3, dtype=torch.bool)
    for prior in (P, None):
        for weight in (0.0, 0.7, 1.0):
            scores = fuse_scores(PHAT[:0], none, prior, weight)
            assert scores.shape == (3, 2) and scores.isfinite().all()
    assert fuse_scores(PHAT[:0], none[:0], None, 1.0).shape == (0, 2)
