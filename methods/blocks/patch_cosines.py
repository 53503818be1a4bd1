"""Which patches are alike: cosines of their tokens, those that are too small left out, and means over them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST_COSINE = 0.4


def similar(tokens: Tensor) -> Tensor:
    """Cosines of ``(B, N, D)``, those below ``LOWEST_COSINE`` set to 0: ``(B, N, N)`` float32."""
    unit = F.normalize(tokens.float(), dim=-1)
    cosines = unit @ unit.mT
    return cosines.masked_fill(cosines < LOWEST_COSINE, 0)


def smooth(alike: Tensor, patches: Tensor) -> Tensor:
    """Each of ``patches`` ``(B, N, D)`` as the mean over all, weighted by its row of ``alike`` ``(B, N, N)``."""
    return (alike / (alike.sum(dim=-1, keepdim=True) + 1e-6)).to(patches.dtype) @ patches


def pull(alike: Tensor, gamma: float = 3.0) -> Tensor:
    """Softmax over j of ``gamma * (alike - its mean)`` where that is not negative: ``(B, N, N)`` float32.

    The mean is over all of a window.  A patch always keeps itself, also where all are equal and rounding decides.
    """
    above = gamma * (alike - alike.mean(dim=(-2, -1), keepdim=True))
    above = above.masked_fill(above < 0, -math.inf)
    above.diagonal(dim1=-2, dim2=-1).clamp_(min=0)
    return above.softmax(dim=-1)


def attention(a: Tensor, b: Tensor) -> Tensor:
    """``softmax(a b^T / sqrt(d))`` of heads ``(..., T, d)``: ``(..., T, T)`` float32."""
    return ((a * a.shape[-1] ** -0.5) @ b.mT).softmax(dim=-1, dtype=torch.float32)
