"""Regions of windows on grids of patches: which are one, and what CLIP's class token says of each (CorrCLIP)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import vit


def nearest(numbers: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of numbers ``(B, h, w)`` int64 on another grid: each place takes the number of the cell that it lies in."""
    return F.interpolate(numbers[:, None].double(), size, mode="nearest")[:, 0].long()


def merge_regions(numbers: Tensor, features: Tensor, distance: float) -> Tensor:
    """Regions of windows ``(B, N)`` int64 as numbers from 0, those that are alike as one; the lowest stays alone, as 0.

    ``features`` ``(B, N, D)`` are of unit length.  Two regions are apart by what the similarity of their mean features
    is below the largest one of the window, a region's with itself included.
    """
    return torch.stack([_merge(one, of, distance) for one, of in zip(numbers, features, strict=True)])


def _merge(numbers: Tensor, features: Tensor, distance: float) -> Tensor:
    present, numbers = numbers.unique(return_inverse=True)
    if len(present) <= 2:
        return numbers
    owner = F.one_hot(numbers).T[1:].to(features)
    means = F.normalize(owner @ features / owner.sum(dim=1, keepdim=True), dim=-1)
    alike = means @ means.T
    linked = (alike.max() - alike <= distance) | torch.eye(len(alike), dtype=torch.bool, device=alike.device)
    for _ in range(len(linked).bit_length()):  # twice as far in each step
        linked = (linked.float() @ linked.float()) > 0
    first = linked.int().argmax(dim=1) + 1  # the lowest that it is linked with speaks for all
    return torch.cat([first.new_zeros(1), first.unique(return_inverse=True)[1] + 1])[numbers]


def class_copies(tower: vit.VisionTransformer, layers: tuple[Tensor, ...], regions: Tensor) -> Tensor:
    """The class token of each region after the last block, ``(B, R, D)``; R is the largest number of a region + 1.

    ``layers`` are the inputs of all blocks (``vit.run_layers``), ``regions`` ``(B, h * w)`` int64.  A copy starts as
    the image's class token and sees that and the patches of its region, not itself and no other; nothing sees it.  A
    region without patches here has a copy that sees the class token alone.
    """
    seen = F.pad(F.one_hot(regions).mT.bool(), (1, 0), value=True)[:, None]
    copies = layers[0][:, :1].expand(-1, seen.shape[2], -1)
    for block, image in zip(tower.blocks, layers, strict=True):
        q, (_, k, v) = vit.split_heads(block, copies)[0], vit.split_heads(block, image)
        mixed = vit.merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))
        copies = vit.add_ffn(block, copies + vit.project_out(block, mixed))
    return copies
