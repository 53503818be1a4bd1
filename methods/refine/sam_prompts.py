"""Labels refined by SAM: every region of a label map becomes a prompt, and masks that SAM is sure of take its place.

At half size, pixels whose best class is less probable than ``threshold`` belong to no region; a class whose probability
nowhere reaches it has none.  Each 8-connected region of ``LEAST_PX`` pixels or more prompts SAM with its box and its
most probable place; the regions of a class share its map of probabilities as a hint.  Of masks whose predicted IoU is
above ``LEAST_IOU``:

    R_c = P_c * max over masks of c of sigmoid(logit) where one of them is above 0, else 0
    label = argmax of R where any is above 0, else the label as it was

The background is refined like every class.  Step 6 of Trident (YuHengsss/Trident, commit a93b346, ``--sam_refine``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..core.picture import Picture
from ..models.open_model import open_model
from ..models.sam import MULTIPLE_PX, Sam, SamView, load_sam, longest
from .guide import Probability

LEAST_PX, LEAST_IOU = 225, 0.8
HINT_SCALE = 0.005
_MASKS_AT_ONCE = 16


@dataclass(frozen=True)
class Regions:
    """Prompts of one class, in px of SAM's square: ``points`` ``(R, 2)``, ``boxes`` ``(R, 4)``, ``hint`` ``(s, s)``."""

    points: Tensor
    boxes: Tensor
    hint: Tensor


@dataclass(frozen=True)
class SamPrompts:
    """The refiner: a SAM, and its options.  Sides of a picture are rounded up to ``multiple_px`` for it."""

    sam: Sam
    threshold: float
    multiple_px: int = MULTIPLE_PX
    least_px: int = LEAST_PX
    least_iou: float = LEAST_IOU

    @property
    def provenance(self) -> dict[str, Any]:
        """SAM's provenance and the options, as JSON values."""
        options = {"threshold": self.threshold, "multiple_px": self.multiple_px}
        return {**self.sam.provenance, **options, "least_px": self.least_px, "least_iou": self.least_iou}

    @property
    def note(self) -> str:
        """Nothing has to be said."""
        return ""

    def look(self, picture: Picture) -> "PromptedLabels":
        """What refines label maps of ``picture``."""
        return PromptedLabels(self, self.sam.look(picture, self.multiple_px))


@dataclass(frozen=True)
class PromptedLabels:
    """See ``guide.Correction``."""

    rule: SamPrompts
    view: SamView

    @torch.inference_mode()
    def corrected(self, labels: Tensor, num_classes: int, probability: Probability) -> Tensor:
        """Labels ``(H, W)`` after refinement, of the type that they had."""
        best, refined = torch.zeros(labels.shape, device=labels.device), labels.clone()
        for number, regions in find_regions(labels, num_classes, probability, self.rule):
            logits, sure = self.rule.sam.masks(self.view, regions.points, regions.boxes, regions.hint)
            accepted = logits[:, 0][sure[:, 0] > self.rule.least_iou]
            if not len(accepted):
                continue
            value = self._masked(accepted, labels) * probability(number)
            refined[value > best] = number
            best = torch.maximum(best, value)
        return refined

    def _masked(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The surest mask of each pixel, 0 where none is above 0: ``(R, s, s)`` -> ``(H, W)``."""
        size, best = (labels.shape[0], labels.shape[1]), torch.zeros(labels.shape, device=labels.device)
        for some in logits.split(_MASKS_AT_ONCE):
            whole = self.rule.sam.on_image(some, self.view, size).amax(dim=0)
            best = torch.maximum(best, (whole.sigmoid() * (whole > 0)).to(best.device))
        return best


def find_regions(
    labels: Tensor, num_classes: int, probability: Probability, rule: SamPrompts
) -> Iterator[tuple[int, Regions]]:
    """Prompts of every class that has regions, lowest class first."""
    whole = (labels.shape[0], labels.shape[1])
    size = (whole[0] // 2, whole[1] // 2)
    if not min(size):
        return
    small = F.interpolate(labels[None, None].float(), size, mode="nearest")[0, 0]
    there = set(small.unique().long().tolist())
    sure, best = {}, torch.zeros(size, device=labels.device)
    for number in range(num_classes) if rule.threshold else sorted(there):
        half = _bilinear(probability(number), size)
        best = torch.maximum(best, half)
        if number in there and bool((half >= rule.threshold).any()):
            sure[number] = half
    small[best < rule.threshold] = num_classes
    y, x = (new / old for new, old in zip(longest(size, rule.sam.side), size, strict=True))
    for number, half in sure.items():
        prompts = _prompts((small == number).cpu().numpy(), half.cpu().numpy(), rule.least_px)
        if len(prompts):
            found = torch.from_numpy(prompts) * torch.tensor([x, y, x, y, x, y])
            yield number, Regions(found[:, :2], found[:, 2:], _hint(half, whole, rule))


def _prompts(mask: NDArray[Any], probability: NDArray[Any], least_px: int) -> NDArray[Any]:
    """Point and box of every region in scan order, ``(R, 6)`` float32: x, y, left, top, right, bottom, inclusive."""
    from skimage import measure

    find: Any = measure.label
    parts = np.asarray(find(mask, connectivity=2))
    sizes = np.bincount(parts.ravel())
    rows = []
    for part in np.flatnonzero(sizes >= least_px):
        if part:
            y, x = np.nonzero(parts == part)
            surest = probability[y, x].argmax()
            rows.append((x[surest], y[surest], x.min(), y.min(), x.max(), y.max()))
    return np.array(rows, np.float32).reshape(-1, 6)


def _hint(half: Tensor, whole: tuple[int, int], rule: SamPrompts) -> Tensor:
    """Probabilities at half size as logits over SAM's square, a quarter of its side; ``whole`` is the labels' size."""
    side = rule.sam.side // 4
    size = longest(whole, side)
    small = _bilinear(half, size)
    logits = torch.where(small > rule.threshold, HINT_SCALE * small, 0.0)
    return F.pad(logits, (0, side - size[1], 0, side - size[0]))


def _bilinear(plane: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(plane[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def load_sam_prompts(threshold: float, device: str | torch.device, multiple_px: int | None) -> SamPrompts:
    """The refiner with the catalogue's SAM.  Raises ``UserError`` when it is not on this machine."""
    sam = open_model(load_sam, "sam-vitb-hf", None, torch.device(device))
    return SamPrompts(sam, threshold, multiple_px or MULTIPLE_PX)
