"""Grid ceiling: the mIoU of a perfect classifier of patches.

Every patch is given the true share of each class in it, and the result is decoded as any score field is.  It needs
labels only, and says how much of a low score is resolution.  The measure is ours.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...datasets import Dataset
from ...methods import Box, ScoreField, UserError
from ..decoding.decode import decode
from ..metrics.counting import count
from ..metrics.counts import Counts
from ..metrics.result import EvalResult
from ..protocol.resize import resized_size
from ..runs.sources import open_any


def grid_ceiling(
    dataset: str | Dataset,
    patch_px: int,
    short_side_px: int = 0,
    limit: int | None = None,
    data_root: Path | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> EvalResult:
    """Score the labels of a data set against themselves through a patch grid.

    The grid is that of an image resized to ``short_side_px`` (0: as it is) with patches of ``patch_px``.
    """
    data = open_any(dataset, data_root) if isinstance(dataset, str) else dataset
    record, ids, counts = data.record, data.ids[:limit], []
    for image_id in ids:
        label = torch.from_numpy(data.load(image_id).label.copy()).int()
        height, width = resized_size(label.shape[0], label.shape[1], short_side_px)
        grid = (height // patch_px, width // patch_px)
        if 0 in grid:
            raise UserError(f"image {image_id} is {width}x{height} px: smaller than one patch of {patch_px} px")
        field = label_field(label, len(record.classes), grid)
        prediction = decode(field, (label.shape[0], label.shape[1]))
        counts.append(count(prediction, label, len(record.classes), record.ignore_index))
        advance(1)
    return EvalResult(record, ids, Counts.stack(counts), data.clusters(ids), data.planned)


def label_field(label: Tensor, num_classes: int, grid: tuple[int, int]) -> ScoreField:
    """Share of each class in each cell of ``grid``, ignored pixels being of no class; ``label`` is ``(H, W)``."""
    rows, columns = (cell_shares(side, cells) for side, cells in zip(label.shape, grid, strict=True))
    planes = [rows @ (label == c).float() @ columns.T for c in range(num_classes)]
    size = (label.shape[0], label.shape[1])
    box = Box(0, 0, *size)
    return ScoreField(torch.stack(planes)[None], (box,), (box,), size, tuple(range(num_classes)))


def cell_shares(pixels: int, cells: int) -> Tensor:
    """How much each pixel of a side adds to each cell's mean, ``(cells, pixels)`` float32; rows sum to 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells
    left = torch.arange(pixels, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    return (overlap.clamp(min=0) * cells / pixels).float()
