"""SAM's automatic masks: class-agnostic, from a grid of points.

Segment Anything (Kirillov et al., ICCV 2023), run by the transformers library; trained with the masks of SA-1B.
Defaults are those of facebookresearch/segment-anything, segment_anything/automatic_mask_generator.py, but for the cap.
SAM sees the picture at its own size, as in ``models.sam``, so that whoever else asks it shares the look.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..core.options import Options
from ..core.picture import Picture
from ..models.open_model import open_model
from ..models.sam import Sam as SamModel
from ..models.sam import SamView, load_sam
from .base import Proposals, Proposer, ProposerParts

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


class Sam(Proposer):
    """Masks that are sure and stable, without near doubles, large ones first.

    Objectness is not known: predicted IoUs are of another kind.
    """

    name = "sam"
    supervision = "masks of SA-1B, class-agnostic"
    options: SamOptions

    def __init__(self, parts: ProposerParts, options: SamOptions | None = None) -> None:
        super().__init__(parts, options)
        self.sam: SamModel = open_model(load_sam, "sam-vitb-hf", parts.weights, parts.device)

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Proposer.provenance``."""
        return {**super().provenance, "sha256": self.sam.sha256}

    @torch.inference_mode()
    def propose(self, picture: Picture) -> Proposals:
        """See ``Proposer.propose``; masks overlap and leave holes, and there may be none."""
        from torchvision.ops import masks_to_boxes, nms

        view = self.sam.look(picture)
        points = self._points(*view.shown).split(_POINTS_AT_ONCE)
        found = [self._good(*self.sam.masks(view, some), view, picture.size) for some in points]
        masks, sure = (torch.cat(parts) for parts in zip(*found, strict=True))
        if len(masks):
            kept = nms(masks_to_boxes(masks), sure, self.options.most_overlap)
            masks = masks[kept]
            masks = masks[masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True)]
        return Proposals(masks[: self.options.most_masks].float())

    def _points(self, height: int, width: int) -> Tensor:
        """Places to ask at, ``(points, 2)`` x, y, in an image of ``height x width`` px."""
        count = self.options.points_per_side
        line = (torch.arange(count, device=self.device) + 0.5) / count
        y, x = torch.meshgrid(line * height, line * width, indexing="ij")
        return torch.stack([x, y], dim=-1).view(-1, 2)

    def _good(self, logits: Tensor, sure: Tensor, view: SamView, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Masks at ``size``, ``(M, h, w)`` bool, that are sure and stable, and how sure."""
        kept = sure >= self.options.least_iou
        logits, sure = logits[kept], sure[kept]
        if not len(logits):
            return torch.zeros(0, *size, dtype=torch.bool, device=logits.device), sure
        whole = self.sam.on_image(logits, view, size)
        inner, outer = ((whole > offset).flatten(1).sum(dim=1) for offset in (STABILITY_OFFSET, -STABILITY_OFFSET))
        stable = inner / outer.clamp(min=1) >= self.options.least_stability
        masks = whole[stable] > 0
        there = masks.flatten(1).any(dim=1)
        return masks[there], sure[stable][there]
