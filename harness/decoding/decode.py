"""decode: the only place where scores become pixels.

``decode_reference`` is the protocol written down plainly, with full-size maps.  ``decode`` gives the same labels from
two banded matrices (``assemble``), a few rows at a time, and never holds classes x height x width; on a CPU by the
compiled kernels (``compiled``) where they were built.
"""

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from ...methods import ScoreField, UserError
from ...methods.core.errors import did_you_mean
from ..native.door import kernels
from .compiled import fill, fill_decided, takes
from .rule import DecodeRule
from .tiles import Place, Refiner, check_finite, tiles

DECODER = "OVSS_DECODER"
"""Environment variable: which program decodes on a GPU; worker processes inherit it."""


def decode(
    field: ScoreField, size: tuple[int, int], rule: DecodeRule = DecodeRule(), refine: Refiner | None = None
) -> Tensor:
    """Label map ``(height, width)`` of ``size``, uint8 (int32 for more than 256 classes), on the device of the scores.

    Scores are upsampled to each window, averaged over windows in the frame, resized to ``size``, refined if asked for,
    and reduced by ``rule``, all in float32.  Equal to ``decode_reference`` except where two classes differ by less
    than rounding.

    Raises ``UserError`` when a score is NaN or infinite, or negative where the rule scales by class.
    """
    if decoder_name(field.scores.device) == "triton":
        from .kernels import decode_cuda, supports

        # The kernels choose the type of labels by the classes of the queries alone.
        if supports(rule, refine) and field.mixing is None and rule.num_classes(field) == field.num_classes:
            return decode_cuda(field, size, rule)
    if rule.gated:
        from .gated import decode_gated

        check_finite(field)
        return decode_gated(field, size, rule, refine).to(_dtype(field, rule))
    decided = _decided(field, size, rule) if refine is None else None
    if decided is not None:
        return decided
    winners = winners_of(field, size, rule, refine, probable=rule.probability_threshold > 0)
    if winners.probability is not None:
        assert rule.background is not None
        winners.labels.masked_fill_(winners.probability < rule.probability_threshold, rule.background)
    return winners.labels


@dataclass(frozen=True)
class Winners:
    """Class of every pixel before the probability threshold, ``(H, W)``, and its probability, float32, if asked for."""

    labels: Tensor
    probability: Tensor | None


def winners_of(
    field: ScoreField, size: tuple[int, int], rule: DecodeRule, refine: Refiner | None = None, probable: bool = True
) -> Winners:
    """What ``decode`` compares with the threshold of ``rule``, which is not looked at and must not be gated.

    Labels have the type, and errors are those, of ``decode``.
    """
    scale = rule.logit_scale if probable and rule.activation == "softmax" else None
    best = _best_queries(field, size, _dtype(field, rule), scale, refine, valued=probable)
    labels = best.labels
    if rule.area_threshold:
        assert rule.background is not None
        best = _without_small_classes(field, size, rule, refine, best)
        # Where even the best has lost, no query speaks for the background.
        labels = best.labels.masked_fill_(best.value.isneginf(), rule.background)
    if not probable:
        return Winners(labels, None)
    return Winners(labels, best.value if rule.activation == "none" else best.total.reciprocal_())


def _decided(field: ScoreField, size: tuple[int, int], rule: DecodeRule) -> Tensor | None:
    """Labels under a threshold of the softmax by the compiled kernels, or None where they cannot.

    They bound the softmax's sum, and make it only where the bounds do not decide: nobody sees a probability here.
    """
    if rule.activation == "none" or rule.probability_threshold <= 0 or not takes(field, rule.logit_scale):
        return None
    assert rule.background is not None
    kept = None
    if rule.area_threshold:
        first = winners_of(field, size, replace(rule, area_threshold=0.0), probable=False)
        kept = _large_classes(first.labels, rule.num_classes(field), rule)[torch.tensor(field.query_to_class)]
    labels = torch.full(size, rule.background, dtype=_dtype(field, rule))
    done = fill_decided(labels, field, kept, rule.logit_scale, rule.probability_threshold, rule.background)
    return labels if done else None


