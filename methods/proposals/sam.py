"""SAM's automatic masks: class-agnostic, from a grid of points.

Segment Anything (Kirillov et al., ICCV 2023), run by the transformers library; trained with the masks of SA-1B.
Defaults are those of facebookresearch/segment-anything, segment_anything/automatic_mask_generator.py, but for the cap.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.weights import find_weights
from .base import Proposals, Proposer, ProposerParts
from .loading import require
from .transformers_masks import load_pretrained, padded, weights_sha256

_POINTS_AT_ONCE = 64
STABILITY_OFFSET = 1.0
"""Logits: a mask is stable if it hardly changes when the threshold moves by this much."""


class Sam(Proposer):
    """Masks of ``points_per_side`` squared points, those that are sure and stable, without near doubles.

    Kept are masks whose predicted IoU is at least ``least_iou`` and whose IoU between thresholds at +1 and -1 is at
    least ``least_stability``; of those whose boxes overlap by more than ``most_overlap`` the surest; of the rest the
    ``most_masks`` largest, large ones first.  Objectness is not known: predicted IoUs are of another kind.
    """

    name = "sam"
    supervision = "masks of SA-1B, class-agnostic"

    def __init__(
        self,
        parts: ProposerParts,
        points_per_side: int = 32,
        least_iou: float = 0.88,
        least_stability: float = 0.95,
        most_overlap: float = 0.7,
        most_masks: int = 200,
    ) -> None:
        require(points_per_side >= 1, "points_per_side", points_per_side, "it must be 1 or more")
        require(most_masks >= 1, "most_masks", most_masks, "it must be 1 or more")
        self._kept = {
            "points_per_side": points_per_side,
            "least_iou": least_iou,
            "least_stability": least_stability,
            "most_overlap": most_overlap,
            "most_masks": most_masks,
        }
        self.folder = find_weights("sam-vitb-hf", Path(parts.weights) if parts.weights else None)
        self.model = load_pretrained("SamModel", self.folder).to(parts.device)
        self.device = parts.device

    @property
    def options(self) -> dict[str, Any]:
        """See ``Proposer.options``."""
        return {**self._kept, "sha256": weights_sha256(self.folder)}

    @torch.inference_mode()
    def propose(self, image: Tensor) -> Proposals:
        """See ``Proposer.propose``; masks overlap and leave holes, and there may be none."""
        from torchvision.ops import masks_to_boxes, nms

        size = (image.shape[1], image.shape[2])
        scale = self._side / max(size)
        shown = (max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5)))
        found = [self._good(*part, shown, size) for part in self._predict(image, shown)]
        masks, sure = (torch.cat(parts) for parts in zip(*found, strict=True))
        if len(masks):
            kept = nms(masks_to_boxes(masks), sure, self._kept["most_overlap"])
            masks = masks[kept]
            masks = masks[masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True)]
        return Proposals(masks[: int(self._kept["most_masks"])].float())

    @property
    def _side(self) -> int:
        """Side of the square that the model sees."""
        side: int = self.model.config.vision_config.image_size
        return side

    def _predict(self, image: Tensor, shown: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """Mask logits over the padded square and predicted IoUs, for some points at a time.

        The image takes the upper left ``shown`` px (height, width) of the square.
        """
        height, width = shown
        resized = F.interpolate(
            image[None].to(self.device).float(), (height, width), mode="bilinear", align_corners=False, antialias=True
        )
        pixels = padded(resized[0].round().clamp(0, 255), self._side)
        embeddings = self.model.get_image_embeddings(pixels)
        count = int(self._kept["points_per_side"])
        line = (torch.arange(count, device=self.device) + 0.5) / count
        y, x = torch.meshgrid(line * height, line * width, indexing="ij")
        points = torch.stack([x, y], dim=-1).view(1, -1, 1, 2)
        out = []
        for some in points.split(_POINTS_AT_ONCE, dim=1):
            result = self.model(image_embeddings=embeddings, input_points=some)
            out.append((result.pred_masks[0].flatten(0, 1), result.iou_scores[0].flatten()))
        return out

    def _good(
        self, logits: Tensor, sure: Tensor, shown: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Masks at the size of the image, ``(M, h, w)`` bool, that are sure and stable, and how sure."""
        logits, sure = logits[sure >= self._kept["least_iou"]], sure[sure >= self._kept["least_iou"]]
        if not len(logits):
            return torch.zeros(0, *size, dtype=torch.bool, device=logits.device), sure
        square = F.interpolate(logits[None], (self._side, self._side), mode="bilinear", align_corners=False)
        whole = F.interpolate(square[:, :, : shown[0], : shown[1]], size, mode="bilinear", align_corners=False)[0]
        inner, outer = ((whole > offset).flatten(1).sum(dim=1) for offset in (STABILITY_OFFSET, -STABILITY_OFFSET))
        stable = inner / outer.clamp(min=1) >= self._kept["least_stability"]
        masks = whole[stable] > 0
        there = masks.flatten(1).any(dim=1)
        return masks[there], sure[stable][there]
