"""MaskFormer and Mask2Former of the transformers library, from a local folder, as proposers.

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
        image = picture.pixels
        out = self.model(pixel_values=padded(image.to(self.device), MULTIPLE_PX))
        height, width = (-(-side // MULTIPLE_PX) * MULTIPLE_PX for side in image.shape[1:])
        logits = F.interpolate(out.masks_queries_logits.float(), (height, width), mode="bilinear", align_corners=False)
        masks = logits[0, :, : image.shape[1], : image.shape[2]].sigmoid()
        nothing = out.class_queries_logits[0].float().softmax(dim=-1)[:, -1:]
        return Proposals(masks, 1 - nothing)


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


def padded(image: Tensor, multiple: int) -> Tensor:
    """Pixels by ImageNet's statistics, then zeros below and to the right: ``(3, h, w)`` uint8 -> ``(1, 3, H, W)``."""
    mean, std = (torch.tensor(v, device=image.device).view(3, 1, 1) for v in (_MEAN, _STD))
    bottom, right = (-side % multiple for side in image.shape[1:])
    return F.pad((image.float() - mean) / std, (0, right, 0, bottom))[None]
