"""PEARL: keys are turned towards queries, as in Procrustes' problem, before they attend.

    z = A v W_o,   A = softmax((q (k R)^T + alpha kc kc^T) / sqrt(d))
    R = M Z / sqrt(|B|),   M = kc^T qc,   B = M^T M,   Z the inverse square root of B / |B| + 1e-6 I
    qc = q - sum_i w_i q_i,   kc = k - sum_i w_i k_i,   w_i = |q_i| / sum |q|, 0 for the class token

per head, in float32; |B| is the Frobenius norm.  Z is what five steps of Newton and Schulz give, which leaves small
singular values of R small: it is no rotation.  ``rotation=svd`` is the orthogonal factor of M itself.  No skip
connection, no MLP.  The published default also refines with TLP: that is ``refine = "pearl"`` of the protocol
(``ovss.methods.refine.propagation``).

PEARL, CVPR 2026, in the form of the public code (PGSmall/PEARL, commit c26062b).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.dense_clip import DenseClip, DenseClipOptions, LastBlock, SeenPatches, project_mixed
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit

STEPS = 5


class PEARLOptions(DenseClipOptions):
    """Options of ``PEARL``."""

    alpha: float = Field(
        0.08, ge=0, description="weight of the keys' own similarity; published: 0.3 on Cityscapes and ADE20K"
    )
    rotation: Literal["newton-schulz", "svd"] = Field(
        "newton-schulz", description="R: five steps towards the orthogonal factor of M (published), or that factor"
    )


class PEARL(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="pearl",
        title="PEARL",
        paper="CVPR 2026; public code PGSmall/PEARL",
        published="PEARL",
    )
    last_block = LastBlock(("qk", "kk"), residual=False, ffn=False)
    options: PEARLOptions

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Patch features of windows."""
        tokens, grid = self.trunk(windows)
        q, k, v = (part.float() for part in self.last_heads(windows))
        mixed = vit.merge_heads(self._mix(q, k, v)).to(tokens.dtype)
        features = F.normalize(project_mixed(self.tower, self.last_block, tokens, mixed), dim=-1)
        return SeenPatches(features.unflatten(1, grid))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """A v of the patches, ``(B, heads, N, d)``: both products are one, of queries and keys laid side by side."""
        weights = q.norm(dim=-1, keepdim=True)
        weights[:, :, 0] = 0
        weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-6)
        qc, kc = (part - (weights * part).sum(dim=2, keepdim=True) for part in (q, k))
        m = kc.mT @ qc
        turned = k @ (rotation(m) if self.options.rotation == "newton-schulz" else orthogonal_factor(m))
        looking = torch.cat([q, self.options.alpha * kc], dim=-1)[:, :, 1:]
        seen = torch.cat([turned, kc], dim=-1)
        return F.scaled_dot_product_attention(looking, seen, v, scale=q.shape[-1] ** -0.5)


def rotation(m: Tensor) -> Tensor:
    """R of M ``(..., d, d)`` float32, by ``STEPS`` steps."""
    gram = m.mT @ m
    size = torch.linalg.matrix_norm(gram, keepdim=True)
    identity = torch.eye(m.shape[-1], device=m.device)
    y, z = gram / size + 1e-6 * identity, identity.expand_as(gram)
    for _ in range(STEPS):
        step = (3 * identity - z @ y) / 2
        y, z = y @ step, step @ z
    return m @ z / size.sqrt()


def orthogonal_factor(m: Tensor) -> Tensor:
    """U V^T of M = U S V^T."""
    u, _, v = torch.linalg.svd(m)
    return u @ v
