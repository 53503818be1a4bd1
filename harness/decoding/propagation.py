"""Propagation of scores over the image (``refine = "pearl"``): a field is pooled to a coarse grid and solved there."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...methods import ScoreField
from ...methods.core.windows import Box
from ...methods.refine.propagation import grey_level, pool_factors, propagate, weights_of
from .assemble import lay_out, operator_for


@dataclass(frozen=True)
class Propagation:
    """``texts`` ``(Q, dim)`` are unit embeddings of the queries, ``grid`` is about how many cells a side has."""

    texts: Tensor
    grid: int

    def refine(self, field: ScoreField, pixels: Tensor, size: tuple[int, int], probable: bool) -> ScoreField:
        """The field after propagation over the image, of ``size``, as one grid over the whole of it.

        ``pixels`` ``(3, h, w)`` uint8 are those that the method saw, on any device; ``probable``: scores are
        probabilities.  Pooling is linear and separable like all that
        comes before it: full-size maps are never made.
        """
        field = field.dense()
        scores, grey = self.pooled(field, pixels, size)
        weights = weights_of(scores, grey, self.texts.to(scores.device), probable)
        whole = (Box(0, 0, *size),)
        scores = propagate(scores, weights)[None]
        return replace(field, scores=scores, boxes=whole, covers=whole, frame=size)

    def pooled(self, field: ScoreField, pixels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Scores ``(Q, rows, columns)`` and grey levels ``(rows, columns)`` of cells of the image at ``size``."""
        factors, operator = pool_factors(size, self.grid), operator_for(field, size)
        rows, columns = (
            _pooled(axis.matrix, factor).to(field.scores)
            for axis, factor in zip((operator.rows, operator.columns), factors, strict=True)
        )
        scores = torch.einsum("yi,ijq,xj->qyx", rows, lay_out(field), columns)
        full = F.interpolate(grey_level(pixels)[None, None], size, mode="bilinear", align_corners=False)
        return scores, F.avg_pool2d(full, factors)[0, 0].to(scores)


def _pooled(matrix: Tensor, factor: int) -> Tensor:
    """Means of ``factor`` rows each of a matrix ``(n, cells)``; what is left over at the end is dropped."""
    rows = len(matrix) // factor
    return matrix[: rows * factor].unflatten(0, (rows, factor)).mean(dim=1)
