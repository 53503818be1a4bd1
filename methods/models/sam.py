"""SAM (Kirillov et al., ICCV 2023): how its encoder relates the places of an image, and masks that it makes of prompts.

The model is transformers' ``SamModel``, always in float32: what it says is compared with thresholds.  An image is
prepared as Trident does (YuHengsss/Trident): sides rounded up to a multiple by OpenCV, then the longer side brought to
1024 px by Pillow, ImageNet's statistics, zeros below and to the right.  All who ask for a picture share one look.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..core.errors import UserError
from ..core.picture import Picture
from .checkpoints import state_sha256
from .pretrained import load_pretrained, weights_sha256

MULTIPLE_PX = 16
_PROMPTS_AT_ONCE = 64
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class SamAttention:
    """The last block's attention, of the ``grid`` ``(h, w)`` of places that show the image.

    ``values`` ``(heads, h * w, d)`` float32.  ``queries`` ``(heads, h * w, d)`` are scaled; ``keys`` ``(heads, N, d)``
    are those of the whole square, padding too.  ``rows`` and ``columns`` ``(heads, h * w, side)`` are what relative
    positions add to the logits of each row and column of the square.
    """

    grid: tuple[int, int]
    values: Tensor
    queries: Tensor
    keys: Tensor
    rows: Tensor
    columns: Tensor

    def of_head(self, head: int) -> Tensor:
        """``(h * w, h * w)`` float32; its softmax has the padding among its keys, so rows sum to 1 at most."""
        logits = (self.queries[head] @ self.keys[head].T).unflatten(1, (self.rows.shape[2], self.columns.shape[2]))
        logits += self.rows[head][:, :, None]
        logits += self.columns[head][:, None]
        shares = logits.flatten(1).softmax(dim=1).view_as(logits)
        return shares[:, : self.grid[0], : self.grid[1]].flatten(1)


@dataclass(frozen=True)
class SamView:
    """What SAM saw in an image of ``size``, which takes the upper left ``shown`` px (height, width) of its square.

    ``embedding`` ``(1, D, side, side)`` float32 is the encoder's output, which masks are made of.
    """

    size: tuple[int, int]
    shown: tuple[int, int]
    embedding: Tensor
    attention: SamAttention


class Sam:
    """A loaded ``SamModel``; ``source`` says where it came from, ``sha256`` is its hash where it is known already."""

    def __init__(self, model: Any, source: str = "a model given by the caller", sha256: str | None = None) -> None:
        self.model, self.source = model, source
        self.sha256 = sha256 or f"state:{state_sha256(model.state_dict())}"
        vision = model.config.vision_config
        self.side: int = vision.image_size
        self.patch_px: int = vision.patch_size
        if vision.num_hidden_layers - 1 not in vision.global_attn_indexes or not vision.use_rel_pos:
            raise UserError(f"the last block of SAM ({source}) must see the whole image, by relative positions")

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        device: torch.device = self.model.device
        return device

    @property
    def name(self) -> str:
        """Width and depth of the encoder: ``SAM 768x12`` is ViT-B."""
        vision = self.model.config.vision_config
        return f"SAM {vision.hidden_size}x{vision.num_hidden_layers}"

    @property
    def provenance(self) -> dict[str, Any]:
        """Name, source, hash and precision, as JSON values."""
        return {"name": self.name, "source": self.source, "sha256": self.sha256, "precision": "float32"}

    def look(self, picture: Picture, multiple_px: int = MULTIPLE_PX) -> SamView:
        """The picture at its own size, once for all who ask for the same rounded size."""
        key = ("sam", self, size_up(picture.original, multiple_px))
        return picture.once_of_original(key, lambda: self.see(rounded_up(picture.original, multiple_px)))

    def look_at_halves(self, picture: Picture, multiple_px: int = MULTIPLE_PX) -> tuple[SamView, SamView]:
        """The picture's left and right half, each as an image of its own."""

        def see() -> tuple[SamView, SamView]:
            image = rounded_up(picture.original, multiple_px)
            middle = image.shape[2] // 2
            return self.see(image[:, :, :middle]), self.see(image[:, :, middle:])

        return picture.once_of_original(("sam halves", self, size_up(picture.original, multiple_px)), see)

    @torch.inference_mode()
    def see(self, image: Tensor) -> SamView:
        """``(3, H, W)`` uint8 RGB as it is, without rounding."""
        size = (image.shape[1], image.shape[2])
        shown = longest(size, self.side)
        resized = _by_pillow(image, shown).to(self.device).float()
        mean, std = (torch.tensor(s, device=self.device).view(3, 1, 1) for s in (_MEAN, _STD))
        square = F.pad((resized - mean) / std, (0, self.side - shown[1], 0, self.side - shown[0]))[None]
        encoder = self.model.vision_encoder
        tokens = encoder.patch_embed(square)
        if encoder.pos_embed is not None:
            tokens = tokens + encoder.pos_embed
        for layer in encoder.layers[:-1]:
            tokens = _output(layer(tokens))
        grid = (max(1, shown[0] // self.patch_px), max(1, shown[1] // self.patch_px))
        attention = _attention(encoder.layers[-1], tokens, grid)
        return SamView(size, shown, encoder.neck(_output(encoder.layers[-1](tokens))), attention)

    @torch.inference_mode()
    def patches(self, rgb: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The encoder's output for windows that are each stretched to the square, and its grid.

        ``rgb`` ``(B, 3, H, W)`` floating in [0, 1] -> ``(B, side * side, D)`` float32.
        """
        mean, std = (torch.tensor(s, device=self.device).view(3, 1, 1) for s in (_MEAN, _STD))
        squares = (_bilinear(rgb.to(self.device).float() * 255, (self.side, self.side)) - mean) / std
        maps = torch.cat([self.model.get_image_embeddings(square) for square in squares.split(1)])
        return maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3])

    @torch.inference_mode()
    def masks(
        self,
        view: SamView,
        points: Tensor,
        boxes: Tensor | None = None,
        hint: Tensor | None = None,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits over the square and predicted IoUs, of prompts in px of the square.

        ``points`` ``(R, 2)`` x, y lie inside, ``boxes`` ``(R, 4)`` are left, top, right, bottom, ``hint`` ``(s, s)``
        are logits that all prompts share.  Without boxes and with ``multimask`` there are three masks for each point:
        ``(R, M, s, s)`` and ``(R, M)`` float32, M = 3 or 1.
        """
        parts = [
            self._some_masks(view, some, None if boxes is None else boxes[k : k + _PROMPTS_AT_ONCE], hint, multimask)
            for k, some in zip(range(0, len(points), _PROMPTS_AT_ONCE), points.split(_PROMPTS_AT_ONCE), strict=True)
        ]
        logits, sure = (torch.cat(part) for part in zip(*parts, strict=True))
        return logits, sure

    def _some_masks(
        self, view: SamView, points: Tensor, boxes: Tensor | None, hint: Tensor | None, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        given: dict[str, Tensor | bool] = {"multimask_output": boxes is None and multimask}
        if boxes is not None:
            given["input_boxes"] = boxes.to(self.device)[None]
        if hint is not None:
            given["input_masks"] = hint.to(self.device)[None, None]
        points = points.to(self.device)[None, :, None]
        labels = torch.ones(points.shape[:3], dtype=torch.int64, device=self.device)
        out = self.model(image_embeddings=view.embedding, input_points=points, input_labels=labels, **given)
        return out.pred_masks[0], out.iou_scores[0]

    def on_image(self, logits: Tensor, view: SamView, size: tuple[int, int]) -> Tensor:
        """Mask logits over the square ``(R, s, s)`` brought to the image at ``size`` ``(H, W)``."""
        maps = _bilinear(logits[None], (self.side, self.side))[:, :, : view.shown[0], : view.shown[1]]
        maps = _bilinear(maps, view.size)
        return (maps if view.size == size else _bilinear(maps, size))[0]


def load_sam(folder: Path, device: str | torch.device = "cpu") -> Sam:
    """SAM from a folder in transformers' layout.  Raises ``UserError`` when it holds anything else."""
    return Sam(
        load_pretrained("SamModel", folder).to(device), f"folder {folder.name}", f"file:{weights_sha256(folder)}"
    )


def longest(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` with its longer side brought to ``side`` px, rounded half up."""
    scale = side / max(size)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def size_up(image: Tensor, multiple_px: int) -> tuple[int, int]:
    """Height and width of an image ``(3, H, W)``, each rounded up to a multiple."""
    height, width = (-(-side // multiple_px) * multiple_px for side in image.shape[1:])
    return height, width


def rounded_up(image: Tensor, multiple_px: int) -> Tensor:
    """Each side brought up to a multiple, by OpenCV (bilinear): ``(3, H, W)`` uint8 -> the same type."""
    height, width = size_up(image, multiple_px)
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    resized = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return torch.from_numpy(resized).permute(2, 0, 1)


def _by_pillow(image: Tensor, size: tuple[int, int]) -> Tensor:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    return torch.from_numpy(np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR))).permute(2, 0, 1)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _output(given: Any) -> Tensor:
    """Tokens of a layer: itself, or the first of a tuple before transformers 5."""
    tokens: Tensor = given if isinstance(given, Tensor) else given[0]
    return tokens


def _attention(layer: Any, tokens: Tensor, grid: tuple[int, int]) -> SamAttention:
    """What the last layer does with ``tokens`` ``(1, side, side, D)``, for the upper left ``grid`` of them."""
    block, (height, width) = layer.attn, tokens.shape[1:3]
    heads = block.num_attention_heads
    q, k, v = block.qkv(layer.layer_norm1(tokens))[0].unflatten(-1, (3, heads, -1)).permute(2, 3, 0, 1, 4)
    q, v = (part[:, : grid[0], : grid[1]] for part in (q, v))
    rows = torch.einsum("mhwd,hkd->mhwk", q, _relative(block.rel_pos_h, height)[: grid[0]])
    columns = torch.einsum("mhwd,wkd->mhwk", q, _relative(block.rel_pos_w, width)[: grid[1]])
    values, queries, keys, rows, columns = (part.flatten(1, 2) for part in (v, q * block.scale, k, rows, columns))
    return SamAttention(grid, values, queries, keys, rows, columns)


def _relative(table: Tensor, length: int) -> Tensor:
    """``(2 * length - 1, d)`` -> ``(length, length, d)``: the entry of every query and key."""
    place = torch.arange(length, device=table.device)
    return table[place[:, None] - place + length - 1]
