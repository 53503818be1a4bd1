"""CLIP's image tower on crops with mask prompts: learned tokens in the place of patches that show nothing.

With f = 1 for a patch that any pixel of the mask lies in, else 0, and the prompts E ``(depth, N, C)``:

    x <- f x + (1 - f) E_0         patches, before the class token and the positions
    x <- block_i(x)
    x <- f x + (1 - f) E_(i+1)     patches again, after each block i with i + 1 < depth; the class token stays

Liang et al., CVPR 2023, arXiv:2210.04150, in the form of the released code (facebookresearch/ov-seg,
open_clip_training/src/open_clip/model.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import vit


def shown_patches(masks: Tensor, patch_px: int) -> Tensor:
    """Which patches have any pixel of the mask: ``(R, S, S)`` bool -> ``(R, N, 1)`` bool."""
    return F.max_pool2d(masks[:, None].float(), patch_px).flatten(1)[..., None] > 0


@torch.inference_mode()
def embed_crops(tower: vit.VisionTransformer, prompts: Tensor | None, crops: Tensor, masks: Tensor) -> Tensor:
    """Embeddings of crops, ``(R, dim)`` float32, unit length.

    ``crops`` ``(R, 3, S, S)`` are normalised, of the size that the tower was trained for, in its dtype; ``masks``
    ``(R, S, S)`` bool.  ``prompts`` ``(depth, N, C)``, or ``(depth, 1, C)`` for all patches the same, in the tower's
    dtype.  None: plain CLIP, to which blank areas are ordinary pixels.
    """
    side = tower.patch_px
    cells = crops.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)
    grid = (cells.shape[1], cells.shape[2])
    x = cells.flatten(3).flatten(1, 2) @ tower.patch.flatten(1).T
    shown = shown_patches(masks, side)
    depth = 0 if prompts is None else len(prompts)
    if prompts is not None:
        x = torch.where(shown, x, prompts[0])
    x = torch.cat([tower.class_token.expand(len(x), 1, -1), x], dim=1)
    x = vit.norm(x + vit.position_for(tower, *grid).to(x.dtype), tower.ln_pre)
    for i, block in enumerate(tower.blocks, start=1):
        x = vit.run_block(block, x)
        if prompts is not None and i < depth:
            x = torch.cat([x[:, :1], torch.where(shown, x[:, 1:], prompts[i])], dim=1)
    return F.normalize(vit.project(tower, x[:, 0]), dim=-1)
