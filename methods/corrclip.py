"""CorrCLIP: patches look at patches of their own region only; each region has a class token of its own.

    z = P(A up(v) W_o) + P(A up(v') W_o) + 0.5 P(c),   P(x) = ln_post(x) W
    A = softmax of 4 S over the pairs of one region, and pairs with the unsegmented one where S > mean(S)

S are the cosines of q + k of DINO's last block; one matrix for all heads.  v are values of the last block for the
patches X that enter it, v' the same for the mean of what blocks 5 to 9 of 12 (10 to 21 of 24) put out.  c is written
to all patches of a region: a copy of the class token that passes all blocks and sees nothing but the image's class
token and the region's patches (see ``blocks.region_tokens``).  No skip connection or MLP but for c.

Regions are a proposer's masks, on DINO's grid.  Those whose mean features are no further apart than 0.2, also by way of
others, are one.  The region with the lowest number in a window is the unsegmented one, as in the public code: pixels in
no mask where there are any, else a region like others.  Padding is a region.  Windows are padded to multiples of 56 px.

Published rows have the vote of the same regions after the decision, too: the protocol has it (``region_vote``).
Zhang et al., ICCV 2025, arXiv:2411.10086, first version, in the form of the public code (zdk258/CorrCLIP, CorrCLIPv1).
"""

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import Tensor

from .blocks.dense_clip import DenseClip, DenseClipOptions, LastBlock, SeenPatches
from .blocks.region_tokens import class_copies, merge_regions, nearest
from .core.errors import UserError
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit
from .models.backbone import Backbone
from .models.dino import Dino
from .models.second_dino import open_dino
from .proposals.base import Proposer, ProposerParts
from .proposals.for_methods import ProposerOptions, info_with, note_of
from .proposals.names import ProposerName
from .proposals.regions import region_map

Grid = tuple[int, int]
AVERAGED = {12: (5, 9), 24: (10, 21)}
"""First and last block of v' by depth, from 0; of all others the third to the third from the end, as of 32."""


class CorrCLIPOptions(DenseClipOptions, ProposerOptions):
    """Options of ``CorrCLIP``; all others are the proposer's, and its record reads them."""

    model_config = ConfigDict(extra="allow")

    pad: ClassVar[Literal[True]] = True  # type: ignore[misc]  # evenly, to multiples of 56 px, always
    proposer: ProposerName = Field("sam2", description="what makes the regions; it has options of its own")
    similarity: Literal["dino", "clip"] = Field(
        "dino", description="whose q + k says which patches are alike: DINO's; CLIP's own is a stand-in of ours"
    )
    merge_distance: float = Field(0.2, ge=0, description="regions that are no further apart than this are one")
    sharpness: float = Field(4.0, gt=0, description="inverse temperature of the softmax over cosines")
    spatial_weight: float = Field(1.0, ge=0, description="weight of the earlier blocks' values v'")
    semantic_weight: float = Field(0.5, ge=0, description="weight of the regions' own class tokens c")
    dino: str | None = Field(
        None, exclude=True, description="file of a DINO; without it ViT-B/8, or tiny-dino beside tiny-clip"
    )


