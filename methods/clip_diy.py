"""CLIP-DIY: CLIP classifies crops of three sizes, FOUND says where objects are.

    M_c = mean over P in {256, 128, 64} of up(cos(CLIP(crops of P px), text_c))
    p   = softmax over c of   M_0 (1 - S) for the background,   M_c S for every other class

on the image resized to 256 x 256 whatever its shape; crops lie every P / 2 px: 1, 3 x 3 and 7 x 7 of them.  S is the
saliency of FOUND at the image's own size, resized after.  The cosines are not scaled.

Wysoczanska et al., WACV 2024, arXiv:2309.14289, in the form of the released code (wysoczanska/clip-diy,
src/clip_conv.py, eval_clipconv.py).
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .blocks.clip_method import ClipMethod
from .core.method import MethodInfo
from .core.score_field import ScoreField
from .core.windows import WindowGeometry, cut
from .models import vit
from .models.backbone import Backbone
from .models.dino import load_dino
from .models.found import Found, load_found
from .models.weights import find_weights

SIDE_PX = 256
SCALES = tuple(WindowGeometry(px, px // 2) for px in (256, 128, 64))


class CLIPDIY(ClipMethod):
    """See the module docstring for the equations.

    Where no background is scored (the vocabulary has none, or none with a text), S cannot tell classes apart: scores
    are the plain mean M, softmax included.  The released code always has a background.

    The whole image is seen at once: the crops are the method's own, and windows of a protocol have no effect.

    ``found`` is FOUND itself or the file of its head, ``dino`` the file of its DINO ViT-S/8; without them those that
    ``bench weights`` knows are used.
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

    def __init__(
        self,
        backbone: Backbone,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        found: str | Found | None = None,
        dino: str | None = None,
    ) -> None:
        super().__init__(backbone, device, dtype)
        self.found = found if isinstance(found, Found) else self._load_found(found, dino)

    def _load_found(self, head: str | None, dino: str | None) -> Found:
        small = find_weights("dino-vits8-300ep", Path(dino) if dino else None)
        path = find_weights("found-head", Path(head) if head else None)
        return load_found(path, load_dino(small, self.device, self.dtype))

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {**super().provenance, "found": self.found.provenance}

    @property
    def activated(self) -> bool:
        """See ``Method.activated``."""
        return True

    def segment(self, image: Tensor, geometry: WindowGeometry = WindowGeometry(), batch_size: int = 8) -> ScoreField:  # noqa: ARG002
        """See ``Method.segment``; one box that is the whole image, whatever ``geometry`` says."""
        return super().segment(image, WindowGeometry(), batch_size)

    def score_windows(self, windows: Tensor) -> Tensor:
        """Probabilities, each window an image by itself: ``(B, 3, H, W)`` uint8 RGB -> ``(B, Q, 256, 256)`` float32."""
        return torch.stack([self._score(window) for window in windows])

    @torch.inference_mode()
    def _score(self, image: Tensor) -> Tensor:
        vocabulary, text = self.vocabulary, self.text  # a clear error first when encode was forgotten
        maps = mean_of_scales(self._embed(cut_crops(image, self._input_px)) @ text.T)
        if vocabulary.background in vocabulary.query_to_class:
            owner = torch.tensor(vocabulary.query_to_class, device=self.device).view(-1, 1, 1)
            saliency = self._saliency(image)
            maps *= torch.where(owner == vocabulary.background, 1 - saliency, saliency)
        return maps.softmax(dim=0)

    @property
    def _input_px(self) -> int:
        return self.tower.stored_side * self.tower.patch_px

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
