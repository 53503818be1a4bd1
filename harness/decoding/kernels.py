"""decode and count on a GPU in two Triton kernels: expand the grids along x, then pick the best query of every pixel.

``decode_cuda`` gives the labels of ``decode`` and ``count_cuda`` the counts of ``count`` on them, from the same two
banded matrices (``assemble``) and in the same order: cells ascending, queries class by class, float32 throughout.
The first kernel writes ``(R * h, Q, W)`` values, which the second reads several rows of pixels at a time; neither
ever holds classes x height x width, and ``count_cuda`` does not write the label map either.

The expansion is a kernel and not a matmul for two reasons.  A matmul is subject to TF32 switches, which are global to
the process and, mixed with their legacy names, raise.  And equal queries get equal values here by construction,
whatever the shape, so the lowest class wins ties.

Verified by Triton's interpreter only (``TRITON_INTERPRET=1``), and compiled for compute capability 9.0.  Not yet run
or timed on a GPU: block sizes and unrolling below are reasoned, not tuned.
"""

# Triton has no types, and its kernels cannot be typed.
# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-untyped-call"

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...methods import ScoreField
from ..metrics.counting import count
from ..metrics.counts import Counts
from .assemble import lay_out, operator_for
from .rule import DecodeRule
from .tiles import Refiner, check_finite

# A tile of pixels.  16 rows mostly lie between the same two rows of patches, so a tile needs few source rows.
_ROWS, _WIDTH = 16, 64
_LINES = 16


def supports(rule: DecodeRule, refine: Refiner | None) -> bool:
    """Whether the kernels can follow ``rule``: no area threshold and no rating of classes, which take a second pass,
    no refiner, and no threshold on anything but the softmax.

    The softmax total is kept relative to the best score, which takes a positive ``logit_scale``.
    """
    if refine is not None or rule.area_threshold or rule.gated:
        return False
    return rule.logit_scale > 0 and (rule.activation == "softmax" or not rule.probability_threshold)


def decode_cuda(field: ScoreField, size: tuple[int, int], rule: DecodeRule) -> Tensor:
    """Label map ``(height, width)`` of ``size``, uint8 (int32 from 257 classes on), on the device of the scores.

    Equal to ``decode`` except where two classes differ by less than rounding.

    Raises ``UserError`` when a score is NaN or infinite and ``ValueError`` when the rule is not ``supports``-ed.
    """
    dtype = torch.uint8 if field.num_classes <= 256 else torch.int32
    labels = torch.empty(size, dtype=dtype, device=field.scores.device)
    _launch(_label_kernel, field, size, rule, labels)
    return labels


def count_cuda(field: ScoreField, label: Tensor, rule: DecodeRule, num_classes: int, ignore_index: int = 255) -> Counts:
    """Counts of one image, as ``count`` gives them for ``decode_cuda(field, label.shape, rule)``.

    ``label`` is an integer map ``(height, width)`` on the device of the scores, with values in [0, num_classes) or at
    ``ignore_index``.

    Raises ``UserError`` for any other label value and for scores that are NaN or infinite, and ``ValueError`` when the
    rule is not ``supports``-ed, could predict a class of ``num_classes`` or more, or ``label`` is elsewhere.
    """
    if label.device != field.scores.device:
        raise ValueError(f"the label map is on {label.device}, the scores are on {field.scores.device}")
    highest = max(field.num_classes - 1, rule.background or 0)
    if highest >= num_classes:
        raise ValueError(f"predictions can reach {highest}, allowed is 0 to {num_classes - 1}")
    # Behind the classes, one bin for pixels that do not count and one for labels that nobody allowed.
    bins = triton.next_power_of_2(num_classes + 2)
    table = torch.zeros(3, bins, dtype=torch.int64, device=label.device)
    height, width = label.shape
    _launch(
        _count_kernel, field, (height, width), rule, label.contiguous(), table, num_classes, ignore_index, BINS=bins
    )
    tp, gt, pred = table.cpu().numpy()
    if gt[num_classes + 1]:
        # Known to be wrong, not yet which values: ``count`` raises with a list of them.
        return count(decode_cuda(field, (height, width), rule), label, num_classes, ignore_index)
    return Counts(tp[:num_classes].copy(), gt[:num_classes].copy(), pred[:num_classes].copy())


