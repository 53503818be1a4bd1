"""CLIPSurgery: attention of values with values, summed up beside the last blocks.

    x <- x + A v W_o,   A = softmax(v v^T / sqrt(d))

for each of the last six blocks (``second_path``); v are the values of the ordinary stream.  That is the surgery of the
architecture, from which the authors segment.  Feature surgery, for heat maps of several classes, takes off what all
classes of a window share (c_j: cosine of a patch with query j, g_j: that of the ordinary class token, Q queries):

    w_j c_j - mean over queries of w c,   w = Q softmax(2 g)

It moves the best class wherever the weights differ.  The one for a single class, which subtracts the same number from
every class, moves none and is left out.

Li et al., Pattern Recognition 2025, arXiv:2304.05653, in the form of the public code (xmed-lab/CLIP_Surgery).
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.clip_method import ClipWords
from .blocks.dense_clip import DenseClip, LastBlock, SeenPatches
from .blocks.second_path import SecondPathOptions, run_beside
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit


class CLIPSurgeryOptions(SecondPathOptions):
    """Options of ``CLIPSurgery``."""

    positions: Literal["factor", "size", "antialias", "bilinear"] = Field(
        "bilinear", description=SecondPathOptions.model_fields["positions"].description
    )
    feature_surgery: bool = Field(
        False, description="weights every class by the window's class token and takes off the mean; for heat maps"
    )


class CLIPSurgery(DenseClip):
    """See the module docstring for the equations."""

    info = MethodInfo(
        name="clip-surgery",
        title="CLIPSurgery",
        paper="Li et al., Pattern Recognition 2025, arXiv:2304.05653",
        published="CLIPSurgery",
    )
    last_block = LastBlock(("vv",), residual=True, ffn=False)
    reads_layers = True
    options: CLIPSurgeryOptions

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Patch features of the second path and, for feature surgery, the class token of the ordinary one."""
        layers, grid = self.layers(windows)
        count = self.options.blocks
        x = run_beside(self.tower.blocks[-count:], layers[-count:], _attend)
        token = None
        if self.options.feature_surgery:
            last = vit.run_block(self.tower.blocks[-1], layers[-1])
            token = F.normalize(vit.project(self.tower, last[:, 0]), dim=-1)
        return SeenPatches(F.normalize(vit.project(self.tower, x), dim=-1).unflatten(1, grid), class_token=token)

    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        """Cosines with the queries, ``(B, Q, h, w)`` float32, or what feature surgery makes of them."""
        cosines = super().score_windows(seen, words)
        if seen.class_token is None:
            return cosines
        weights = len(words.text) * (2 * seen.class_token @ words.text.T).softmax(dim=1)
        weighted = weights[:, :, None, None] * cosines
        return weighted - weighted.mean(dim=1, keepdim=True)


def _attend(block: vit.Block, tokens: Tensor) -> Tensor:
    """``A v`` of the patches, ``(B, h * w, D)``; the class token is gathered from, too."""
    v = vit.values(block, tokens).unflatten(2, (block.heads, -1)).transpose(1, 2)
    return vit.merge_heads(F.scaled_dot_product_attention(v[:, :, 1:], v, v))
