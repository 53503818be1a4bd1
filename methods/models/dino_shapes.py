"""Which tensors a file of DINO, DINOv2 or MAE must hold."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..core.errors import UserError

HEAD_SIZE = 64
MASK_TOKEN, REGISTERS = "mask_token", "register_tokens"  # DINOv2's files have the first, which only training uses


def wanted_shapes(path: Path, state: Mapping[str, Tensor], family: str, example: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of the ViT whose patch, width, depth and registers this file has.

    Raises ``UserError`` for a file that has no such ViT, with ``family`` and the ``example`` of a released one.
    """
    patch, position = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    numbers = [int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))]
    if patch is None or patch.ndim != 4 or position is None or position.ndim != 3 or not numbers:
        raise UserError(
            f"weights file {path} holds no {family} ViT: one has patch_embed.proj.weight, pos_embed and blocks.0 "
            f"upwards.  Pass a released file such as {example}"
        )
    width, _, side, _ = patch.shape
    patches = position.shape[1] - 1
    if width % HEAD_SIZE or round(patches**0.5) ** 2 != patches:
        raise UserError(
            f"weights file {path} holds no {family} ViT: its width {width} is no multiple of {HEAD_SIZE}, or its "
            f"{patches} position embeddings beside the class token's are no square grid"
        )
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + patches, width),
        "patch_embed.proj.weight": (width, 3, side, side),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    scaled = MASK_TOKEN in state
    if scaled:
        shapes[MASK_TOKEN] = (1, width)
    if scaled and REGISTERS in state:
        shapes[REGISTERS] = (1, *state[REGISTERS].shape[1:2], width)
    for i in range(max(numbers) + 1):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in _block_shapes(width, scaled).items()}
    return shapes


def _block_shapes(width: int, scaled: bool) -> dict[str, tuple[int, ...]]:
    """Tensors of one block; ``scaled`` ones have LayerScale."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, rows, columns in [("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)]:
        shapes[f"{name}.weight"] = (rows * width, columns * width)
        shapes[f"{name}.bias"] = (rows * width,)
    vectors = [f"{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")]
    return shapes | dict.fromkeys(vectors + ["ls1.gamma", "ls2.gamma"] * scaled, (width,))
