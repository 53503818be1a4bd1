"""Trident: CLIP's values, mixed by DINO in windows, joined, and mixed once more by SAM over the whole image.

    y = A_D up(v) W_o in every window,   A_D = softmax of E where E >= 0,   E = gamma (S - beta mean(S))
    Z = the y of all windows on one grid, divided by how many cover a place, brought to SAM's grid
    z = A_S Z,   A_S = mean over heads of A^m where C^m_ij > t_i,   rows divided by their sums

S are cosines of DINO's patches, their mean is one number for all windows.  A^m is the attention of head m in SAM's last
block, C^m are cosines of its values, ``t_i = min(0.9, factor * mean over m and j of C^m_ij)``.  Scores are cosines
of z with the texts, on SAM's grid.  An image with a side that is no multiple of the patch is stretched to multiples.

Ours: where nothing is left of a row of E, a place keeps itself (the public code makes NaN of the image); grids have
both sides right in windows that are not square.  The published labels are refined by SAM as well: ``refine = "sam"``.

Shi et al., ICCV 2025, arXiv:2411.09219, in the form of the public code (YuHengsss/Trident, commit a93b346).
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.dense_clip import DenseClip, DenseClipOptions, LastBlock, SeenPatches
from .core.errors import UserError
from .core.info import MethodInfo
from .core.picture import Picture, Windows
from .core.window_method import SeenWindows
from .core.windows import Box, WindowGeometry, cut
from .models import vit
from .models.backbone import Backbone
from .models.dino import Dino
from .models.open_model import open_model
from .models.sam import Sam, SamAttention, load_sam
from .models.second_dino import open_dino
from .refine.patch_similarity import similarity_matrix

MOST_THRESHOLD, THRESHOLD_OF_NEGATIVE = 0.9, 0.6


class TridentOptions(DenseClipOptions):
    """Options of ``Trident``."""

    window_px: int = Field(0, ge=0, description="side of the windows that are joined; 0: the protocol's windows")
    stride_px: int = Field(0, ge=0, description="px from one of these windows to the next")
    beta: float = Field(1.2, gt=0, description="DINO's cosines below beta times their mean are left out")
    gamma: float = Field(3.0, gt=0, description="inverse temperature of the softmax over DINO's cosines")
    affinity: bool = Field(True, description="whether SAM mixes the joined image; false needs no SAM and is ours")
    cosine_factor: float = Field(
        1.2, ge=0, description="SAM's attention stays where a cosine is above this times the mean"
    )
    refine_negative_cosine: bool = Field(
        True, description="whether a negative threshold of these cosines stays; false makes 0.6 of it"
    )
    halves: bool = Field(False, description="SAM sees the left and the right half apart, as released for Cityscapes")
    dino: str | None = Field(
        None, exclude=True, description="file of a DINO; without it ViT-B/16, or tiny-dino beside tiny-clip"
    )
    sam: str | None = Field(None, exclude=True, description="folder of a SAM; without it that of the catalogue, ViT-B")


class Trident(DenseClip):
    """See the module docstring for the equations."""

    info = MethodInfo(
        name="trident",
        title="Trident",
        paper="Shi et al., ICCV 2025, arXiv:2411.09219",
        trained_on="nothing; DINO ViT-B/16 is self-supervised, SAM ViT-B is trained with masks (SA-1B)",
        published="Trident",
        offline=False,
    )
    last_block = LastBlock((), residual=False, ffn=False)
    options: TridentOptions
    models = ("dino", "sam")

    def __init__(
        self,
        backbone: Backbone,
        options: TridentOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        dino: Dino | None = None,
        sam: Sam | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.dino = dino or open_dino("dino-vitb16", self.options.dino, backbone, self.device, dtype)
        self.sam = sam
        if sam is None and self.options.affinity:
            self.sam = open_model(load_sam, "sam-vitb-hf", self.options.sam, self.device)
        px = (self.options.window_px, self.options.stride_px)
        if px[0] and not 0 < px[1] <= px[0]:
            raise UserError(f"option stride_px of trident is {px[1]}: allowed is 1 to its window_px, {px[0]}")
        self.geometry = WindowGeometry(*px) if px[0] else None

    @property
    def note(self) -> str:
        """The backbone's, and what is not as published."""
        ours = "" if self.options.affinity else "without SAM's attention, which the published method has"
        return "; ".join(filter(None, [super().note, ours]))

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``; without SAM it is another method."""
        return self.info if self.options.affinity else replace(self.info, published=None)

    @property
    def sees_whole_image(self) -> bool:
        """See ``Method.sees_whole_image``."""
        return True

    def encode_image(self, picture: Picture, geometry: WindowGeometry) -> SeenWindows[SeenPatches]:
        """Features of the whole image, on SAM's grid."""
        with torch.inference_mode():
            z = self._joined(picture, self.geometry or geometry)
            if self.sam is not None:
                z = torch.cat([self._mixed(z, seen) for z, seen in self._parts(picture, z)], dim=2)
            features = vit.project(self.tower, z.permute(1, 2, 0).to(self.dtype))
        whole = (Box(0, 0, *picture.size),)
        return SeenWindows((SeenPatches(F.normalize(features, dim=-1)[None]),), whole, picture.size, picture.size)

    def _joined(self, picture: Picture, geometry: WindowGeometry) -> Tensor:
        """Z on CLIP's grid of the whole image, ``(D, h, w)`` float32."""
        whole = stretched(picture.pixels, self.tower.patch_px, geometry.window_px)
        boxes, side = geometry.boxes(*whole.shape[1:]), self.tower.patch_px
        self._check(boxes)
        grid = (whole.shape[1] // side, whole.shape[2] // side)
        total = torch.zeros(len(self.tower.class_token), *grid, device=self.device)
        visits = torch.zeros_like(total[0])
        for box, y in zip(boxes, self._windows(picture, whole, boxes, geometry), strict=True):
            rows, columns = slice(box.top // side, box.bottom // side), slice(box.left // side, box.right // side)
            total[:, rows, columns] += y
            visits[rows, columns] += 1
        return total / visits

    def _windows(
        self, picture: Picture, whole: Tensor, boxes: tuple[Box, ...], geometry: WindowGeometry
    ) -> Iterator[Tensor]:
        """y of every window on CLIP's grid, ``(D, h, w)`` float32."""
        fitted = () if whole is picture.pixels else ("stretched", *whole.shape[1:])
        windows = [
            Windows(pixels, picture, (*fitted, geometry, self.batch_size, number))
            for number, pixels in enumerate(cut(whole, boxes).split(self.batch_size))
        ]
        seen = [self.dino_patches(self.dino, w) for w in windows]
        tokens, grid = F.normalize(torch.cat([t for t, _ in seen]), dim=-1), seen[0][1]
        mean = tokens.sum(dim=1).square().sum() / (len(tokens) * tokens.shape[1] ** 2)
        similar = iter(tokens)
        for window in windows:
            values, clip_grid = self._values(window, grid)
            for value in values:
                matrix, _ = similarity_matrix(next(similar), self.options.beta, self.options.gamma, mean)
                y = vit.project_out(self.tower.blocks[-1], matrix.to(value) @ value).float().T.unflatten(1, grid)
                yield y if grid == clip_grid else _bilinear(y, clip_grid)

    def _values(self, windows: Windows, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """v of windows on DINO's grid, ``(B, N, D)``, and CLIP's own grid."""
        tokens, clip_grid = self.trunk(windows)
        values = vit.values(self.tower.blocks[-1], tokens[:, 1:]).transpose(1, 2).unflatten(2, clip_grid)
        return _bilinear(values, grid).flatten(2).transpose(1, 2), clip_grid

    def _parts(self, picture: Picture, z: Tensor) -> Iterator[tuple[Tensor, SamAttention]]:
        """Z and what SAM sees, of the whole image or of its halves."""
        assert self.sam is not None
        if not self.options.halves:
            yield z, self.sam.look(picture, self.tower.patch_px).attention
            return
        middle = z.shape[2] // 2
        left, right = self.sam.look_at_halves(picture, self.tower.patch_px)
        yield z[:, :, :middle], left.attention
        yield z[:, :, middle:], right.attention

    def _mixed(self, z: Tensor, seen: SamAttention) -> Tensor:
        """``A_S Z`` on SAM's grid, ``(D, h, w)`` float32."""
        matrix = sam_matrix(seen, self.options.cosine_factor, self.options.refine_negative_cosine)
        return (_bilinear(z, seen.grid).flatten(1) @ matrix.T).unflatten(1, seen.grid)

    def _check(self, boxes: tuple[Box, ...]) -> None:
        side = self.tower.patch_px
        if any(edge % side for box in boxes for edge in box):
            raise UserError(
                f"trident joins windows on a grid of patches, and their edges are no multiples of {side} px: choose "
                f"multiples of it with --set window_px=PX --set stride_px=PX, or those of trident alone with "
                "--option trident.window_px=336 --option trident.stride_px=224"
            )


def sam_matrix(seen: SamAttention, factor: float, keep_negative: bool) -> Tensor:
    """A_S, ``(N, N)`` float32.  The threshold is below 1, so a place always keeps itself, also where values are 0."""
    unit = F.normalize(seen.values, dim=-1)
    threshold = factor * torch.einsum("mnd,md->n", unit, unit.mean(dim=1)) / len(unit)
    if not keep_negative:
        threshold = threshold.masked_fill(threshold < 0, THRESHOLD_OF_NEGATIVE)
    threshold = threshold.clamp(max=MOST_THRESHOLD)[:, None]
    total = torch.zeros(unit.shape[1], unit.shape[1], device=unit.device)
    for head, u in enumerate(unit):
        total += seen.of_head(head).masked_fill_((u @ u.T <= threshold).fill_diagonal_(False), 0)
    return total / total.sum(dim=1, keepdim=True)


def stretched(pixels: Tensor, patch_px: int, least_px: int) -> Tensor:
    """``(3, H, W)`` uint8 as they are if patches fit in, else float32 with sides of whole patches, ``least_px`` at
    least: the longer side goes up to a multiple, the other along, cut off to whole px and then up.
    """
    sides = pixels.shape[1:]
    if not any(side % patch_px for side in sides):
        return pixels
    longest = max(sides)
    scale = -(-longest // patch_px) * patch_px / longest
    size = [max(-(-int(side * scale) // patch_px) * patch_px, least_px) for side in sides]
    return _bilinear(pixels.float(), (size[0], size[1]))


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``(..., h, w)`` -> ``(..., *size)``."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size, mode="bilinear", align_corners=False).view(*maps.shape[:-2], *size)
