"""Automatic masks of SAM and SAM 2: class-agnostic, from a grid of points.

Segment Anything (Kirillov et al., ICCV 2023) and SAM 2 (Ravi et al., ICLR 2025), run by the transformers library;
trained with the masks of SA-1B, SAM 2 with those of SA-V too.  Defaults are those of the automatic mask generators of
facebookresearch/segment-anything and facebookresearch/sam2, but for the cap.  SAM sees the picture at its own size, as
in ``models.sam``, so that whoever else asks it shares the look.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..core.options import Options
from ..core.picture import Picture
from ..models.open_model import open_model
from ..models.pretrained import load_pretrained, weights_sha256
from ..models.sam import Sam as SamModel
from ..models.sam import load_sam
from ..models.weights import find_weights
from .base import Proposals, Proposer, ProposerParts
from .transformers_masks import padded

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


@dataclass(frozen=True)
class _Look:
    """An image that a model has seen at ``shown`` px (height, width).

    ``masks``: points ``(R, 2)`` x, y in px of what was seen -> mask logits ``(R, M, s, s)`` and predicted IoUs
    ``(R, M)``; ``on_image``: logits ``(K, s, s)`` -> ``(K, h, w)``, at the size of the picture.
    """

    shown: tuple[int, int]
    masks: Callable[[Tensor], tuple[Tensor, Tensor]]
    on_image: Callable[[Tensor], Tensor]


class _MasksOfPoints(Proposer):
    """Masks that are sure and stable, without near doubles, large ones first.

    Objectness is not known: predicted IoUs are of another kind.
    """

    options: SamOptions

    @abstractmethod
    def _look(self, picture: Picture) -> _Look:
        """Show a picture to the model."""

    @torch.inference_mode()
    def propose(self, picture: Picture) -> Proposals:
        """See ``Proposer.propose``; masks overlap and leave holes, and there may be none."""
        from torchvision.ops import masks_to_boxes, nms

        look = self._look(picture)
        points = self._points(*look.shown).split(_POINTS_AT_ONCE)
        found = [self._good(*look.masks(some), look, picture.size) for some in points]
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

    def _good(self, logits: Tensor, sure: Tensor, look: _Look, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Masks at ``size``, ``(M, h, w)`` bool, that are sure and stable, and how sure."""
        kept = sure >= self.options.least_iou
        logits, sure = logits[kept], sure[kept]
        if not len(logits):
            return torch.zeros(0, *size, dtype=torch.bool, device=logits.device), sure
        whole = look.on_image(logits)
        inner, outer = ((whole > offset).flatten(1).sum(dim=1) for offset in (STABILITY_OFFSET, -STABILITY_OFFSET))
        stable = inner / outer.clamp(min=1) >= self.options.least_stability
        masks = whole[stable] > 0
        there = masks.flatten(1).any(dim=1)
        return masks[there], sure[stable][there]


class Sam(_MasksOfPoints):
    """SAM's masks."""

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

    def _look(self, picture: Picture) -> _Look:
        sam, view = self.sam, self.sam.look(picture)
        return _Look(
            view.shown,
            lambda points: sam.masks(view, points, multimask=self.options.multimask),
            lambda logits: sam.on_image(logits, view, picture.size),
        )


class Sam2(_MasksOfPoints):
    """SAM 2's masks; it sees the picture stretched to a square."""

    name = "sam2"
    supervision = "masks of SA-1B and SA-V, class-agnostic"
    options: Sam2Options

    def __init__(self, parts: ProposerParts, options: Sam2Options | None = None) -> None:
        super().__init__(parts, options)
        self.folder = find_weights("sam2-hiera-l", Path(parts.weights) if parts.weights else None)
        self.model = load_pretrained("Sam2Model", self.folder).to(parts.device)

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Proposer.provenance``."""
        return {**super().provenance, "sha256": weights_sha256(self.folder)}

    def _look(self, picture: Picture) -> _Look:
        side: int = self.model.config.prompt_encoder_config.image_size
        image = picture.pixels[None].to(self.device).float()
        square = F.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=True)[0]
        embeddings = self.model.get_image_embeddings(padded(square.round().clamp(0, 255), side))

        def masks(points: Tensor) -> tuple[Tensor, Tensor]:
            shown = points.view(1, -1, 1, 2)
            multimask = self.options.multimask
            out = self.model(image_embeddings=embeddings, input_points=shown, multimask_output=multimask)
            return out.pred_masks[0], out.iou_scores[0]

        return _Look(
            (side, side),
            masks,
            lambda logits: F.interpolate(logits[None], picture.size, mode="bilinear", align_corners=False)[0],
        )
