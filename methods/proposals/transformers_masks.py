"""MaskFormer, Mask2Former and EoMT of the transformers library, from a local folder, as proposers.

Trained with masks of COCO (or of whatever the folder says): labels of their classes are ignored, but the masks are not
class-agnostic, and a method with them is not training-free.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.options import Options
from ..core.picture import Picture
from ..models.pretrained import load_pretrained, weights_sha256
from ..models.weights import find_weights
from .base import Proposals, Proposer, ProposerParts

MULTIPLE_PX = 32
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_LABELLED = {80: "COCO (instances)", 133: "COCO (panoptic)", 150: "ADE20K", 171: "COCO-Stuff", 19: "Cityscapes"}


class _MaskTransformer(Proposer):
    """Queries with a mask and class probabilities each; objectness is 1 minus that of "no object"."""

    soft = True
    entry: ClassVar[str]
    model_class: ClassVar[str]

    def __init__(self, parts: ProposerParts, options: Options | None = None) -> None:
        super().__init__(parts, options)
        self.folder = find_weights(self.entry, Path(parts.weights) if parts.weights else None)
        self.model = load_pretrained(self.model_class, self.folder).to(parts.device)
        count = self.model.config.num_labels
        self.supervision = f"masks of {_LABELLED.get(count, 'an unknown data set')}, {count} classes"

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Proposer.provenance``."""
        return {**super().provenance, "model": self.model_class, "sha256": weights_sha256(self.folder)}

    @torch.inference_mode()
    def propose(self, picture: Picture) -> Proposals:
        """See ``Proposer.propose``; soft masks."""
        out, logits = self.masks(picture.pixels.to(self.device))
        nothing = out.class_queries_logits[0].float().softmax(dim=-1)[:, -1:]
        return Proposals(logits.sigmoid(), 1 - nothing)

    def masks(self, image: Tensor) -> tuple[Any, Tensor]:
        """What the model says of an image ``(3, h, w)``, and its mask logits at that size, ``(Q, h, w)``."""
        pixels = padded(image, MULTIPLE_PX)
        out = self.model(pixel_values=pixels)
        whole = (pixels.shape[2], pixels.shape[3])
        logits = F.interpolate(out.masks_queries_logits.float(), whole, mode="bilinear", align_corners=False)
        return out, logits[0, :, : image.shape[1], : image.shape[2]]


class MaskFormer(_MaskTransformer):
    """MaskFormer (Cheng et al., NeurIPS 2021), Swin-B of COCO panoptic unless another folder is named."""

    name = "maskformer"
    entry = "maskformer-swinb-coco"
    model_class = "MaskFormerForInstanceSegmentation"


class Mask2Former(_MaskTransformer):
    """Mask2Former (Cheng et al., CVPR 2022), Swin-B of COCO panoptic unless another folder is named."""

    name = "mask2former"
    entry = "mask2former-swinb-coco"
    model_class = "Mask2FormerForUniversalSegmentation"


class Eomt(_MaskTransformer):
    """EoMT (Kerssies et al., CVPR 2025), ViT-L of COCO panoptic unless another folder is named.

    It sees the image with its long side as long as its square's, black below or to the right.
    """

    name = "eomt"
    entry = "eomt-l-coco-panoptic"
    model_class = "EomtForUniversalSegmentation"

    def masks(self, image: Tensor) -> tuple[Any, Tensor]:
        """See ``_MaskTransformer.masks``."""
        side, size = self.model.config.image_size, image.shape[1:]
        height, width = (max(1, int(length * side / max(size))) for length in size)
        small = F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)[0]
        square = F.pad(small.round().clamp(0, 255), (0, side - width, 0, side - height))
        out = self.model(pixel_values=padded(square, side))
        logits = F.interpolate(out.masks_queries_logits.float(), (side, side), mode="bilinear", align_corners=False)
        return out, F.interpolate(logits[:, :, :height, :width], size, mode="bilinear", align_corners=False)[0]


def padded(image: Tensor, multiple: int) -> Tensor:
    """Pixels by ImageNet's statistics, then zeros below and to the right: ``(3, h, w)`` uint8 -> ``(1, 3, H, W)``."""
    mean, std = (torch.tensor(v, device=image.device).view(3, 1, 1) for v in (_MEAN, _STD))
    bottom, right = (-side % multiple for side in image.shape[1:])
    return F.pad((image.float() - mean) / std, (0, right, 0, bottom))[None]
