"""SC-CLIP: outliers replaced by their neighbours, patches mixed by what earlier blocks say belongs together.

    z       = S2 (f(S1 X, x) + f(R, r))
    f(P, c) = A v W_o + 0.3 c,   A = (M + softmax(k k^T / sqrt(d))) / 2,   k, v of the last block, of P alone
    M       = softmax of E where E >= 0,   E = 3 (S - mean(S)),   S = cosines of the patches of block 8

``X`` are the patches of block 10, ``R`` the sum of blocks 3 to 9, ``x`` and ``r`` their class tokens; blocks count from
0.  In X and in block 8, the 5 % of patches with the largest local outlier factor in X are replaced by the mean of their
sound neighbours.  ``S1`` is S, ``S2`` the cosines of block 3, both with entries below 0.4 set to 0 and rows divided by
their sums.  No skip connection, no MLP.

Ours: the right patches are repaired in windows that are not square, where the public code breaks off or repairs
others; none in windows of 30 patches or fewer, where it breaks off; a backbone that has not 12 blocks gives those that
are as deep in it.

Bai et al., arXiv:2411.15869, in the form of the public code (SuleBai/SC-CLIP, commit 0417ba9).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks.dense_clip import DenseClip, LastBlock, SeenPatches
from .blocks.patch_cosines import attention, similar, smooth
from .blocks.similar_blocks import SimilarBlocks, SimilarBlocksOptions
from .blocks.token_repair import local_outliers, repair
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit
from .models.backbone import Backbone
from .refine.patch_similarity import similarity_matrix


class SCCLIP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="sc-clip",
        title="SC-CLIP",
        paper="Bai et al., 2024, arXiv:2411.15869",
        published="SC-CLIP",
    )
    last_block = LastBlock(("kk",), residual=False, ffn=False)
    reads_layers = True
    options: SimilarBlocksOptions

    def __init__(
        self,
        backbone: Backbone,
        options: SimilarBlocksOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.blocks = SimilarBlocks.of(self.tower, self.options, self.info.name)

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Patch features of windows."""
        (_, *outputs), grid = self.layers(windows)
        outliers = local_outliers(outputs[-1][:, 1:])
        alike = repair(outputs[self.blocks.similarity][:, 1:], outliers, grid)
        mixing = torch.stack([similarity_matrix(tokens, beta=1.0, gamma=3.0)[0] for tokens in alike])
        patches = smooth(similar(alike), repair(outputs[-1][:, 1:], outliers, grid))
        summed = torch.stack([outputs[block] for block in self.blocks.summed]).sum(0)
        z = self._attend(patches, outputs[-1][:, :1], mixing) + self._attend(summed[:, 1:], summed[:, :1], mixing)
        z = smooth(similar(outputs[self.blocks.smoothing][:, 1:]), z)
        return SeenPatches(F.normalize(vit.project(self.tower, z), dim=-1).unflatten(1, grid))

    def _attend(self, patches: Tensor, class_token: Tensor, mixing: Tensor) -> Tensor:
        """f: patches ``(B, N, D)``, their class token ``(B, 1, D)`` and M ``(B, N, N)`` -> ``(B, N, D)``."""
        block = self.tower.blocks[-1]
        _, k, v = vit.split_heads(block, patches)
        y = ((mixing[:, None] + attention(k, k)) / 2).to(v.dtype) @ v
        return vit.project_out(block, vit.merge_heads(y)) + self.options.class_weight * class_token
