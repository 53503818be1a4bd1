"""Refinement by a guide: the score field of any method, pushed along what belongs together in the image.

    refined = R S,    S = the field's maps on the guide's grid

as in CLIPer (linsun449/cliper.code, ovs/pipeline.py).  What S holds is what the protocol averages: cosines, or
probabilities.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...methods import ScoreField
from ...methods.core.windows import Box
from ...methods.refine.guide import Affinity
from .assemble import lay_out, operator_for


def refine_field(field: ScoreField, affinity: Affinity, size: tuple[int, int]) -> ScoreField:
    """The refined field: one map of the whole image per query, on the guide's grid.

    The guide saw the image at its own ``size``, so that is the frame of the new field.  Image-level scores are the mean
    of the largest refined and the largest coarse score of a class, as in ovs/pipeline.py.
    """
    field = field.dense()
    refined = affinity.propagate(on_grid(field, affinity.grid))
    whole = (Box(0, 0, *size),)
    level = (_largest(refined[None], field) + _largest(field.scores, field)) / 2
    return ScoreField(refined[None], whole, whole, size, field.query_to_class, level, field.activated)


def stretched(field: ScoreField, size: tuple[int, int]) -> ScoreField:
    """The field with ``size`` as its frame, if it is one grid over the whole frame: decoding then resizes it once."""
    if not field.boxes == field.covers == (Box(0, 0, *field.frame),):
        return field
    whole = (Box(0, 0, *size),)
    return replace(field, boxes=whole, covers=whole, frame=size)


def on_grid(field: ScoreField, grid: tuple[int, int]) -> Tensor:
    """Maps of a field, ``(Q, *grid)`` float32.

    A single grid over the whole frame is resized bilinearly in one step, as CLIPer does.  Windows are upsampled,
    averaged in the frame and resized, as for decoding.
    """
    whole = (Box(0, 0, *field.frame),)
    if field.boxes == field.covers == whole:
        return F.interpolate(field.scores, grid, mode="bilinear", align_corners=False)[0]
    operator = operator_for(field, grid)
    rows, columns = (axis.matrix.to(field.scores) for axis in (operator.rows, operator.columns))
    return torch.einsum("yi,ijq,xj->qyx", rows, lay_out(field), columns)


def without_class(field: ScoreField, unwanted: int) -> ScoreField:
    """The field without the queries of a class; as it is if nothing would be left.

    Refinement costs as much per query as the next one: queries that a rule does not look at need none.
    """
    kept = [k for k, owner in enumerate(field.query_to_class) if owner != unwanted]
    if not kept:
        return field
    owners = tuple(field.query_to_class[k] for k in kept)
    level = None if field.class_scores is None else field.class_scores[: max(owners) + 1]
    scores = field.dense().scores[:, kept]
    return ScoreField(scores, field.boxes, field.covers, field.frame, owners, level, field.activated)


def _largest(scores: Tensor, field: ScoreField) -> Tensor:
    """Largest score of each class, ``(K,)``; 0 for classes without queries, which nothing reads."""
    owner = torch.tensor(field.query_to_class, device=scores.device)
    level = scores.new_full((field.num_classes,), float("-inf"))
    level.scatter_reduce_(0, owner, scores.amax(dim=(0, 2, 3)), "amax")
    return level.masked_fill(level.isneginf(), 0.0)
