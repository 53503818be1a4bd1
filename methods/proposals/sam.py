"""Automatic masks of SAM and SAM 2: class-agnostic, from a grid of points.

Segment Anything (Kirillov et al., ICCV 2023) and SAM 2 (Ravi et al., ICLR 2025), run by the transformers library;
trained with the masks of SA-1B, SAM 2 with those of SA-V too.  Defaults are those of the automatic mask generators of
facebookresearch/segment-anything and facebookresearch/sam2, but for the cap.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..core.options import Options
from ..core.picture import Picture
from ..models.weights import find_weights
from .base import Proposals, Proposer, ProposerParts
from .transformers_masks import load_pretrained, padded, weights_sha256

_POINTS_AT_ONCE = 64
STABILITY_OFFSET = 1.0
"""Logits: a mask is stable if it hardly changes when the threshold moves by this much."""


class SamOptions(Options):
    """Options of ``Sam``."""

    points_per_side: int = Field(32, ge=1, description="masks are asked for at this number of points, squared")
    least_iou: float = Field(0.88, description="smallest predicted IoU of a mask that is kept")
    least_stability: float = Field(0.95, description="smallest IoU of the masks at thresholds of +1 and -1")
    most_overlap: float = Field(0.7, description="of masks whose boxes have a larger IoU the surest is kept")
    most_masks: int = Field(200, ge=1, description="of the rest these many are kept, the largest")
    multimask: bool = Field(True, description="three masks at each point; false: one")


class Sam2Options(SamOptions):
    """Options of ``Sam2``."""

    least_iou: float = Field(0.8, description=SamOptions.model_fields["least_iou"].description)


class Sam(Proposer):
    """Masks that are sure and stable, without near doubles, large ones first.

    Objectness is not known: predicted IoUs are of another kind.
    """

    name = "sam"
    supervision = "masks of SA-1B, class-agnostic"
    entry: ClassVar[str] = "sam-vitb-hf"
    model_class: ClassVar[str] = "SamModel"
    options: SamOptions

    def __init__(self, parts: ProposerParts, options: SamOptions | None = None) -> None:
        super().__init__(parts, options)
        self.folder = find_weights(self.entry, Path(parts.weights) if parts.weights else None)
        self.model = load_pretrained(self.model_class, self.folder).to(parts.device)

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Proposer.provenance``."""
        return {**super().provenance, "sha256": weights_sha256(self.folder)}

    @torch.inference_mode()
    def propose(self, picture: Picture) -> Proposals:
        """See ``Proposer.propose``; masks overlap and leave holes, and there may be none."""
        from torchvision.ops import masks_to_boxes, nms

        image = picture.pixels
        size = (image.shape[1], image.shape[2])
        shown = self._shown(size)
        found = [self._good(*part, shown, size) for part in self._predict(image, shown)]
        masks, sure = (torch.cat(parts) for parts in zip(*found, strict=True))
        if len(masks):
            kept = nms(masks_to_boxes(masks), sure, self.options.most_overlap)
            masks = masks[kept]
            masks = masks[masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True)]
        return Proposals(masks[: self.options.most_masks].float())

    @property
    def _side(self) -> int:
        """Side of the square that the model sees."""
        side: int = self.model.config.vision_config.image_size
        return side

    def _shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size at which the model sees an image, in the upper left corner of its square."""
        scale = self._side / max(size)
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def _enlarged(self, logits: Tensor, shown: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Mask logits over the square, ``(M, s, s)``, at the size of the image."""
        square = F.interpolate(logits[None], (self._side, self._side), mode="bilinear", align_corners=False)
        return F.interpolate(square[:, :, : shown[0], : shown[1]], size, mode="bilinear", align_corners=False)[0]

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
        count = self.options.points_per_side
        line = (torch.arange(count, device=self.device) + 0.5) / count
        y, x = torch.meshgrid(line * height, line * width, indexing="ij")
        points = torch.stack([x, y], dim=-1).view(1, -1, 1, 2)
        out = []
        for some in points.split(_POINTS_AT_ONCE, dim=1):
            result = self.model(image_embeddings=embeddings, input_points=some, multimask_output=self.options.multimask)
            out.append((result.pred_masks[0].flatten(0, 1), result.iou_scores[0].flatten()))
        return out

    def _good(
        self, logits: Tensor, sure: Tensor, shown: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Masks at the size of the image, ``(M, h, w)`` bool, that are sure and stable, and how sure."""
        kept = sure >= self.options.least_iou
        logits, sure = logits[kept], sure[kept]
        if not len(logits):
            return torch.zeros(0, *size, dtype=torch.bool, device=logits.device), sure
        whole = self._enlarged(logits, shown, size)
        inner, outer = ((whole > offset).flatten(1).sum(dim=1) for offset in (STABILITY_OFFSET, -STABILITY_OFFSET))
        stable = inner / outer.clamp(min=1) >= self.options.least_stability
        masks = whole[stable] > 0
        there = masks.flatten(1).any(dim=1)
        return masks[there], sure[stable][there]


class Sam2(Sam):
    """SAM 2's masks; it sees the image stretched to a square."""

    name = "sam2"
    supervision = "masks of SA-1B and SA-V, class-agnostic"
    entry = "sam2-hiera-l"
    model_class = "Sam2Model"
    options: Sam2Options

    @property
    def _side(self) -> int:
        side: int = self.model.config.prompt_encoder_config.image_size
        return side

    def _shown(self, size: tuple[int, int]) -> tuple[int, int]:  # noqa: ARG002
        return self._side, self._side

    def _enlarged(self, logits: Tensor, shown: tuple[int, int], size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