def _dtype(field: ScoreField, rule: DecodeRule) -> torch.dtype:
    return torch.uint8 if rule.num_classes(field) <= 256 else torch.int32


def decoder_name(device: str | torch.device) -> str:
    """What decodes scores on a device: ``torch``, or ``compiled`` or ``triton``, which leave to torch what they lack.

    On a CPU the compiled kernels do, where they were built: best queries have the same bits as torch's, probabilities
    differ by rounding.  The Triton kernels are asked for with ``OVSS_DECODER=triton``: they equal the reference in
    Triton's interpreter, and no GPU has verified them yet.  All give the same labels except where two classes, or a
    probability and the threshold, differ by less than rounding, so this is no part of a protocol; a run's manifest has
    the name.

    Raises ``UserError`` for another value of the variable, and where Triton, or kernels that ``OVSS_KERNELS=1`` insists
    on, cannot run: nothing falls back in silence.
    """
    asked = os.environ.get(DECODER) or "torch"
    if asked not in ("torch", "triton"):
        raise UserError(f"${DECODER} is {asked!r}{did_you_mean(asked, ['torch', 'triton'])}")
    if asked == "triton" and (torch.device(device).type != "cuda" or find_spec("triton") is None):
        reason = "Triton is not installed" if find_spec("triton") is None else f"scores are on {device}"
        raise UserError(f"${DECODER} asks for the decoder of Triton, which needs it and a GPU, but {reason}: unset it")
    if torch.device(device).type == "cpu" and kernels() is not None:
        return "compiled"
    return asked


def decode_reference(
    field: ScoreField, size: tuple[int, int], rule: DecodeRule = DecodeRule(), refine: Refiner | None = None
) -> Tensor:
    """The protocol, step by step, at full size.  Same contract as ``decode``.

    The order is that of the family's code (wangf3014/SCLIP, clip_segmentor.py): grids to their windows, windows
    averaged in the frame, the frame to the output's size, and only then temperature, classes and threshold.
    """
    check_finite(field)
    field = field.dense()
    queries, (height, width) = field.scores.shape[1], field.frame
    total, visits = torch.zeros(queries, height, width), torch.zeros(height, width)
    for grid, box, cover in zip(field.scores.cpu(), field.boxes, field.covers, strict=True):
        shape = (cover.bottom - cover.top, cover.right - cover.left)
        window = F.interpolate(grid[None], shape, mode="bilinear", align_corners=False)[0]
        top, left = box.top - cover.top, box.left - cover.left
        window = window[:, top : top + box.bottom - box.top, left : left + box.right - box.left]
        total[:, box.top : box.bottom, box.left : box.right] += window
        visits[box.top : box.bottom, box.left : box.right] += 1
    scores = F.interpolate((total / visits)[None], size, mode="bilinear", align_corners=False)[0]
    if refine is not None:
        scores = refine(scores)
    dtype = _dtype(field, rule)
    # Ranking by score instead of by probability: the softmax rounds different scores to equal probabilities.
    score = _by_class(scores, field, rule)
    if rule.gated:
        from .gated import gated_reference

        return gated_reference(score, field, rule).to(dtype)
    labels = score.max(dim=0).indices
    if rule.area_threshold:
        lost = ~_large_classes(labels, len(score), rule)
        value, labels = score.masked_fill(lost[:, None, None], float("-inf")).max(dim=0)
        assert rule.background is not None
        labels[value.isneginf()] = rule.background  # every class has lost, and no query speaks for the background
    if rule.probability_threshold:
        assert rule.background is not None
        softmax = (scores * rule.logit_scale).softmax(dim=0)
        probability = score if rule.activation == "none" else _by_class(softmax, field, rule)
        labels[probability.gather(0, labels[None])[0] < rule.probability_threshold] = rule.background
    return labels.to(dtype)


