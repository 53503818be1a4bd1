"""GEM: self-self attention of values, keys and queries, summed up beside the last blocks.

    x <- x + W_o (O_v + O_k + O_q) / 3,    O_y = softmax(tau y' y'^T) v,    y' = L2(softmax(tau y y^T) y),   y <- L2(y)

for each of the last six blocks (``second_path``).  q, k and v are those of the ordinary stream, in heads.  tau is the
mean length of the tokens that the projections see, class token included, over the square root of the head size: one
number for each window and block.

Bousselham et al., CVPR 2024, arXiv:2312.00878, in the form of the public code (WalBouss/GEM).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.dense_clip import DenseClip, LastBlock, SeenPatches
from .blocks.second_path import SecondPathOptions, run_beside
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit


class GEMOptions(SecondPathOptions):
    """Options of ``GEM``."""

    positions: Literal["factor", "size", "antialias", "bilinear"] = Field(
        "antialias", description=SecondPathOptions.model_fields["positions"].description
    )
    iterations: int = Field(1, ge=0, description="how often each part gathers its own like before the values are read")
    tau: float | None = Field(None, gt=0, description="inverse temperature; without it that of each window and block")
    running_sum: bool = Field(
        True, description="the whole second path; false: what its last block adds alone, as in ClearCLIP's tables"
    )


class GEM(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="gem",
        title="GEM",
        paper="Bousselham et al., CVPR 2024, arXiv:2312.00878",
        published="GEM",
    )
    last_block = LastBlock(("vv", "kk", "qq"), residual=True, ffn=False)
    reads_layers = True
    options: GEMOptions

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Patch features of the second path."""
        if self.options.running_sum:
            layers, grid = self.layers(windows)
            count = self.options.blocks
            x = run_beside(self.tower.blocks[-count:], layers[-count:], self._attend)
        else:
            (tokens, grid), last = self.trunk(windows), self.tower.blocks[-1]
            x = vit.project_out(last, self._attend(last, tokens))
        return SeenPatches(F.normalize(vit.project(self.tower, x), dim=-1).unflatten(1, grid))

    def _attend(self, block: vit.Block, tokens: Tensor) -> Tensor:
        """``(O_v + O_k + O_q) / 3`` of the patches, ``(B, h * w, D)``."""
        q, k, v = vit.split_heads(block, tokens)
        tau = self._tau(block, tokens, v.shape[-1])
        gathered = []
        for part in (v, k, q):
            y = F.normalize(part, dim=-1)
            for _ in range(self.options.iterations):
                y = F.normalize(F.scaled_dot_product_attention(tau * y, y, y, scale=1.0), dim=-1)
            gathered.append(F.scaled_dot_product_attention(tau * y[:, :, 1:], y, v, scale=1.0))
        return vit.merge_heads(torch.stack(gathered).mean(0))

    def _tau(self, block: vit.Block, tokens: Tensor, head_size: int) -> Tensor:
        """Inverse temperature, ``(B, 1, 1, 1)``."""
        if self.options.tau is not None:
            return tokens.new_full((len(tokens), 1, 1, 1), self.options.tau)
        length = vit.norm(tokens, block.ln_1).float().norm(dim=-1).mean(dim=1)
        return (length / head_size**0.5).to(tokens.dtype).view(-1, 1, 1, 1)
