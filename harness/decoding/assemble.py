"""The linear part of decoding: from the patch grids of windows to any pixel grid, as two banded matrices.

Upsampling a window bilinearly, placing it, adding, dividing by the number of windows that cover a pixel and resizing
to the output are all linear and separable, and the count is a product of row and column counts.  So

    scores(output) = A_y @ S @ A_x^T      per query,

with S the grids of all windows laid side by side and A depending only on geometry (``docs/design/decode.md``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...methods import ScoreField

Span = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """One of the two matrices, ``(out, in)`` float32 on the CPU, and its nonzero entries.

    ``places`` (out, k) int64 and ``shares`` (out, k) float32 list the entries of each row, padded with share 0.
    """

    matrix: Tensor
    places: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Operator:
    """``rows`` is A_y, from R * h cells to H pixels; ``columns`` is A_x, from C * w cells to W pixels."""

    rows: Axis
    columns: Axis


def lay_out(field: ScoreField) -> Tensor:
    """The grids of a field side by side: ``(R * h, C * w, Q)`` for R rows of C windows (queries last, contiguous)."""
    _check_order(field)
    rows, columns = len(_spans(field, 0)), len(_spans(field, 1))
    _, queries, h, w = field.scores.shape
    grids = field.scores.view(rows, columns, queries, h, w)
    return grids.permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, queries).contiguous()


def _check_order(field: ScoreField) -> None:
    for boxes, covers in ((field.boxes, False), (field.covers, True)):
        rows, columns = (_spans(field, axis, covers) for axis in (0, 1))
        if tuple(boxes) != tuple((top, left, bottom, right) for top, bottom in rows for left, right in columns):
            raise ValueError("the windows of a score field must form a grid and be listed row by row")


def operator_for(field: ScoreField, size: tuple[int, int]) -> Operator:
    """The two matrices for decoding ``field`` to ``size`` (height, width); cached by geometry."""
    axes = [
        _axis(
            _spans(field, axis),
            _spans(field, axis, covers=True),
            field.scores.shape[2 + axis],
            field.frame[axis],
            size[axis],
        )
        for axis in (0, 1)
    ]
    return Operator(*axes)


def _spans(field: ScoreField, axis: int, covers: bool = False) -> tuple[Span, ...]:
    """Start and end of the windows along an axis; checks that windows form a full grid."""
    boxes = field.covers if covers else field.boxes
    spans = tuple(sorted({(b[axis], b[axis + 2]) for b in boxes}))
    others = sorted({(b[1 - axis], b[3 - axis]) for b in boxes})
    if len(spans) * len(others) != len(boxes):
        raise ValueError(f"{len(boxes)} windows are not a grid of {len(spans)} by {len(others)}")
    return spans


def expand_columns(grids: Tensor, columns: Axis) -> Tensor:
    """``(h, C * w, Q)`` -> ``(h, W, Q)``.

    Sums are products and additions of whole tensors, one entry after the other, never a matrix product: a GEMM rounds
    an element by where it lies, so of two classes with equal scores the wrong one could win the tie.
    """
    places, shares = columns.places.to(grids.device), columns.shares.to(grids.device)
    out = grids.index_select(1, places[:, 0]).mul_(shares[:, 0, None])
    for k in range(1, places.shape[1]):
        out += grids.index_select(1, places[:, k]).mul_(shares[:, k, None])
    return out


def mix_rows(expanded: Tensor, rows: Axis, block: int) -> Iterator[tuple[slice, Tensor]]:
    """``(R * h, W, Q)`` -> ``block`` output rows at a time, ``(rows, (n, W, Q))``; rounds alike for all classes.

    The yielded tensor is reused for the next block.  Products are rounded before they are added, since whether
    ``add_(alpha=...)`` does so depends on the processor.
    """
    places, shares = rows.places.tolist(), rows.shares.tolist()
    buffer = expanded.new_empty(min(block, len(places)), *expanded.shape[1:])
    product = torch.empty_like(expanded[0])
    for top in range(0, len(places), block):
        bottom = min(top + block, len(places))
        for number in range(top, bottom):
            out = torch.mul(expanded[places[number][0]], shares[number][0], out=buffer[number - top])
            for place, share in zip(places[number][1:], shares[number][1:], strict=True):
                if share:
                    out += torch.mul(expanded[place], share, out=product)
        yield slice(top, bottom), buffer[: bottom - top]


@lru_cache(maxsize=256)
def _axis(boxes: tuple[Span, ...], covers: tuple[Span, ...], grid: int, frame: int, size: int) -> Axis:
    """From the grid cells of all windows along an axis to its output pixels."""
    placed = torch.zeros(frame, len(boxes) * grid, dtype=torch.float64)
    visits = torch.zeros(frame, 1, dtype=torch.float64)
    for k, ((start, end), (cover_start, cover_end)) in enumerate(zip(boxes, covers, strict=True)):
        window = interpolation(grid, cover_end - cover_start)[start - cover_start : end - cover_start]
        placed[start:end, k * grid : (k + 1) * grid] += window
        visits[start:end] += 1
    if not bool((visits > 0).all()):
        raise ValueError(f"windows {boxes} leave pixels of a side of {frame} px uncovered")
    averaged = placed / visits
    matrix = (averaged if size == frame else interpolation(frame, size) @ averaged).float()
    most = int((matrix != 0).sum(dim=1).max())
    places = (matrix != 0).int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return Axis(matrix, places, matrix.gather(1, places))


def interpolation(source: int, target: int) -> Tensor:
    """``F.interpolate(mode="bilinear", align_corners=False)`` along one axis, ``(target, source)`` float64."""
    position = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(min=0)
    low = position.floor().long().clamp(max=source - 1)
    high = (low + 1).clamp(max=source - 1)
    share = position - low
    matrix = torch.zeros(target, source, dtype=torch.float64)
    place = torch.arange(target)
    matrix[place, low] += 1 - share
    matrix[place, high] += share
    return matrix
