"""What the heads of CLIP-DINOiser learn to imitate: which patches belong together, and which belong to an object.

For real backbones these are DINO's values and FOUND.  The tiny world has stand-ins that need no weights: a handcrafted
patch descriptor, and the object mask that FOUND's seed rule gives on the tiny CLIP's own last block.  They are not DINO
and are not called so.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...methods.clip_dinoiser import CLIPDINOiser, CLIPDINOiserOptions
from ...methods.models import vit
from ...methods.models.backbone import Backbone
from ...methods.models.found import coarse_background
from .clip_dinoiser_recipe import Recipe

COSINE = 0.2
DISTANCE = 0.25
MEAN_WEIGHT, DEVIATION_WEIGHT, GRADIENT_WEIGHT = 1.5, 1.0, 2.0


@dataclass(frozen=True)
class Seen:
    """A batch as one forward pass of the frozen CLIP saw it; nothing here has a graph.

    ``rgb`` ``(B, 3, H, W)`` float32 in [0, 1], padded to whole patches; ``tokens`` ``(B, 1 + N, D)``, the input of the
    last block; ``inner`` ``(B, N, D)`` float32, what the heads take (I of the paper); ``grid`` ``(h, w)``, h w = N.
    """

    rgb: Tensor
    tokens: Tensor
    inner: Tensor
    grid: tuple[int, int]


@torch.no_grad()
def look(model: CLIPDINOiser, rgb: Tensor) -> Seen:
    """Run the walk that ``model`` takes when it segments on ``(B, 3, H, W)`` floating RGB in [0, 1]."""
    tokens, inner, grid = model.walk(model.normalised(rgb * 255))
    assert inner is not None  # only None for layer="final", which is not trained here
    return Seen(model.padded(rgb).float(), tokens, inner, grid)


class Teachers(Protocol):
    """Two binary targets for a batch."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Names, thresholds and hashes, as JSON values."""

    def alike(self, seen: Seen) -> Tensor:
        """Pairs of patches that belong together, ``(B, N, N)`` bool; each patch does with itself."""

    def objects(self, seen: Seen) -> Tensor:
        """Patches of an object, ``(B, N)`` bool."""


class DinoFound:
    """Cosines of DINO ViT-B/16's values of at least 0.2, and FOUND's probability above one half.

    ``model`` is a ``CLIPDINOiser`` with ``pooling="dino_v"`` and ``background="found"``: what it pools and masks with
    when it segments is what is imitated here.
    """

    def __init__(self, model: CLIPDINOiser) -> None:
        if model.dino is None or model.found is None:
            raise ValueError('the model needs pooling="dino_v" and background="found"')
        self.model = model

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Teachers``."""
        dino, found = self.model.dino, self.model.found
        assert dino is not None and found is not None
        return {"alike": {**dino.provenance, "cosine": COSINE}, "objects": found.provenance}

    @torch.no_grad()
    def alike(self, seen: Seen) -> Tensor:
        """See ``Teachers``."""
        return self.model.affinity(seen.inner, self.model.look(seen.rgb), seen.grid) >= COSINE

    @torch.no_grad()
    def objects(self, seen: Seen) -> Tensor:
        """See ``Teachers``."""
        return self.model.salient(seen.inner, seen.rgb, seen.grid)


class TinyWorld:
    """The stand-ins "patch-descriptor" and "coarse-object".

    Patches belong together whose descriptors are nearer than ``DISTANCE``; an object is what FOUND's rule for a coarse
    background leaves.
    Neither sees a mask, and both give the same for the same image.
    """

    def __init__(self, model: CLIPDINOiser) -> None:
        self.tower = model.tower

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Teachers``."""
        return {"alike": {"name": "patch-descriptor", "distance": DISTANCE}, "objects": {"name": "coarse-object"}}

    @torch.no_grad()
    def alike(self, seen: Seen) -> Tensor:
        """See ``Teachers``."""
        descriptors = patch_descriptor(seen.rgb, self.tower.patch_px)
        return torch.cdist(descriptors, descriptors, compute_mode="donot_use_mm_for_euclid_dist") < DISTANCE

    @torch.no_grad()
    def objects(self, seen: Seen) -> Tensor:
        """FOUND's coarse mask from keys and class attention of CLIP's last block; see ``Teachers``."""
        q, k, _ = (part.float() for part in vit.split_heads(self.tower.blocks[-1], seen.tokens))
        attention = (q[:, :, :1] @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1)[:, :, 0, 1:]
        return ~coarse_background(vit.merge_heads(k[:, :, 1:]), attention)


def patch_descriptor(rgb: Tensor, patch_px: int) -> Tensor:
    """Colour and texture of every patch: ``(B, 3, H, W)`` float32 in [0, 1] -> ``(B, N, 8)`` float32.

    Mean (3) and standard deviation (3) of the channels, and the mean absolute difference between horizontal and
    between vertical neighbours of the grey image (2), times 1.5, 1 and 2.  Both sides are multiples of the patch.
    """
    mean = F.avg_pool2d(rgb, patch_px)
    deviation = (F.avg_pool2d(rgb * rgb, patch_px) - mean * mean).clamp(min=0).sqrt()
    grey = rgb.mean(dim=1, keepdim=True)
    across = F.avg_pool2d(F.pad(grey.diff(dim=3).abs(), (0, 1)), patch_px)
    down = F.avg_pool2d(F.pad(grey.diff(dim=2).abs(), (0, 0, 0, 1)), patch_px)
    parts = (MEAN_WEIGHT * mean, DEVIATION_WEIGHT * deviation, GRADIENT_WEIGHT * across, GRADIENT_WEIGHT * down)
    return torch.cat(parts, dim=1).flatten(2).transpose(1, 2)


def frozen_model(recipe: Recipe, backbone: Backbone, device: torch.device) -> CLIPDINOiser:
    """The model whose features the heads take, with the teachers of the recipe that need weights.

    Raises ``UserError`` when those weights are not on this machine, or do not fit the backbone.
    """
    if recipe.teachers == "tiny-world":
        return CLIPDINOiser(backbone, CLIPDINOiserOptions(pooling="none"), device)
    return CLIPDINOiser(backbone, CLIPDINOiserOptions(pooling="dino_v", background="found"), device)


def teachers_for(recipe: Recipe, model: CLIPDINOiser) -> Teachers:
    """The teachers of a recipe, on what ``frozen_model`` made."""
    return TinyWorld(model) if recipe.teachers == "tiny-world" else DinoFound(model)
