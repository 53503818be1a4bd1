"""Tiles of a score field at output size: a few rows, or a few queries, at a time."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...methods import ScoreField, UserError
from .assemble import Axis, Operator, expand_columns, lay_out, mix_rows, operator_for

_BLOCK_BYTES = 4 << 20
_EXPANDED_BYTES = 24 << 20
Place = tuple[slice, slice]
Tile = tuple[Place, Tensor, Tensor]
Refiner = Callable[[Tensor], Tensor]
"""``(k, H, W)`` float32 score maps at output size -> refined maps of the same shape, each map on its own."""


def check_finite(field: ScoreField) -> None:
    """Raise ``UserError`` if any score is NaN or infinite: argmax would turn it into class 0 without a word."""
    kinds = ((field.scores, "scores"), (field.mixing, "weights of masks"), (field.class_scores, "image-level scores"))
    for scores, kind in kinds:
        bad = 0 if scores is None else int((~torch.isfinite(scores)).sum())
        if scores is not None and bad:
            raise UserError(
                f"{bad} of {scores.numel()} {kind} are NaN or infinite; no label map can be made.  With half "
                "precision try --set precision=float32"
            )


def tiles(
    field: ScoreField, size: tuple[int, int], refine: Refiner | None, kept: Tensor | None = None
) -> Iterator[Tile]:
    """Every score once: the pixels it belongs to, ``queries`` (k,), and values ``(rows, columns, k)``.

    Queries come class by class, over all tiles of the same pixels.  ``kept`` (Q,) bool leaves out the others; at least
    one must be kept.  Values are valid until the next tile.
    """
    operator = operator_for(field, size)
    # Queries are visited class by class, so the first of equal scores belongs to the lowest class.
    order = torch.tensor(field.query_to_class, device=field.scores.device).argsort(stable=True)
    if kept is not None:
        order = order[kept[order]]
    grids = lay_out(field)
    mixing = None if field.mixing is None else field.mixing[:, order]
    if mixing is None:
        grids = grids[:, :, order]
    make_tiles = _row_tiles(grids, mixing, operator, order)
    yield from make_tiles if refine is None else _query_tiles(grids, mixing, operator, order, refine)


def _row_tiles(grids: Tensor, mixing: Tensor | None, operator: Operator, order: Tensor) -> Iterator[Tile]:
    """A few rows at a time, in bands of columns so narrow that the expanded grids stay below ``_EXPANDED_BYTES``."""
    rows, columns = operator.rows, operator.columns
    line = 4 * max(grids.shape[2], len(order))
    band = max(1, _EXPANDED_BYTES // (line * grids.shape[0]))
    for left in range(0, len(columns.places), band):
        some = slice(left, left + band)
        expanded = expand_columns(grids, Axis(columns.matrix[some], columns.places[some], columns.shares[some]))
        block = max(1, _BLOCK_BYTES // (line * expanded.shape[1]))
        for lines, values in mix_rows(expanded, rows, block):
            yield (lines, some), order, values if mixing is None else values @ mixing
        del expanded  # before the next band is made


def _query_tiles(
    grids: Tensor, mixing: Tensor | None, operator: Operator, order: Tensor, refine: Refiner
) -> Iterator[Tile]:
    """All pixels of a few queries at a time: a refiner needs whole maps."""
    height, width = len(operator.rows.places), len(operator.columns.places)
    chunk = max(1, _EXPANDED_BYTES // (4 * height * width))
    for some in torch.arange(len(order), device=grids.device).split(chunk):
        chosen = grids[:, :, some] if mixing is None else grids @ mixing[:, some]
        expanded = expand_columns(chosen, operator.columns)
        maps = next(values for _, values in mix_rows(expanded, operator.rows, height))
        yield (slice(None), slice(None)), order[some], refine(maps.permute(2, 0, 1).contiguous()).permute(1, 2, 0)
