"""DINO (Caron et al., ICCV 2021) and DINOv2 (Oquab et al., 2023): self-supervised ViTs, read from released checkpoints.

The dense methods use the last block: values or keys as patch descriptors, the attention of the class token, or the
output of the final norm.  Like CLIP's towers they are run from plain records of weights; the
model is that of facebookresearch/dino, vision_transformer.py.

DINOv2 is the same ViT with LayerScale in its blocks.  Some of its models have register tokens (Darcet et al., 2023)
between class token and patches; they are in every attention and in nothing that comes out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import vit
from .checkpoints import check_keys, file_sha256, read_tensors, state_sha256
from .dino_shapes import HEAD_SIZE as HEAD_SIZE
from .dino_shapes import REGISTERS, wanted_shapes

NORM_EPS = 1e-6
_LETTERS = {(384, 12): "S", (768, 12): "B", (1024, 24): "L"}  # (width, depth) of the released sizes
_PROJECTION_HEAD = ("head.mlp.", "head.last_layer.")  # only used while DINO is trained


@dataclass(frozen=True)
class DinoTower:
    """Weights of a DINO ViT.  ``position`` and the LayerNorms are float32; everything else has the working dtype.

    ``registers`` is ``(1, R, D)``, with R = 0 for the models without them.
    """

    patch: vit.Affine
    class_token: Tensor
    registers: Tensor
    position: Tensor
    blocks: tuple[vit.Block, ...]
    norm: vit.Affine

    @property
    def patch_px(self) -> int:
        """Side of a patch in px."""
        return self.patch.weight.shape[-1]

    @property
    def stored_side(self) -> int:
        """Side of the patch grid that the position embedding was trained for."""
        return round((self.position.shape[0] - 1) ** 0.5)


@dataclass(frozen=True)
class LastAttention:
    """What goes into the attention of the last block, float32.

    ``q``, ``k`` and ``v`` are ``(B, N, D)``: the N patches row by row, no other tokens, heads concatenated.
    ``class_attention`` is ``(B, heads, N)``: the class token's attention to the patches.  Its softmax has the class
    token itself (and registers) among its keys, so the rows sum to less than 1.  ``grid`` is ``(h, w)``, ``h * w = N``.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    class_attention: Tensor
    grid: tuple[int, int]


