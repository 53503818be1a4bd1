"""CLIP-DIY: CLIP classifies crops of three sizes, FOUND says where objects are.

    M_c = mean over P in {256, 128, 64} of up(cos(CLIP(crops of P px), text_c))
    p   = softmax over c of   M_0 (1 - S) for the background,   M_c S for every other class

on the image resized to 256 x 256 whatever its shape; crops lie every P / 2 px: 1, 3 x 3 and 7 x 7 of them.  S is the
saliency of FOUND at the image's own size, resized after.  The cosines are not scaled.

Wysoczanska et al., WACV 2024, arXiv:2309.14289, in the form of the released code (wysoczanska/clip-diy,
src/clip_conv.py, eval_clipconv.py).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from .blocks.clip_method import ClipMethod, ClipWords
from .core.info import MethodInfo
from .core.options import Options
from .core.picture import Picture
from .core.score_field import ScoreField
from .core.windows import Box, WindowGeometry, cut
from .models import vit
from .models.backbone import Backbone
from .models.dino import load_dino
from .models.found import Found, load_found
from .models.open_model import open_model

SIDE_PX = 256
SCALES = tuple(WindowGeometry(px, px // 2) for px in (256, 128, 64))


class CLIPDIYOptions(Options):
    """Options of ``CLIPDIY``."""

    found: str | None = Field(None, exclude=True, description="file of FOUND's head; without it that of the catalogue")
    dino: str | None = Field(
        None, exclude=True, description="file of FOUND's DINO ViT-S/8; without it that of the catalogue"
    )


@dataclass(frozen=True)
class SeenCrops:
    """CLIP's embeddings of the crops of a picture, ``(59, dim)`` float32, unit length."""

    picture: Picture
    embeddings: Tensor


class CLIPDIY(ClipMethod[SeenCrops]):
    """See the module docstring for the equations.

    Where no background is scored (the vocabulary has none, or none with a text), S cannot tell classes apart: scores
    are the plain mean M, softmax included.  The released code always has a background.

    The whole image is seen at once: the crops are the method's own, and windows of a protocol have no effect.
    """

    info = MethodInfo(
        name="clip-diy",
        title="CLIP-DIY",
        paper="Wysoczanska et al., WACV 2024, arXiv:2309.14289",
        trained_on="nothing; the head of FOUND is trained on DUTS-TR images without labels",
        backbone="ViT-B-32/laion2b_s34b_b79k",
        published="CLIP-DIY",
        offline=False,
    )

    options: CLIPDIYOptions
    models = ("found",)

    def __init__(
        self,
        backbone: Backbone,
        options: CLIPDIYOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        found: Found | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.size_multiple_px = None
        self.found = found or self._load_found()

    def _load_found(self) -> Found:
        small = open_model(load_dino, "dino-vits8-300ep", self.options.dino, self.device, self.dtype)
        return open_model(load_found, "found-head", self.options.found, small)

    def encode_image(self, picture: Picture, geometry: WindowGeometry) -> SeenCrops:  # noqa: ARG002
        """See ``Method.encode_image``."""
        input_px = self.tower.stored_side * self.tower.patch_px
        return SeenCrops(picture, self._embed(cut_crops(picture.pixels, input_px)))

    def score(self, seen: SeenCrops, words: ClipWords) -> ScoreField:
        """Probabilities on 256 x 256 cells; FOUND is asked only where a background is scored."""
        maps = mean_of_scales(seen.embeddings @ words.text.T)
        owners, background = words.query_to_class, words.vocabulary.background
        if background in owners:
            owner = torch.tensor(owners, device=self.device).view(-1, 1, 1)
            saliency = seen.picture.once(("saliency", self.found), lambda: self._saliency(seen.picture.pixels))
            maps *= torch.where(owner == background, 1 - saliency, saliency)
        whole = (Box(0, 0, *seen.picture.size),)
        return ScoreField(maps.softmax(dim=0)[None], whole, whole, seen.picture.size, owners, activated=True)

    def _embed(self, crops: Tensor) -> Tensor:
        """CLIP's image embeddings, ``(N, dim)`` float32, unit length."""
        tokens, _ = vit.run_trunk(self.tower, self.normalised(crops))
        tokens = vit.run_block(self.tower.blocks[-1], tokens)
        return F.normalize(vit.project(self.tower, tokens[:, 0]), dim=-1)

    def _saliency(self, image: Tensor) -> Tensor:
        """Probability of an object, ``(256, 256)`` float32: soft, not a mask."""
        saliency = self.found.pixel_mask(image[None].to(self.device).float() / 255)
        return F.interpolate(saliency, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)[0, 0]


def cut_crops(image: Tensor, input_px: int) -> Tensor:
    """Crops of all scales, large ones first, row by row: ``(3, H, W)`` uint8 -> ``(59, 3, input_px, input_px)`` uint8.

    The image is resized by OpenCV (bilinear, no antialias), each crop by Pillow (bicubic), both in whole numbers.
    """
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    square = np.asarray(cv2.resize(pixels, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR), np.uint8)
    whole = torch.from_numpy(square).permute(2, 0, 1)
    crops = [crop for scale in SCALES for crop in cut(whole, scale.boxes(SIDE_PX, SIDE_PX))]
    return torch.stack([_resized(crop, input_px) for crop in crops])


def _resized(crop: Tensor, side_px: int) -> Tensor:
    picture = Image.fromarray(crop.permute(1, 2, 0).contiguous().numpy())
    resized = np.array(picture.resize((side_px, side_px), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized).permute(2, 0, 1)


def mean_of_scales(values: Tensor) -> Tensor:
    """Mean of the scales' maps: ``(59, Q)`` in the order of ``cut_crops`` -> ``(Q, 256, 256)``.

    Crops are taken for cells of a grid that is stretched over the image bilinearly.
    """
    sides = [len(scale.starts(SIDE_PX)) for scale in SCALES]
    maps = values.new_zeros(values.shape[1], SIDE_PX, SIDE_PX)
    for part, side in zip(values.split([side * side for side in sides]), sides, strict=True):
        grid = part.T.unflatten(1, (side, side))[None]
        maps += F.interpolate(grid, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)[0]
    return maps.div_(len(sides))
