"""A CLIP vision or text transformer, re-computed from its weights.

The dense methods rewrite the last block of CLIP.  They never patch modules and leave no hooks: the weights are read
once into plain records, and the functions below run them.  Reading parameters by name works with every open_clip
version, whatever its module code does: tensors are (T, B, D) in 2.24 and (B, T, D) from 2.26 on,
under the same names (read there).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import UserError
from .linear import Affine as Affine
from .linear import attention, linear

Activation = Callable[[Tensor], Tensor]
Positions = Literal["factor", "size", "antialias", "bilinear", "half"]


@dataclass(frozen=True)
class Block:
    """One residual attention block; ``scale_1`` and ``scale_2`` are LayerScale factors or None."""

    ln_1: Affine
    qkv: Affine
    out: Affine
    ln_2: Affine
    fc: Affine
    proj: Affine
    scale_1: Tensor | None
    scale_2: Tensor | None
    activation: Activation
    heads: int


@dataclass(frozen=True, eq=False)
class VisionTransformer:
    """Weights of a CLIP ViT, told apart by identity.

    ``position`` stays float32; everything else has the working dtype, LayerNorms float32.
    """

    patch: Tensor
    class_token: Tensor
    position: Tensor
    ln_pre: Affine
    blocks: tuple[Block, ...]
    ln_post: Affine
    projection: Tensor

    @property
    def patch_px(self) -> int:
        """Side of a patch in px."""
        return self.patch.shape[-1]

    @property
    def stored_side(self) -> int:
        """Side of the patch grid that the position embedding was trained for."""
        return round((self.position.shape[0] - 1) ** 0.5)


class PositionTable(Protocol):
    """What of a ViT's weights holds its position embedding."""

    @property
    def position(self) -> Tensor:
        """``(1 + side * side, D)`` float32, the class token's first."""

    @property
    def stored_side(self) -> int:
        """Side of the patch grid that it was trained for."""


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, the activation of OpenAI's weights."""
    return x * torch.sigmoid(1.702 * x)


def activation_name(tower: nn.Module) -> str:
    """``quick_gelu`` or ``gelu``, read off the class of the module's activation."""
    name = type(_activation_module(tower)).__name__
    names = {"QuickGELU": "quick_gelu", "GELU": "gelu"}
    if name not in names:
        raise UserError(f"the backbone's activation is {name}; supported are GELU and QuickGELU")
    return names[name]


def _activation_module(tower: Any) -> nn.Module:
    return next(m for n, m in tower.transformer.resblocks[0].mlp.named_children() if n not in ("c_fc", "c_proj"))


def read_blocks(tower: Any, device: torch.device, dtype: torch.dtype) -> tuple[Block, ...]:
    """Blocks of an open_clip tower, moved to ``device`` and ``dtype`` (no copy where they are there already)."""
    activation: Activation = quick_gelu if activation_name(tower) == "quick_gelu" else F.gelu

    def affine(module: Any) -> Affine:
        bias = None if module.bias is None else module.bias.detach().to(device, dtype)
        return Affine(module.weight.detach().to(device, dtype), bias)

    def scale(module: Any) -> Tensor | None:
        return None if isinstance(module, nn.Identity) else module.gamma.detach().to(device, dtype)

    blocks = []
    for b in tower.transformer.resblocks:
        qkv = Affine(b.attn.in_proj_weight.detach().to(device, dtype), b.attn.in_proj_bias.detach().to(device, dtype))
        blocks.append(
            Block(
                ln_1=read_norm(b.ln_1, device),
                qkv=qkv,
                out=affine(b.attn.out_proj),
                ln_2=read_norm(b.ln_2, device),
                fc=affine(b.mlp.c_fc),
                proj=affine(b.mlp.c_proj),
                scale_1=scale(b.ls_1),
                scale_2=scale(b.ls_2),
                activation=activation,
                heads=b.attn.num_heads,
            )
        )
    return tuple(blocks)


