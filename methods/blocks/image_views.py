"""Other views of a window that CLIP may be shown: without colour, and blurred."""

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY = (0.2989, 0.587, 0.114)


def gray(pixels: Tensor) -> Tensor:
    """Weighted sum of the channels of ``(B, 3, H, W)``, in all three."""
    weights = torch.tensor(GRAY, device=pixels.device, dtype=pixels.dtype)
    return (pixels * weights[:, None, None]).sum(dim=1, keepdim=True).expand_as(pixels)


def blurred(pixels: Tensor, width: int = 11, sigma: float = 5.0) -> Tensor:
    """``(B, C, H, W)`` under a Gaussian of ``width`` x ``width`` px, mirrored at the border.

    Raises ``ValueError`` for pixels with a side of half of ``width`` or less.
    """
    rows, columns = (_blur(side, width, sigma).to(pixels) for side in pixels.shape[2:])
    return rows @ pixels @ columns.T


def _blur(side: int, width: int, sigma: float) -> Tensor:
    """A Gaussian between ``side`` places in a row, ``(side, side)``; cuDNN would round a convolution."""
    reach = width // 2
    if side <= reach:
        raise ValueError(f"{side} px cannot be mirrored over {reach} px")
    places = F.pad(torch.arange(side).float()[None, None], (reach, reach), mode="reflect")[0, 0].long()
    kernel = torch.exp(-((torch.arange(width) - reach) ** 2) / (2 * sigma**2))
    matrix = torch.zeros(side, side)
    return matrix.scatter_add_(1, places.unfold(0, width, 1), (kernel / kernel.sum()).expand(side, -1))
