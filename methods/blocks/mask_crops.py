"""Crops of an image that masks cut out, and how their class probabilities become scores of masks.

The mask-then-classify half of OVSeg (Liang et al., CVPR 2023, arXiv:2210.04150), in the form of the released
code: facebookresearch/ov-seg, open_vocab_seg/modeling/clip_adapter/adapter.py for the crops and ovseg_model.py,
``semantic_inference``, for what ``S`` is for every proposal q and class c:

    valid proposals      p[q, c] ** (1 - lambda) * phat[q, c] ** lambda
    invalid proposals    p[q, c] ** (1 - lambda)                        an empty mask has no crop: phat becomes 1
    lambda = 0           phat for valid proposals, nothing for invalid ones: the crops alone, not p alone
    no crops at all      p                                              the ensemble is switched off
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Fill = Literal["mean", "blur", "keep"]
BLUR = 1 / 40
"""Standard deviation of the blur that may fill the outside of a mask, in short sides of the image.  Our choice."""


def binary_masks(masks: Tensor, threshold: float) -> Tensor:
    """Where masks are above ``threshold``: ``(Q, h, w)`` floating in [0, 1] -> the same shape, bool."""
    return masks > threshold


def cut_masked(
    image: Tensor,
    masks: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    fill: Fill = "mean",
    expand: float = 1.0,
    square: bool = False,
    side_px: int = 224,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each mask's tight rectangle of the image, resized to a square: ``(3, h, w)`` uint8 and ``(Q, h, w)`` bool.

    Returns crops ``(R, 3, side_px, side_px)`` float32, normalised by ``mean`` and ``std`` (of RGB in [0, 1]); the
    masks of the crops ``(R, side_px, side_px)`` bool; and which masks have any pixel at all, ``(Q,)`` bool with R true.

    Rectangles are stretched to the square: the aspect is not kept (bicubic with a = -0.75, no antialias; masks by the
    nearest pixel).  ``fill`` is what lies outside the mask: "mean" the mean colour, hence exactly 0 once normalised;
    "blur" the blurred image; "keep" the image.  ``expand`` scales rectangles about their centre, ``square`` widens
    the shorter side to the longer one before that; both end at the border of the image.
    """
    if image.ndim != 3 or image.dtype != torch.uint8 or masks.dtype != torch.bool or masks.shape[1:] != image.shape[1:]:
        raise ValueError(f"an image {tuple(image.shape)} {image.dtype} and masks {tuple(masks.shape)} {masks.dtype}")
    pixels = _normalised(image, mean, std)
    outside = {"mean": None, "keep": pixels, "blur": _blurred(pixels) if fill == "blur" else None}[fill]
    valid = masks.flatten(1).any(dim=1)
    crops, crop_masks = [], []
    kept = masks[valid]
    for mask, part in zip(kept, _rectangles(kept, expand, square), strict=True):
        inside = mask[part].float()
        crop = pixels[(slice(None), *part)] * inside
        if outside is not None:
            crop = crop + outside[(slice(None), *part)] * (1 - inside)
        crops.append(F.interpolate(crop[None], (side_px, side_px), mode="bicubic", align_corners=False)[0])
        crop_masks.append(F.interpolate(inside[None, None], (side_px, side_px), mode="nearest")[0, 0] > 0)
    if not crops:
        return pixels.new_zeros(0, 3, side_px, side_px), masks.new_zeros(0, side_px, side_px), valid
    return torch.stack(crops), torch.stack(crop_masks), valid


def fuse_scores(crop_probabilities: Tensor | None, valid: Tensor, prior: Tensor | None, weight: float) -> Tensor:
    """Scores of proposals, ``(Q, K)`` float32; see the module docstring.

    ``crop_probabilities`` is phat ``(R, K)`` of the R valid proposals, or None to leave the crops out; ``valid`` is
    ``(Q,)`` bool.  ``prior`` is p ``(Q, K)``, an objectness ``(Q, 1)``, or None: then valid proposals have
    ``phat ** weight`` (phat itself for 0, too) and invalid ones nothing.  ``weight`` is lambda in [0, 1].
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of crops is between 0 and 1, not {weight}")
    if crop_probabilities is None:
        if prior is None:
            raise ValueError("neither crops nor a prior: there is nothing to score with")
        return prior.float()
    crops = crop_probabilities.float()
    if len(crops) != int(valid.sum()):
        raise ValueError(f"{len(crops)} crops for {int(valid.sum())} valid proposals")
    if weight == 0 or prior is None:
        scores = crops.new_zeros(len(valid), crops.shape[1])
        scores[valid] = crops if weight == 0 else crops**weight
        return scores
    scores = (prior.float() ** (1 - weight)).expand(len(valid), crops.shape[1]).clone()
    scores[valid] *= crops**weight
    return scores


def _normalised(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    middle, spread = (image.new_tensor(v, dtype=torch.float32).view(3, 1, 1) * 255 for v in (mean, std))
    return (image.float() - middle) / spread


def _rectangles(masks: Tensor, expand: float, square: bool) -> list[tuple[slice, slice]]:
    """Rows and columns of the tight rectangles of masks that are not empty."""
    found = zip(*(_spans(masks.any(dim=axis)) for axis in (2, 1)), strict=True)
    return [_widened(spans, expand, square, (masks.shape[1], masks.shape[2])) for spans in found]


def _spans(lines: Tensor) -> list[tuple[int, int]]:
    """First and last (exclusive) set place of each line, ``(Q, L)`` bool."""
    first, last = lines.int().argmax(dim=1), lines.shape[1] - lines.flip(1).int().argmax(dim=1)
    return [(start, end) for start, end in torch.stack([first, last], dim=1).tolist()]


def _widened(
    spans: tuple[tuple[int, int], ...], expand: float, square: bool, size: tuple[int, int]
) -> tuple[slice, slice]:
    longest = max(end - start for start, end in spans)
    if square or expand != 1:
        lengths = [(longest if square else end - start) * expand for start, end in spans]
        spans = tuple(_grown(*span, length, side) for span, length, side in zip(spans, lengths, size, strict=True))
    rows, columns = (slice(*span) for span in spans)
    return rows, columns


def _grown(start: int, end: int, length: float, side: int) -> tuple[int, int]:
    """A span of ``length`` px about the same centre, cut to whole px and to ``[0, side]``; never empty."""
    centre = (start + end) / 2
    first = min(max(int(centre - length / 2), 0), side - 1)
    return first, max(min(int(centre + length / 2), side), first + 1)


def _blurred(pixels: Tensor) -> Tensor:
    """Gaussian blur, ``(3, h, w)`` -> the same; beyond the border lie the border's pixels."""
    height, width = pixels.shape[1:]
    sigma = BLUR * min(height, width)
    reach = max(1, round(3 * sigma))
    distance = torch.arange(-reach, reach + 1, device=pixels.device, dtype=torch.float32)
    kernel = torch.exp(-(distance**2) / (2 * max(sigma, 1e-3) ** 2))
    kernel = kernel / kernel.sum()
    x = F.pad(pixels[:, None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]