class CorrCLIP(DenseClip):
    """See the module docstring for the equation.  ``dino`` and ``proposer`` are parts that are loaded already."""

    info = MethodInfo(
        name="corrclip",
        title="CorrCLIP",
        paper="Zhang et al., ICCV 2025, arXiv:2411.10086",
        trained_on="nothing; DINO ViT-B/8 is self-supervised",
        published="CorrCLIP",
        offline=False,
    )
    last_block = LastBlock((), residual=False, ffn=False)
    options: CorrCLIPOptions
    multiple_px = 56
    reads_layers = True
    models = ("dino", "proposer")

    def __init__(
        self,
        backbone: Backbone,
        options: CorrCLIPOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        dino: Dino | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        asked = self.options
        first, last = averaged_blocks(len(self.tower.blocks))
        self.averaged = slice(first + 1, last + 2)
        self.dino = dino
        if dino is None and asked.similarity == "dino":
            self.dino = open_dino("dino-vitb8", asked.dino, backbone, self.device, dtype)
        parts = ProposerParts(self.tower, *self.statistics, self.device, dtype, asked.proposer_weights)
        self.proposer = asked.load(parts, proposer)

    @property
    def sees_whole_image(self) -> bool:
        """See ``Method.sees_whole_image``: the proposer does."""
        return True

    @property
    def note(self) -> str:
        """The backbone's, and what the proposer was trained with."""
        return "; ".join(filter(None, [super().note, note_of(self.proposer)]))

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``; the rows that stand beside it have DINO's similarity and SAM 2's masks."""
        info = info_with(self.info, self.proposer)
        reported = self.options.similarity == "dino" and self.proposer.name == "sam2"
        return info if reported else replace(info, published=None)

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Patch features on DINO's grid."""
        layers, clip_grid = self.layers(windows)
        features, grid = self._alike(windows, layers[-1], clip_grid)
        regions = merge_regions(self._regions(windows, grid), features, self.options.merge_distance)
        mix = scope(features @ features.mT, regions, self.options.sharpness)
        spatial = torch.stack(layers[self.averaged]).mean(dim=0)
        z = self._mixed(mix, layers[-1], clip_grid, grid)
        z = z + self.options.spatial_weight * self._mixed(mix, spatial, clip_grid, grid)
        coarse = nearest(regions.unflatten(1, grid), clip_grid)
        copies = vit.project(self.tower, class_copies(self.tower, layers, coarse.flatten(1)))
        place = nearest(coarse, grid).flatten(1)[..., None].expand(-1, -1, copies.shape[-1])
        z = z + self.options.semantic_weight * copies.gather(1, place)
        return SeenPatches(F.normalize(z, dim=-1).unflatten(1, grid))

    def _alike(self, windows: Windows, tokens: Tensor, clip_grid: Grid) -> tuple[Tensor, Grid]:
        """Unit features ``(B, N, D)`` float32 whose cosines are S, and their grid."""
        if self.options.similarity == "clip":
            q, k, _ = vit.split_heads(self.tower.blocks[-1], tokens)
            return F.normalize(vit.merge_heads(q + k)[:, 1:].float(), dim=-1), clip_grid
        dino = self.dino
        assert dino is not None
        last = dino.last_attention(self.dino_trunk(dino, windows))
        return F.normalize(last.q + last.k, dim=-1), last.grid

    def _regions(self, windows: Windows, grid: Grid) -> Tensor:
        """Numbers of the windows' regions on a grid, ``(B, N)`` int64; that of the padding is the highest."""
        numbers = nearest(region_map(self.proposer, windows.picture)[None], windows.picture.size)[0]
        cut = torch.stack([numbers[box.top : box.bottom, box.left : box.right] for box in windows.boxes])
        (top, bottom), (left, right) = (self._padding(side) for side in cut.shape[1:])
        padded = F.pad(cut, (left, right, top, bottom), value=int(numbers.max()) + 1)
        return nearest(padded, grid).flatten(1)

    def _mixed(self, mix: Tensor, tokens: Tensor, clip_grid: Grid, grid: Grid) -> Tensor:
        """Values of ``tokens`` ``(B, 1 + n, D)`` on the finer grid, mixed and projected: ``(B, N, dim)``."""
        block = self.tower.blocks[-1]
        values = vit.values(block, tokens[:, 1:]).transpose(1, 2).unflatten(2, clip_grid)
        values = F.interpolate(values, grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
        return vit.project(self.tower, vit.project_out(block, mix.to(values.dtype) @ values))


def averaged_blocks(depth: int) -> tuple[int, int]:
    """First and last block, from 0, whose outputs v' is of; ``UserError`` for a tower of one block."""
    if depth < 2:
        raise UserError("the backbone has one block: CorrCLIP wants values of an earlier one")
    first = min(2, depth - 2)
    return AVERAGED.get(depth, (first, max(first, depth - 3)))


def scope(alike: Tensor, regions: Tensor, sharpness: float) -> Tensor:
    """A ``(B, N, N)`` float32 of cosines and regions ``(B, N)``, where 0 is the unsegmented one.

    A patch always looks at itself, also where all are equal and none is above the mean.
    """
    same = (regions[:, :, None] == regions[:, None]) & (regions > 0)[:, None]
    loose = (regions == 0)[:, :, None] | (regions == 0)[:, None]
    allowed = same | (loose & (alike > alike.mean(dim=(1, 2), keepdim=True)))
    allowed |= torch.eye(alike.shape[1], dtype=torch.bool, device=alike.device)
    return (sharpness * alike).masked_fill(~allowed, -math.inf).softmax(dim=-1)