def _by_class(maps: Tensor, field: ScoreField, rule: DecodeRule) -> Tensor:
    """``(Q, H, W)`` -> ``(C, H, W)``: the maximum over the queries of each class, -inf for a class without queries."""
    owner, nothing = torch.tensor(field.query_to_class), torch.full_like(maps[:1], float("-inf"))
    classes = range(rule.num_classes(field))
    return torch.stack([torch.cat([nothing, maps[owner == c]]).amax(dim=0) for c in classes])


class Best:
    """Class of the running best query of every pixel, ``labels``, and its score, over tiles of rows or of queries.

    ``total`` is the sum of ``exp(scale * (score - best score))`` over all queries, so ``1 / total`` is the softmax
    probability of the best one; it is kept if ``scale`` is given.  For the sake of large photos nothing here takes 8
    bytes per pixel.  Whoever needs no ``value`` leaves room for none.
    """

    def __init__(
        self,
        field: ScoreField,
        size: tuple[int, int],
        dtype: torch.dtype,
        scale: float | None,
        valued: bool = True,
    ) -> None:
        device = field.scores.device
        self.class_of = torch.tensor(field.query_to_class, device=device, dtype=dtype)
        self.value = torch.full(size if valued else (0,), float("-inf"), device=device)
        self.labels = torch.full(size, field.query_to_class[0], dtype=dtype, device=device)
        self.total = torch.zeros(size if scale is not None else 0, device=device)
        self.scale = scale

    def update(self, place: Place, queries: Tensor, values: Tensor) -> None:
        """Take in ``values`` (rows, columns, k) of ``queries`` (k,)."""
        value, index = values.max(dim=-1)
        old, better = self.value[place], value > self.value[place]
        new = torch.where(better, value, old)
        if self.scale is not None:
            # Online softmax: totals are relative to the best score so far.
            shrunk = self.total[place] * torch.exp(self.scale * (old - new)).nan_to_num(0.0)
            self.total[place] = shrunk + torch.exp(self.scale * (values - new[..., None])).sum(dim=-1)
        self.labels[place] = torch.where(better, self.class_of[queries][index], self.labels[place])
        self.value[place] = new


def _best_queries(
    field: ScoreField,
    size: tuple[int, int],
    dtype: torch.dtype,
    scale: float | None,
    refine: Refiner | None,
    allowed: Tensor | None = None,
    valued: bool = True,
) -> Best:
    """The best queries over all tiles, by the compiled kernels where they can.

    ``allowed`` (C,) bool: classes that may win.  The kernels leave ``value`` out unless it is ``valued``.
    """
    kept = None if allowed is None else allowed[torch.tensor(field.query_to_class, device=allowed.device)]
    if refine is None and takes(field, scale):
        best = Best(field, size, dtype, scale, valued)
        if fill(best, field, kept):
            return best
    check_finite(field)
    best = Best(field, size, dtype, scale)
    for place, queries, values in tiles(field, size, refine):
        if kept is not None:
            values = values.masked_fill(~kept[queries], float("-inf"))
        best.update(place, queries, values)
    return best


def _without_small_classes(
    field: ScoreField, size: tuple[int, int], rule: DecodeRule, refine: Refiner | None, first: Best
) -> Best:
    """A second pass over the scores in which only the classes that pass the area rule may win."""
    allowed = _large_classes(first.labels, rule.num_classes(field), rule)
    second = _best_queries(field, size, first.labels.dtype, None, refine, allowed)
    if first.scale is not None:  # probabilities stay those of the softmax over all queries
        second.total = first.total * torch.exp(first.scale * (first.value - second.value))
    return second


def _large_classes(labels: Tensor, num_classes: int, rule: DecodeRule) -> Tensor:
    """``(C,)`` bool: classes that keep their pixels under the area rule.  The background always does."""
    pixels = torch.bincount(labels.reshape(-1), minlength=num_classes)
    foreground = pixels.sum() - pixels[rule.background]
    keep = pixels > rule.area_threshold * foreground
    keep[rule.background] = True
    return keep