def _launch(
    kernel: Any, field: ScoreField, size: tuple[int, int], rule: DecodeRule, *own: Tensor | int, **constants: int
) -> None:
    """Expand ``field`` along x, then run ``kernel`` (with its ``own`` arguments) on every tile of ``size``."""
    if not supports(rule, None):
        raise ValueError(f"the GPU kernels do not support {rule}")
    check_finite(field)
    device = field.scores.device
    operator = operator_for(field, size)
    order, classes = _visits(field.query_to_class, device)
    grids = lay_out(field)[:, :, order].transpose(1, 2).contiguous()
    (cells_y, queries, cells_x), tiles = grids.shape, triton.cdiv(size[1], _WIDTH)
    # Rows are padded to whole tiles: aligned loads without masks, and one compiled kernel for images of all widths.
    pitch, lines = tiles * _WIDTH, cells_y * queries
    expanded = torch.empty(cells_y, queries, pitch, device=device)
    with torch.cuda.device_of(expanded):
        sources, shares = _taps(operator.columns.matrix, 1, _WIDTH, device)
        _expand_kernel[(tiles, triton.cdiv(lines, _LINES))](
            grids, sources, shares, expanded, lines, cells_x, pitch,
            TAPS=sources.shape[0], LINES=_LINES, WIDTH=_WIDTH, enable_fp_fusion=True,
        )  # fmt: skip
        sources, shares = _taps(operator.rows.matrix, _ROWS, _ROWS, device)
        kernel[(tiles, sources.shape[1])](
            expanded, sources, shares, classes, queries, pitch, sources.shape[1],
            float(rule.logit_scale), float(rule.probability_threshold), rule.background or 0, *size, *own,
            TAPS=sources.shape[0], THRESHOLD=bool(rule.probability_threshold), ROWS=_ROWS, WIDTH=_WIDTH,
            enable_fp_fusion=True, **constants,
        )  # fmt: skip


