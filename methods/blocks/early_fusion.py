"""Early-layer fusion: every layer of a CLIP ViT through its last block, with attention fused from the earlier blocks.

For blocks i = 0 .. L-2, run as they are, with x_0 the embedded tokens:

    A_i = softmax(q k^T / sqrt(d))        per head, class token included
    f_i = ln_1^i(x_i),   f_(L-1) = x_(L-1),   M = sum_i A_i

Then, for k = 0 .. L-1 in this order:

    M   <- M / column sums,   M <- M / row sums        kept for the next k
    S   = (M + M^T) / 2,      S <- max(0, S_ij - mean_i S_ij)
    W_k = S / row sums
    O_k = ln_post(concat_heads(W_k V_k) W_o) P,        V_k = W_v ln_1^(L-1)(f_k)

What is easily missed, and moves numbers:

* The two normalisations compound: W_k is made of the (k + 1)-th Sinkhorn iterate of M.
* f_0 .. f_(L-2) are layer-normed twice, by their own ln_1 and by that of the last block; f_(L-1) once.
* Heads stay apart: head h of the last block gets the sum of head h of all earlier blocks.
* The class token takes part in all sums and gives its value to every patch.  Only its own row is left out.

Sun et al., ICCV 2025, arXiv:2411.13836, in the form of the released code (linsun449/cliper.code,
modified_clip/model.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import vit

Attention = Literal["fused", "qq", "kk", "vv", "qk", "identity"]


@dataclass(frozen=True)
class FusedFeatures:
    """Patches of ``B`` images of one size, seen through ``K`` layers.

    ``unit`` is ``(K, B, h * w, dim)`` float32, unit length.  ``attention`` is W of the last layer between patches, mean
    over heads, ``(B, h * w, h * w)`` float32; its rows sum to at most 1, because the class token's share is cut off.
    """

    unit: Tensor
    attention: Tensor
    grid: tuple[int, int]


def fuse_layers(
    tower: vit.VisionTransformer, pixels: Tensor, layers: Sequence[int], attention: Attention = "fused"
) -> FusedFeatures:
    """Features of normalised ``pixels``, ``(B, 3, H, W)``, from the given ``layers`` (from 0 on, in rising order).

    ``attention`` other than "fused" is an ablation: W_k = softmax(a_k b_k^T / sqrt(d)) of the last block itself on f_k,
    or the identity.
    """
    inputs, total, grid = _run_trunk(tower, pixels)
    last = tower.blocks[-1]
    if attention == "fused":
        matrices = fused_attention(total, len(inputs))
    else:
        matrices = (_own_attention(last, x, attention) for x in inputs)
    values = vit.values(last, torch.stack([inputs[k] for k in layers]))
    by_layer = dict(zip(layers, values.unflatten(-1, (last.heads, -1)).transpose(-2, -3), strict=True))
    unit = []
    for k, matrix in enumerate(matrices):
        if k in by_layer:
            y = vit.merge_heads(matrix.to(values.dtype) @ by_layer[k])
            unit.append(F.normalize(vit.project(tower, vit.project_out(last, y)), dim=-1))
    return FusedFeatures(torch.stack(unit), matrix.mean(dim=1)[..., 1:], grid)


def _run_trunk(tower: vit.VisionTransformer, pixels: Tensor) -> tuple[list[Tensor], Tensor, tuple[int, int]]:
    """f_0 .. f_(L-1), ``(B, N, D)`` each; M, ``(B, heads, N, N)`` float32; the patch grid.

    Probabilities are float32 in every precision, as the sums over them must be.
    """
    x, grid = vit.embed(tower, pixels, "half")
    inputs = []
    total = torch.zeros((), device=x.device)
    for block in tower.blocks[:-1]:
        inputs.append(vit.norm(x, block.ln_1))
        q, k, v = vit.split_heads(block, x)
        probabilities = _softmax_product(q, k)
        total = total + probabilities
        x = x + vit.project_out(block, vit.merge_heads(probabilities.to(v.dtype) @ v))
        x = vit.add_ffn(block, x)
    return [*inputs, x], total, grid


def _softmax_product(a: Tensor, b: Tensor) -> Tensor:
    """``softmax(a b^T / sqrt(d))``, float32."""
    return ((a * a.shape[-1] ** -0.5) @ b.mT).softmax(dim=-1, dtype=torch.float32)


def _own_attention(block: vit.Block, x: Tensor, kind: Attention) -> Tensor:
    """Rows of the patches, ``(B, heads, N - 1, N)`` float32."""
    if kind == "identity":
        eye = torch.eye(x.shape[1], device=x.device)[1:]
        return eye.expand(len(x), block.heads, -1, -1)
    parts = dict(zip("qkv", vit.split_heads(block, x), strict=True))
    return _softmax_product(parts[kind[0]][:, :, 1:], parts[kind[1]])


def fused_attention(total: Tensor, steps: int) -> Iterator[Tensor]:
    """W_0 .. W_(steps-1): ``(..., N, N)`` float32, not negative -> ``(..., N - 1, N)`` each, without row 0.

    ``total`` is overwritten with its first iterate, whose column sums are at least 1 / N (or 0).  Later iterates are
    diag(r) M diag(c), never written: c = 1 / (M^T r) and r = 1 / (M c) stay near 1, however rare a token was at first.
    The column sums of an iterate, c * (M^T r), come with the next c, and its row sums are 1, so that the mean over a
    column of S needs no sum over S.  All of S is meant twice as large here; W does not change with it.
    """
    size = total.shape[-1]
    total /= _divisor(total.sum(dim=-2, keepdim=True))
    total /= _divisor(total.sum(dim=-1, keepdim=True))
    row = column = torch.ones_like(total[..., :1])
    for _ in range(steps):
        reached = total.mT @ row
        iterate = (total * column.mT).mul_(row)
        matrix = iterate[..., 1:, :] + iterate.mT[..., 1:, :]
        matrix.sub_((1 + column * reached).mT / size).clamp_(min=0)
        yield matrix.div_(_divisor(matrix.sum(dim=-1, keepdim=True)))
        column = 1 / _divisor(reached)
        row = 1 / _divisor(total @ column)


def _divisor(sums: Tensor) -> Tensor:
    """1 where a sum is 0: a column that nothing attends to, a row that is nowhere above the mean.  They stay 0."""
    return torch.where(sums == 0, 1.0, sums)
