"""Closing a label map, as ITACLIP does: small holes and gaps get the class around them."""

import torch.nn.functional as F
from torch import Tensor


def closed(labels: Tensor, side_px: int) -> Tensor:
    """Morphological closing by a square of ``side_px``, an odd number: the maximum around each pixel, then the minimum.

    Classes are taken as grey values, so a class of a higher index grows into lower ones; pixels outside never count.
    """
    reach = side_px // 2
    grown = F.max_pool2d(labels[None, None].float(), side_px, stride=1, padding=reach)
    return (-F.max_pool2d(-grown, side_px, stride=1, padding=reach))[0, 0].to(labels.dtype)
