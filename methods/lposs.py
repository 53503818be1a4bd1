"""LPOSS: MaskCLIP's cosines, spread over the patches of all windows along what DINO holds to be alike.

    (I - alpha W) Z = Y,    W = S^-1/2 (A + A^T) S^-1/2,    A_ij = max(cos_ij, 0)^gamma exp(-sigma d_ij)

Y are the cosines of MaskCLIP with the words, A has the 400 nearest of each patch by cosines of DINO's values in the
last block, d are distances in px between centres of patches in the resized image: windows that show the same place are
0 px apart.  Z is where conjugate gradients from 0 are after 10 steps, which is 1e-3 to 5e-2 from the solution.

LPOSS+ (``lposs-plus``) then does the same with pixels: the windows' Z, blown up and averaged, is Y, and A_ij is
``exp(-|c_i - c_j| / tau)`` of Lab colours for the pixels of the box of 13 px around each.

Stojnic et al., CVPR 2025, in the form of the public code (vladan-stojnic/LPOSS, commit e489a74).
"""

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from .blocks.clip_method import ClipWords
from .blocks.dense_clip import DenseClip, EndPaddedOptions, LastBlock, SeenPatches
from .blocks.label_propagation import along, patch_graph, propagate
from .blocks.pixel_graph import lab, pixel_graph
from .blocks.stitching import stitch
from .core.info import MethodInfo
from .core.picture import Picture, Windows
from .core.score_field import ScoreField
from .core.window_method import SeenWindows
from .core.windows import Box, WindowGeometry
from .models.backbone import Backbone
from .models.dino import Dino
from .models.second_dino import open_dino

_PLANES = 8  # queries that are spread over pixels together


class LPOSSOptions(EndPaddedOptions):
    """Options of ``LPOSS``."""

    pad: ClassVar[Literal["end"]] = "end"  # type: ignore[misc]  # black below and to the right, always
    neighbours: int = Field(400, ge=1, description="patches that each patch is joined with, itself among them")
    gamma: float = Field(3.0, gt=0, description="power of the cosines of DINO's values")
    sigma: float = Field(0.01, ge=0, description="how fast weights fall with the distance, per px")
    alpha: float = Field(0.95, ge=0, lt=1, description="share of the neighbours' scores")
    steps: int = Field(10, ge=1, description="steps of conjugate gradients")
    dino: str | None = Field(
        None, exclude=True, description="file of a DINO; without it ViT-B/16, or tiny-dino beside tiny-clip"
    )


@dataclass(frozen=True)
class SeenValues(SeenPatches):
    """MaskCLIP's patches on DINO's grid, and ``values`` ``(B, h * w, D)`` float32: DINO's, of unit length."""

    values: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class SeenGraph(SeenWindows[SeenPatches]):
    """What was seen in the windows, and ``graph``, W between all their patches, sparse ``(N, N)``."""

    picture: Picture
    graph: Tensor


