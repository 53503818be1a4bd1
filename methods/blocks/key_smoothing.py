"""Key smoothing and prompt denoising of the original MaskCLIP.

Zhou et al., ECCV 2022, arXiv:2112.01071; chongzhou96/MaskCLIP, mmseg/models/decode_heads/maskclip_head.py.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import vit

KeyNorm = Literal["positions", "channels"]
SCALE = 100.0
"""What cosines are multiplied by before any softmax here, as the released code does whatever the weights learnt."""
_REMOVED = -100.0


def denoise_prompts(scores: Tensor, threshold: float) -> Tensor:
    """Remove queries that are sure nowhere: ``(B, N, Q)`` cosines -> the same.

    A query whose probability ``softmax(100 * scores)`` is below ``threshold`` at every position of an image gets -100
    everywhere in it.  With a threshold of 0 nothing changes.
    """
    sure = (SCALE * scores).softmax(dim=2).amax(dim=1, keepdim=True)
    return torch.where(sure < threshold, _REMOVED, scores)


def smooth_by_keys(probabilities: Tensor, keys: Tensor, threshold: float, norm: KeyNorm) -> Tensor:
    """Let positions with similar keys agree: ``(B, N, Q)`` and ``(B, N, D)`` -> ``(B, N, Q)``.

    Positions whose best probability is below ``threshold`` get ``M @ probabilities``, ``M`` the products of all pairs
    of normalised keys (negative ones stay, rows are not normalised); the others keep theirs.  ``norm``: "positions"
    normalises each channel over positions, as the released code does, "channels" each key, as the paper says.
    """
    keys = F.normalize(keys, dim=1 if norm == "positions" else 2)
    smooth = keys @ (keys.transpose(1, 2) @ probabilities)  # M itself, N x N, is never made
    unsure = probabilities.amax(dim=2, keepdim=True) < threshold
    return torch.where(unsure, smooth, probabilities)


def projected_keys(block: vit.Block, tokens: Tensor) -> Tensor:
    """Keys of the patches through the output projection, ``(B, 1 + N, D)`` -> ``(B, N, D)`` float32."""
    _, k, _ = vit.split_heads(block, tokens[:, 1:])
    return vit.project_out(block, vit.merge_heads(k)).float()