class Dino:
    """A DINO or DINOv2 ViT on ``device``.

    ``state`` has the names of the released files (DINO's are timm's, too); it is only read.  ``source`` says where it
    came from, ``sha256`` is its hash where it is known already.  No method keeps a graph: DINO is always a frozen
    teacher, but what comes out may enter a loss.
    """

    mean: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)
    family: ClassVar[str] = ""
    """What the model is called where its weights cannot tell: those of DINO and DINOv2 do."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        source: str = "tensors given by the caller",
        sha256: str | None = None,
    ) -> None:
        self.device, self.dtype, self.source = torch.device(device), dtype, source
        self.sha256 = sha256 or f"state:{state_sha256(state)}"
        self.tower = _read_tower(state, self.device, dtype)
        self._mean, self._std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.mean, self.std))

    @property
    def patch_px(self) -> int:
        """Side of a patch in px."""
        return self.tower.patch_px

    @property
    def width(self) -> int:
        """Width of a token."""
        return self.tower.class_token.shape[-1]

    @property
    def heads(self) -> int:
        """Attention heads of each block."""
        return self.width // HEAD_SIZE

    @property
    def name(self) -> str:
        """For example ``DINO ViT-S/8`` or ``DINOv2 ViT-B/14 with 4 registers``."""
        depth, registers = len(self.tower.blocks), self.tower.registers.shape[1]
        family = self.family or ("DINO" if self.tower.blocks[0].scale_1 is None else "DINOv2")
        size = _LETTERS.get((self.width, depth), f"{self.width}x{depth}")
        return f"{family} ViT-{size}/{self.patch_px}" + (f" with {registers} registers" if registers else "")

    @property
    def provenance(self) -> dict[str, Any]:
        """Name, source, hash and precision, as JSON values."""
        precision = str(self.dtype).removeprefix("torch.")
        return {"name": self.name, "source": self.source, "sha256": self.sha256, "precision": precision}

    def normalise(self, rgb: Tensor) -> Tensor:
        """ImageNet mean and standard deviation: ``(B, 3, H, W)`` floating RGB in [0, 1] -> the same shape, float32."""
        if not rgb.is_floating_point():
            raise ValueError(f"RGB in [0, 1] is wanted, these are {rgb.dtype}: divide by 255 first")
        return (rgb.to(self.device).float() - self._mean) / self._std

    @torch.no_grad()
    def qkv(self, pixels: Tensor) -> LastAttention:
        """The last block's attention: ``(B, 3, H, W)`` from ``normalise`` -> see ``LastAttention``.

        H and W are multiples of the patch, else ``ValueError``: whoever calls decides how to pad.
        """
        return self.last_attention(self.trunk(pixels))

    @torch.no_grad()
    def last_attention(self, trunk: tuple[Tensor, tuple[int, int]]) -> LastAttention:
        """``qkv`` from what ``trunk`` gave."""
        tokens, grid = trunk
        q, k, v = (part.float() for part in vit.split_heads(self.tower.blocks[-1], tokens))
        attention = (q[:, :, :1] @ k.transpose(2, 3) * HEAD_SIZE**-0.5).softmax(dim=-1)
        first = self._first_patch
        q, k, v = (vit.merge_heads(part[:, :, first:]) for part in (q, k, v))
        return LastAttention(q, k, v, attention[:, :, 0, first:], grid)

    @torch.no_grad()
    def tokens(self, pixels: Tensor) -> Tensor:
        """Output of the final norm: ``(B, 3, H, W)`` as for ``qkv`` -> ``(B, 1 + N, D)`` float32, class token first."""
        return self.last_tokens(self.trunk(pixels))

    @torch.no_grad()
    def last_tokens(self, trunk: tuple[Tensor, tuple[int, int]]) -> Tensor:
        """``tokens`` from what ``trunk`` gave."""
        x, _ = trunk
        x = vit.norm(vit.run_block(self.tower.blocks[-1], x), self.tower.norm).float()
        return torch.cat([x[:, :1], x[:, self._first_patch :]], dim=1)

    def patches(self, rgb: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Output of the final norm for the patches, ``(B, N, D)`` float32, and their grid.

        ``rgb`` ``(B, 3, H, W)`` in [0, 1]; rows and columns that do not fill a patch are dropped.
        """
        grid = (rgb.shape[2] // self.patch_px, rgb.shape[3] // self.patch_px)
        return self.tokens(self.normalise(self.whole(rgb)))[:, 1:], grid

    def whole(self, rgb: Tensor) -> Tensor:
        """``(B, 3, H, W)`` without the rows and columns that do not fill a patch."""
        height, width = (side // self.patch_px * self.patch_px for side in rgb.shape[2:])
        return rgb[:, :, :height, :width]

    @property
    def _first_patch(self) -> int:
        return 1 + self.tower.registers.shape[1]

    @torch.no_grad()
    def trunk(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Input of the last block, ``(B, 1 + R + h * w, D)``, and ``(h, w)``; ``pixels`` as for ``qkv``."""
        x, grid = _embed(self.tower, pixels.to(self.device, self.dtype))
        for block in self.tower.blocks[:-1]:
            x = vit.run_block(block, x)
        return x, grid


def load_dino(path: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Dino:
    """Load a DINO or DINOv2 ViT of any size: a released file, or a training checkpoint's teacher.

    DINO is read from timm's safetensors, too.  DINOv2's ViT-g, whose blocks have another MLP, is not read.

    Raises ``UserError`` that names the file when it cannot be read or holds anything but one such ViT.
    """
    state = read_tensors(path, nests=("teacher",), prefixes=("module.", "backbone."))
    state = {name: value for name, value in state.items() if not name.startswith(_PROJECTION_HEAD)}
    check_keys(path, state, wanted_shapes(path, state, "DINO", "dino_vitbase16_pretrain.pth"))
    return Dino(state, device, dtype, source=f"file {path.name}", sha256=f"file:{file_sha256(path)}")


def _read_tower(state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> DinoTower:
    """The records, moved to ``device`` and ``dtype`` (no copy where they are there already)."""

    def linear(name: str) -> vit.Affine:
        return vit.Affine(state[f"{name}.weight"].to(device, dtype), state[f"{name}.bias"].to(device, dtype))

    def norm(name: str) -> vit.Affine:
        weight, bias = (state[f"{name}.{part}"].to(device, torch.float32) for part in ("weight", "bias"))
        return vit.Affine(weight, bias, NORM_EPS)

    def scale(name: str) -> Tensor | None:
        return state[name].to(device, dtype) if name in state else None

    def block(name: str) -> vit.Block:
        return vit.Block(
            ln_1=norm(f"{name}.norm1"),
            qkv=linear(f"{name}.attn.qkv"),
            out=linear(f"{name}.attn.proj"),
            ln_2=norm(f"{name}.norm2"),
            fc=linear(f"{name}.mlp.fc1"),
            proj=linear(f"{name}.mlp.fc2"),
            scale_1=scale(f"{name}.ls1.gamma"),
            scale_2=scale(f"{name}.ls2.gamma"),
            activation=F.gelu,
            heads=state["cls_token"].shape[-1] // HEAD_SIZE,
        )

    depth = sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.weight", name)) for name in state)
    return DinoTower(
        patch=linear("patch_embed.proj"),
        class_token=state["cls_token"].to(device, dtype),
        registers=state.get(REGISTERS, state["cls_token"][:, :0]).to(device, dtype),
        position=state["pos_embed"][0].to(device, torch.float32),
        blocks=tuple(block(f"blocks.{i}") for i in range(depth)),
        norm=norm("norm"),
    )


def _embed(tower: DinoTower, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens that enter the first block: ``(B, 3, H, W)`` -> ``(B, 1 + R + h * w, D)`` and ``(h, w)``."""
    side = tower.patch_px
    shape = tuple(pixels.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape or shape[2] % side or shape[3] % side:
        raise ValueError(f"pixels are {shape}; wanted (B, 3, H, W) with both sides multiples of {side} px")
    grid = (pixels.shape[2] // side, pixels.shape[3] // side)
    cells = pixels.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    # a matrix product: on CUDA a convolution would be rounded to TF32 by default
    x = F.linear(cells, tower.patch.weight.flatten(1), tower.patch.bias)
    x = torch.cat([tower.class_token.expand(len(x), 1, -1), x], dim=1)
    x = x + _position_for(tower, *grid).to(x.dtype)
    return torch.cat([x[:, :1], tower.registers.expand(len(x), -1, -1), x[:, 1:]], dim=1), grid


def _position_for(tower: DinoTower, height: int, width: int) -> Tensor:
    """Position embedding of class token and patches, ``(1 + height * width, D)`` float32.

    DINO's own rule, which CLIP's dense methods took over: the stored table as it is, else bicubic by scale factors.
    DINOv2 kept it; its models with registers are released with another one, by the target size and antialiased
    (another cubic kernel, so that it differs where the grid grows, too).
    """
    return vit.position_for(tower, height, width, "antialias" if tower.registers.shape[1] else "factor")
