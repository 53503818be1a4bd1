"""SFP: patches that the class token looks at more than they do themselves are replaced by their neighbours.

    z = S2 (g((M + softmax(q q^T / sqrt(d)) + softmax(k k^T / sqrt(d))) / 3, S1 X, x) + g(M, R, r))
    g(A, P, c) = A v W_o + 0.3 c,   q, k, v of the last block, of P alone
    M = softmax of E where E >= 0,   E = 3 (S - mean(S)),   S = cosines of the patches of block 8, below 0.4: 0

``X`` are the patches of block 10, ``R`` the sum of blocks 3 to 9, ``x`` and ``r`` their class tokens; blocks count from
0.  ``S1`` is S, ``S2`` the cosines of block 3 treated alike, both with rows divided by their sums.  With the attention
B of block 10, mean over heads, patches with ``5 * 0.3 * B_0i > B_ii`` stand apart, at most the 10 with the largest
B_0i.  In X and in block 8 they become the mean of their sound neighbours.  No skip connection, no MLP.

Ours: a patch without a sound neighbour stays as it is, where the public code makes NaN of the window; columns of
patches are counted right in windows that are not square; on a backbone that has not 12 blocks, those as deep in it.

SFP, ICCV 2025, in the form of the public code (Kimsure/SFP, commit 2804f5b), which smooths by S1 and S2 since 2026.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.dense_clip import DenseClip, LastBlock, SeenPatches
from .blocks.patch_cosines import attention, pull, similar, smooth
from .blocks.similar_blocks import SimilarBlocks, SimilarBlocksOptions
from .blocks.token_repair import local_outliers, repair
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit
from .models.backbone import Backbone

MOST_OUTLIERS = 10
DETECTOR_FACTOR = 5


class SFPOptions(SimilarBlocksOptions):
    """Options of ``SFP``."""

    detector: Literal["attention", "norm", "local"] = Field(
        "attention",
        description="patches that stand apart: attention of the class token, the 10 largest norms, or SC-CLIP's",
    )
    class_weight: float = Field(
        0.3, ge=0, description="share of the class token that is added to every patch; 5 times it weighs the detector's"
    )


class SFP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="sfp",
        title="SFP",
        paper="Jin et al., ICCV 2025; public code Kimsure/SFP",
        published="SFP",
    )
    last_block = LastBlock(("qq", "kk"), residual=False, ffn=False)
    reads_layers = True
    options: SFPOptions

    def __init__(
        self,
        backbone: Backbone,
        options: SFPOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.blocks = SimilarBlocks.of(self.tower, self.options, self.info.name)

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Patch features of windows."""
        layers, grid = self.layers(windows)
        outputs, x = layers[1:], layers[-1]
        apart = self._apart(layers[-2], x)
        s = similar(repair(outputs[self.blocks.similarity][:, 1:], apart, grid))
        m = pull(s)[:, None]
        summed = torch.stack([outputs[block] for block in self.blocks.summed]).sum(0)
        z = self._main(m, smooth(s, repair(x[:, 1:], apart, grid))) + self._values(m, summed[:, 1:])
        z = z + self.options.class_weight * (x + summed)[:, :1]
        z = smooth(similar(outputs[self.blocks.smoothing][:, 1:]), z)
        return SeenPatches(F.normalize(vit.project(self.tower, z), dim=-1).unflatten(1, grid))

    def _main(self, m: Tensor, patches: Tensor) -> Tensor:
        """``patches`` ``(B, N, D)`` through the last block, by M ``(B, 1, N, N)`` and its own q and k."""
        q, k, v = vit.split_heads(self.tower.blocks[-1], patches)
        own = F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)
        return self._out((own + m.to(v.dtype) @ v) / 3)

    def _values(self, m: Tensor, patches: Tensor) -> Tensor:
        """The same by M alone."""
        v = vit.split_heads(self.tower.blocks[-1], patches)[2]
        return self._out(m.to(v.dtype) @ v)

    def _out(self, y: Tensor) -> Tensor:
        return vit.project_out(self.tower.blocks[-1], vit.merge_heads(y))

    def _apart(self, before: Tensor, x: Tensor) -> Tensor:
        """Which patches of X ``(B, 1 + N, D)`` stand apart, ``(B, N)`` bool; ``before`` is what block 10 made X of."""
        patches = x[:, 1:]
        if self.options.detector == "local":
            return local_outliers(patches)
        if self.options.detector == "norm":
            return _largest(patches.float().norm(dim=-1))
        q, k, _ = vit.split_heads(self.tower.blocks[-2], before)
        looks = torch.stack([attention(*heads).mean(dim=0) for heads in zip(q, k, strict=True)])
        given = DETECTOR_FACTOR * self.options.class_weight * looks[:, 0, 1:]
        apart = given > looks.diagonal(dim1=1, dim2=2)[:, 1:]
        return apart & _largest(given.masked_fill(~apart, 0))


def _largest(values: Tensor) -> Tensor:
    """Where the ``MOST_OUTLIERS`` largest of ``(B, N)`` are, bool."""
    best = values.topk(min(MOST_OUTLIERS, values.shape[1]), dim=1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, best, True)