def read_norm(module: Any, device: torch.device) -> Affine:
    """A LayerNorm's parameters in float32."""
    return Affine(module.weight.detach().to(device).float(), module.bias.detach().to(device).float(), module.eps)


def read_vision(visual: Any, device: torch.device, dtype: torch.dtype) -> VisionTransformer:
    """Weights of ``open_clip_model.visual``.

    Raises ``UserError`` when the tower is not a ViT with a class token whose last norm precedes pooling.
    """
    simple = all(hasattr(visual, n) for n in ("conv1", "class_embedding", "ln_pre", "ln_post", "transformer"))
    if not simple or visual.attn_pool is not None or visual.pool_type != "tok" or visual.final_ln_after_pool:
        raise UserError(
            f"the backbone {type(visual).__name__} is not an open_clip ViT with class-token pooling; the dense-CLIP "
            "methods need one, for example ViT-B-16-quickgelu"
        )
    return VisionTransformer(
        patch=visual.conv1.weight.detach().to(device, dtype),
        class_token=visual.class_embedding.detach().to(device, dtype),
        position=visual.positional_embedding.detach().to(device).float(),
        ln_pre=read_norm(visual.ln_pre, device),
        blocks=read_blocks(visual, device, dtype),
        ln_post=read_norm(visual.ln_post, device),
        projection=visual.proj.detach().to(device, dtype),
    )


def norm(x: Tensor, affine: Affine) -> Tensor:
    """LayerNorm over the last axis, computed in float32 and cast back (as OpenAI and open_clip do)."""
    return F.layer_norm(x.float(), x.shape[-1:], affine.weight, affine.bias, affine.eps).to(x.dtype)


