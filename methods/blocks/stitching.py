"""Windows' scores as maps of the whole image, for methods that go on with them."""

import torch.nn.functional as F
from torch import Tensor

from ..core.score_field import ScoreField


def stitch(field: ScoreField) -> Tensor:
    """Maps ``(Q, H, W)`` of the frame: each window's scores blown up bilinearly, overlaps averaged."""
    height, width = field.frame
    maps = field.scores.new_zeros(field.scores.shape[1], height, width)
    counts = field.scores.new_zeros(height, width)
    for scores, box in zip(field.scores, field.boxes, strict=True):
        here = (slice(box.top, box.bottom), slice(box.left, box.right))
        size = (box.bottom - box.top, box.right - box.left)
        maps[(slice(None), *here)] += F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
        counts[here] += 1
    return maps.div_(counts)
