"""A second path beside the last blocks of CLIP, which CLIPSurgery and GEM read their patch features from.

    x <- x + SSA_b(y_b) W_o     for each of the last blocks b

y_b is the input of block b in the ordinary stream, x starts as that of the first of them.  SSA attends by
similarities of a part (queries, keys or values) with itself.  This path has no MLP, and nothing of it goes back.
"""

from collections.abc import Callable, Sequence

from pydantic import Field
from torch import Tensor

from ..models import vit
from .dense_clip import DenseClipOptions

Attend = Callable[[vit.Block, Tensor], Tensor]
"""What the patches of a block's input ``(B, 1 + h * w, D)`` gather, heads merged: ``(B, h * w, D)``."""


class SecondPathOptions(DenseClipOptions):
    """How long the second path is."""

    blocks: int = Field(
        6, ge=1, description="last blocks that the second path runs beside; a tower with fewer takes part as a whole"
    )


def run_beside(blocks: Sequence[vit.Block], inputs: Sequence[Tensor], attend: Attend) -> Tensor:
    """Patches after the second path, ``(B, h * w, D)``; the class token's own row is never needed."""
    x = inputs[0][:, 1:]
    for block, tokens in zip(blocks, inputs, strict=True):
        x = x + vit.project_out(block, attend(block, tokens))
    return x