class LPOSS(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="lposs",
        title="LPOSS",
        paper="Stojnic et al., CVPR 2025",
        trained_on="nothing; DINO ViT-B/16 is self-supervised",
        backbone="ViT-B-16/laion2b_s34b_b88k",
        published="LPOSS",
    )
    last_block = LastBlock((), residual=True, ffn=True)
    options: LPOSSOptions
    models = ("dino",)

    def __init__(
        self,
        backbone: Backbone,
        options: LPOSSOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        dino: Dino | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.dino = dino or open_dino("dino-vitb16", self.options.dino, backbone, self.device, dtype)

    @property
    def multiple_px(self) -> int:
        """Sides that both models cut into whole patches."""
        return math.lcm(self.tower.patch_px, self.dino.patch_px)

    @property
    def sees_whole_image(self) -> bool:
        """See ``Method.sees_whole_image``."""
        return True

    def encode_windows(self, windows: Windows) -> SeenValues:
        """MaskCLIP's features and DINO's values."""
        key = ("last attention", self.dino, self.padding_key(windows))
        last = windows.once(key, lambda: self.dino.qkv(self.dino.normalise(self.padded(windows.pixels) / 255)))
        features = super().encode_windows(windows).features
        if features.shape[1:3] != last.grid:
            maps = F.interpolate(features.permute(0, 3, 1, 2), last.grid, mode="bilinear", align_corners=False)
            features = F.normalize(maps, dim=1).permute(0, 2, 3, 1)
        return SeenValues(features, values=F.normalize(last.v, dim=-1))

    @torch.inference_mode()
    def encode_image(self, picture: Picture, geometry: WindowGeometry) -> SeenGraph:
        """See ``Method.encode_image``; with the graph over all windows."""
        seen = super().encode_image(picture, geometry)
        values, grid = [], (0, 0)
        for batch in seen.batches:
            assert isinstance(batch, SeenValues)
            values.append(batch.values.flatten(0, 1))
            grid = (batch.features.shape[1], batch.features.shape[2])
        places = _places_px(seen.boxes, grid, self.dino.patch_px).to(self.device)
        options = self.options
        graph = patch_graph(torch.cat(values), places, options.neighbours, options.gamma, options.sigma)
        return SeenGraph(seen.batches, seen.boxes, seen.size, seen.frame, picture, graph)

    @torch.inference_mode()
    def score(self, seen: SeenWindows[SeenPatches], words: ClipWords) -> ScoreField:
        """See ``Method.score``: cosines, spread."""
        assert isinstance(seen, SeenGraph)
        found = super().score(seen, words)
        windows, _, *grid = found.scores.shape
        y = found.scores.transpose(0, 1).flatten(1)
        z = propagate(along(seen.graph), y, self.options.alpha, self.options.steps).float()
        return replace(found, scores=z.unflatten(1, (windows, *grid)).transpose(0, 1))


class LPOSSPlusOptions(LPOSSOptions):
    """Options of ``LPOSSPlus``."""

    box_px: int = Field(13, ge=3, description="side of the box of pixels that each is joined with; odd")
    tau: float = Field(0.01, gt=0, description="how fast weights fall with the distance of colours")

    @field_validator("box_px")
    @classmethod
    def _odd(cls, box_px: int) -> int:
        if box_px % 2 == 0:
            raise ValueError("a box around a pixel has an odd side")
        return box_px


class LPOSSPlus(LPOSS):
    """LPOSS, then spread over pixels of the resized image.

    The scores are a map of the resized image for every query, 4 bytes a pixel; the pixels' graph takes 336 more bytes
    a pixel while it exists.
    """

    info = MethodInfo(
        name="lposs-plus",
        title="LPOSS+",
        paper="Stojnic et al., CVPR 2025",
        trained_on="nothing; DINO ViT-B/16 is self-supervised",
        backbone="ViT-B-16/laion2b_s34b_b88k",
    )
    options: LPOSSPlusOptions

    @torch.inference_mode()
    def score(self, seen: SeenWindows[SeenPatches], words: ClipWords) -> ScoreField:
        """See ``Method.score``; one map of the whole image."""
        assert isinstance(seen, SeenGraph)
        coarse, options = super().score(seen, words), self.options
        pixels = seen.picture.pixels.to(self.device)
        graph = pixel_graph(lab(pixels / 255), options.box_px, options.tau)
        maps = stitch(coarse)
        for some in maps.split(_PLANES):
            some.copy_(propagate(graph.product, some, options.alpha, options.steps))
        whole = (Box(0, 0, *seen.frame),)
        return ScoreField(maps[None], whole, whole, seen.frame, words.query_to_class)


def _places_px(boxes: tuple[Box, ...], grid: tuple[int, int], patch_px: int) -> Tensor:
    """Centres of the patches of all windows, ``(W * h * w, 2)`` float32, in px of the image."""
    rows, columns = (patch_px * (torch.arange(count) + 0.5) for count in grid)
    return torch.cat([torch.cartesian_prod(box.top + rows, box.left + columns) for box in boxes])