def split_heads(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of ``ln_1(x)``: ``(B, T, D)`` -> three of ``(B, heads, T, D / heads)``."""
    batch, tokens, width = x.shape
    qkv = linear(norm(x, block.ln_1), block.qkv)
    q, k, v = qkv.view(batch, tokens, 3, block.heads, width // block.heads).permute(2, 0, 3, 1, 4)
    return q, k, v


def values(block: Block, x: Tensor) -> Tensor:
    """Values of ``ln_1(x)`` without splitting heads, ``(B, T, D)``: a third of the projection."""
    width = x.shape[-1]
    bias = None if block.qkv.bias is None else block.qkv.bias[2 * width :]
    return F.linear(norm(x, block.ln_1), block.qkv.weight[2 * width :], bias)


def project_out(block: Block, y: Tensor) -> Tensor:
    """Output projection of the attention (and LayerScale): ``(B, T, D)`` -> ``(B, T, D)``."""
    y = linear(y, block.out)
    return y if block.scale_1 is None else y * block.scale_1


def merge_heads(y: Tensor) -> Tensor:
    """``(B, heads, T, d)`` -> ``(B, T, heads * d)``."""
    return y.transpose(1, 2).flatten(2)


def add_ffn(block: Block, x: Tensor) -> Tensor:
    """``x + mlp(ln_2(x))``."""
    y = block.activation(linear(norm(x, block.ln_2), block.fc))
    y = linear(y, block.proj)
    return x + (y if block.scale_2 is None else y * block.scale_2)


def attend(block: Block, x: Tensor, causal: bool = False) -> Tensor:
    """The first half of a block, ``x + attention(ln_1(x))``."""
    q, k, v = split_heads(block, x)
    return x + project_out(block, merge_heads(attention(q, k, v, causal)))


def run_block(block: Block, x: Tensor, causal: bool = False) -> Tensor:
    """A block as CLIP has it."""
    return add_ffn(block, attend(block, x, causal))


def position_for(vit: PositionTable, height: int, width: int, rule: Positions = "factor") -> Tensor:
    """Position embedding for a grid of ``height x width`` patches, ``(1 + height * width, D)`` float32.

    As stored when the grid is the stored one.  Otherwise interpolated, align_corners False.  The rules differ in where
    and how they sample, hence in numbers.  "factor": bicubic by *scale factors* ``(height + 0.1) / side``, as the
    family around SCLIP does (wangf3014/SCLIP, clip/model.py).  "size": bicubic by the target size, as CLIP-DINOiser
    does (wysoczanska/clip_dinoiser, models/maskclip/maskclip.py).  "antialias": the same with antialias, another
    kernel also where the table grows, as GEM does.  "bilinear": by the target size, as CLIPSurgery does.  "half": that,
    rounded to float16, whatever the grid, as CLIPer does (linsun449/cliper.code, modified_clip/model.py).
    """
    position = _resized_table(vit, height, width, rule)
    return position.half().float() if rule == "half" else position


def _resized_table(vit: PositionTable, height: int, width: int, rule: Positions) -> Tensor:
    side = vit.stored_side
    if (height, width) == (side, side):
        return vit.position
    changes = 0 if vit.position.is_inference() else vit.position._version  # a tower in training has other tables
    return _interpolated(vit.position, changes, side, height, width, rule)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
@torch.no_grad()
def _interpolated(position: Tensor, _changes: int, side: int, height: int, width: int, rule: Positions) -> Tensor:
    table = position[1:].view(1, side, side, -1).permute(0, 3, 1, 2)
    where: Any = {"size": (height, width)}
    if rule == "factor":
        where = {"scale_factor": ((height + 0.1) / side, (width + 0.1) / side)}
    mode = "bilinear" if rule in ("bilinear", "half") else "bicubic"
    table = F.interpolate(table, **where, mode=mode, align_corners=False, antialias=rule == "antialias")
    if tuple(table.shape[2:]) != (height, width):
        raise ValueError(f"position table became {tuple(table.shape[2:])}, wanted {(height, width)}")
    return torch.cat([position[:1], table.flatten(2)[0].T])


def embed(vit: VisionTransformer, pixels: Tensor, rule: Positions = "factor") -> tuple[Tensor, tuple[int, int]]:
    """Tokens that enter the first block: ``(B, 3, H, W)`` normalised -> ``(B, 1 + h * w, D)`` and ``(h, w)``.

    Rows and columns that do not fill a patch are dropped.
    """
    side = vit.patch_px
    grid = (pixels.shape[2] // side, pixels.shape[3] // side)
    if pixels.is_cuda:  # a matrix product: cuDNN would round the convolution to TF32 by default
        cells = pixels.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)
        x = cells.reshape(len(pixels), grid[0] * grid[1], -1) @ vit.patch.flatten(1).T
    else:
        x = F.conv2d(pixels, vit.patch, stride=side).flatten(2).transpose(1, 2)
    x = torch.cat([vit.class_token.expand(len(x), 1, -1), x], dim=1)
    return norm(x + position_for(vit, *grid, rule).to(x.dtype), vit.ln_pre), grid


def run_trunk(vit: VisionTransformer, pixels: Tensor, rule: Positions = "factor") -> tuple[Tensor, tuple[int, int]]:
    """Input of the last block, ``(B, 1 + h * w, D)``, and the patch grid ``(h, w)``."""
    x, grid = embed(vit, pixels, rule)
    for block in vit.blocks[:-1]:
        x = run_block(block, x)
    return x, grid


def run_layers(
    vit: VisionTransformer, pixels: Tensor, rule: Positions = "factor"
) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
    """Input of every block, each ``(B, 1 + h * w, D)``, and the patch grid: the last one is what ``run_trunk`` gives.

    With ``split_heads`` they are all that a method may want of the blocks: outputs, queries, keys, values, attention.
    """
    x, grid = embed(vit, pixels, rule)
    layers = [x]
    for block in vit.blocks[:-1]:
        layers.append(run_block(block, layers[-1]))
    return tuple(layers), grid


def project(vit: VisionTransformer, x: Tensor) -> Tensor:
    """``ln_post(x) @ proj``: ``(B, T, D)`` -> ``(B, T, dim)`` float32."""
    return (norm(x, vit.ln_post) @ vit.projection).float()
