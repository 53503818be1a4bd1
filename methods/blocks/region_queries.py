"""CLIP's view of regions from one pass over the whole image: masked region queries.

Each region gets its own copy of the class token, which enters at block L - k.  In each of the last k blocks it attends
to itself and to the patches that its mask covers, through the block's own projections; keys and values of the patches
are shared by all regions, and the image's tokens never see the queries.  With a mask over everything this *is* the
class token.  An approximation of encoding a crop of every region: regions are seen at the image's scale and surrounded
by it.  Ours; akin are the mask class tokens of Ding et al., ICML 2023 (arXiv:2208.08984).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import vit
from ..models.vit import Block, VisionTransformer


def default_depth(tower: VisionTransformer) -> int:
    """k: half of the blocks for up to 12 of them, three eighths for more (6 of 12, 9 of 24)."""
    count = len(tower.blocks)
    return max(1, count // 2 if count <= 12 else count * 3 // 8)


def region_features(tower: VisionTransformer, pixels: Tensor, seen: Tensor, depth: int) -> Tensor:
    """Embeddings of regions in CLIP's space, ``(R, dim)`` float32, not normalised.

    ``pixels`` is one image, ``(1, 3, H, W)`` normalised, both sides multiples of the patch.  ``seen`` ``(R, N)`` bool
    says which of its N patches, row by row, each region sees (``covered_patches``).  ``depth`` is k.
    """
    x, _ = vit.embed(tower, pixels)
    first = len(tower.blocks) - depth
    for block in tower.blocks[:first]:
        x = vit.run_block(block, x)
    regions = x[:, :1].expand(-1, len(seen), -1)
    for number, block in enumerate(tower.blocks[first:], start=first + 1):
        q, k, v = vit.split_heads(block, x)
        regions = _attend(block, regions, k[:, :, 1:], v[:, :, 1:], seen)
        if number < len(tower.blocks):  # nothing looks at the image after the last block
            mixed = vit.merge_heads(F.scaled_dot_product_attention(q, k, v))
            x = vit.add_ffn(block, x + vit.project_out(block, mixed))
    return vit.project(tower, regions)[0]


def covered_patches(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches a region sees: ``(R, h, w)`` bool -> ``(R, N)`` bool, at least one each.

    Those of which its mask covers anything; a mask smaller than a patch sees the one that it covers most.  Masks may
    have any size.  Raises ``ValueError`` for an empty one.
    """
    if not bool(masks.flatten(1).any(dim=1).all()):
        raise ValueError("a region without any pixel has no patch to look at")
    share = F.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0].flatten(1)
    best = F.one_hot(share.argmax(dim=1), share.shape[1]).bool()
    area = masks.flatten(1).float().mean(dim=1, keepdim=True) * share.shape[1]
    return torch.where(area < 1, best, share > 0)


def _attend(block: Block, regions: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Region queries ``(1, R, D)`` through a block; keys and values of the patches are ``(1, heads, N, d)``."""
    q, own_key, own_value = vit.split_heads(block, regions)
    scale = q.shape[-1] ** -0.5
    others = (q @ keys.mT * scale).masked_fill(~seen, float("-inf"))
    own = (q * own_key).sum(dim=-1, keepdim=True) * scale
    weight = torch.cat([own, others], dim=-1).float().softmax(dim=-1).to(values.dtype)
    mixed = weight[..., :1] * own_value + weight[..., 1:] @ values
    return vit.add_ffn(block, regions + vit.project_out(block, vit.merge_heads(mixed)))
