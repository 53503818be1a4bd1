"""Tokens that stand apart from the others, and replacing them by their neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS, SHARE = 30, 0.05


def local_outliers(tokens: Tensor) -> Tensor:
    """Which of ``(B, N, D)`` stand apart, ``(B, N)`` bool: the ``SHARE`` with the largest local outlier factor.

    The factor is the mean of ``kd_i / kd_j`` over the 30 nearest tokens j, ``kd`` the squared distance to the 30th.
    Among 30 tokens or fewer none stands apart.
    """
    if tokens.shape[1] <= NEIGHBOURS:
        return torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    distances = torch.cdist(tokens.float(), tokens.float(), compute_mode="donot_use_mm_for_euclid_dist").square()
    near = distances.topk(NEIGHBOURS + 1, largest=False)  # the token itself first
    reach = near.values[..., -1].clamp(min=1e-12)
    theirs = reach[:, None].expand_as(distances).gather(2, near.indices[..., 1:])
    factor = (reach[..., None] / theirs).mean(dim=-1)
    return factor > factor.quantile(1 - SHARE, dim=-1, keepdim=True)


def repair(tokens: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """``tokens`` ``(B, h * w, D)`` with ``outliers`` replaced by the mean of those of their 8 neighbours that are none.

    An outlier among outliers stays as it is.
    """
    sound = (~outliers).unflatten(1, grid)[:, None].float()
    maps = tokens.float().transpose(1, 2).unflatten(2, grid)
    total, count = (F.avg_pool2d(x, 3, stride=1, padding=1, divisor_override=1) for x in (maps * sound, sound))
    mean = (total / count.clamp(min=1)).flatten(2).transpose(1, 2).to(tokens.dtype)
    return torch.where((outliers & (count > 0).flatten(1))[..., None], mean, tokens)