@lru_cache(maxsize=64)
def _visits(query_to_class: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Queries ``(Q,)`` int64 class by class, so the first of equals is of the lowest class; their classes, int32."""
    classes = torch.tensor(query_to_class)
    order = classes.argsort(stable=True)
    return order.to(device), classes[order].int().to(device)


# Tensors hash by identity, and ``operator_for`` returns the same matrix for the same geometry.
@lru_cache(maxsize=512)
def _taps(matrix: Tensor, group: int, multiple: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The nonzeros of a banded matrix ``(n, cells)``, n padded with zeros to a ``multiple``, by groups of its rows.

    ``sources`` ``(taps, groups)`` int32: the cells that any row of a group uses, ascending, then some that none uses.
    ``shares`` ``(taps, groups, group)`` float32: the share of each in every row of the group, zero where unused.
    """
    padded = torch.nn.functional.pad(matrix, (0, 0, 0, -len(matrix) % multiple))
    rows = padded.view(-1, group, padded.shape[1])
    used = rows.any(dim=1)
    taps = int(used.sum(dim=1).max())
    sources = used.int().argsort(dim=1, descending=True, stable=True)[:, :taps]
    shares = rows.gather(2, sources[:, None].expand(-1, group, -1)).permute(2, 0, 1)
    return sources.T.int().contiguous().to(device), shares.contiguous().to(device)


@triton.jit(do_not_specialize=["lines", "cells"])
def _expand_kernel(
    grids, sources, shares, expanded, lines, cells, pitch,
    TAPS: tl.constexpr, LINES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """``grids`` (lines, cells) -> ``expanded`` (lines, pitch): every line times the transposed column matrix."""
    x = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    line = (tl.program_id(1) * LINES + tl.arange(0, LINES)).to(tl.int64)[:, None]
    value = tl.full((LINES, WIDTH), 0.0, tl.float32)
    for tap in tl.static_range(TAPS):
        cell = tl.load(sources + tap * pitch + x)[None, :]
        share = tl.load(shares + tap * pitch + x)[None, :]
        value += share * tl.load(grids + line * cells + cell, mask=line < lines, other=0.0)
    tl.store(expanded + line * pitch + x[None, :], value, mask=line < lines)


@triton.jit
def _winners(
    expanded, sources, shares, classes, queries, pitch, groups, scale, threshold, background,
    TAPS: tl.constexpr, THRESHOLD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Classes ``(ROWS, WIDTH)`` int32 of this program's tile of pixels."""
    group = tl.program_id(1)
    x = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    best = tl.full((ROWS, WIDTH), float("-inf"), tl.float32)
    winner = tl.full((ROWS, WIDTH), 0, tl.int32)
    total = tl.full((ROWS, WIDTH), 0.0, tl.float32)
    # Unrolled, so that the loads of the next queries are under way while this one is compared.  What does not depend
    # on the query (sources, shares) is hoisted out of the loop by the compiler.
    for query in tl.range(0, queries, loop_unroll_factor=4):
        score = tl.full((ROWS, WIDTH), 0.0, tl.float32)
        for tap in tl.static_range(TAPS):
            cell = tl.load(sources + tap * groups + group).to(tl.int64)
            share = tl.load(shares + (tap * groups + group) * ROWS + tl.arange(0, ROWS))
            value = tl.load(expanded + cell * queries * pitch + x + query * pitch)
            score += share[:, None] * value[None, :]
        better = score > best
        if THRESHOLD:
            # Online softmax: totals are relative to the best score so far, and one exponential serves both cases.
            less = tl.exp(-scale * tl.abs(score - best))
            total = tl.where(better, total * less + 1.0, total + less)
        best = tl.where(better, score, best)
        winner = tl.where(better, query, winner)
    label = tl.load(classes + winner)
    if THRESHOLD:
        label = tl.where(1.0 / total < threshold, background, label)
    return label


_SIZES = ["queries", "groups", "background", "height", "width"]


@triton.jit(do_not_specialize=_SIZES)
def _label_kernel(
    expanded, sources, shares, classes, queries, pitch, groups, scale, threshold, background, height, width, labels,
    TAPS: tl.constexpr, THRESHOLD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write ``labels`` (height, width)."""
    won = _winners(
        expanded, sources, shares, classes, queries, pitch, groups, scale, threshold, background,
        TAPS, THRESHOLD, ROWS, WIDTH,
    )  # fmt: skip
    y = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    x = (tl.program_id(0) * WIDTH + tl.arange(0, WIDTH))[None, :]
    tl.store(labels + y * width + x, won, mask=(y < height) & (x < width))


@triton.jit(do_not_specialize=[*_SIZES, "num_classes", "ignore_index"])
def _count_kernel(
    expanded, sources, shares, classes, queries, pitch, groups, scale, threshold, background, height, width,
    labels, table, num_classes, ignore_index,
    TAPS: tl.constexpr, THRESHOLD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Add to ``table`` (3, BINS): tp, gt and pred per class; bin ``num_classes`` is for pixels that do not count,
    the next one of gt for labels that are neither a class nor ignored.
    """
    won = _winners(
        expanded, sources, shares, classes, queries, pitch, groups, scale, threshold, background,
        TAPS, THRESHOLD, ROWS, WIDTH,
    )  # fmt: skip
    y = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    x = (tl.program_id(0) * WIDTH + tl.arange(0, WIDTH))[None, :]
    inside = (y < height) & (x < width)
    truth = tl.load(labels + y * width + x, mask=inside, other=0).to(tl.int32)
    counted = inside & (truth != ignore_index)
    known = (truth >= 0) & (truth < num_classes)
    gt = tl.where(counted, tl.where(known, truth, num_classes + 1), num_classes)
    pred = tl.where(counted, won, num_classes)
    tp = tl.where(counted & (truth == won), won, num_classes)
    _add(table, tp, ROWS * WIDTH, BINS)
    _add(table + BINS, gt, ROWS * WIDTH, BINS)
    _add(table + 2 * BINS, pred, ROWS * WIDTH, BINS)


@triton.jit
def _add(counts, values, PIXELS: tl.constexpr, BINS: tl.constexpr):
    """Histogram of ``values`` added to ``counts`` (BINS,): one atomic per class of the tile, not per pixel."""
    pixels = tl.histogram(tl.reshape(values, (PIXELS,)), BINS)
    tl.atomic_add(counts + tl.arange(0, BINS), pixels.to(tl.int64), mask=pixels > 0, sem="relaxed")
