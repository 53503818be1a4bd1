"""FOUND (Simeoni et al., CVPR 2023): which patches belong to any object at all, from the keys of DINO ViT-S/8.

The whole model is one linear layer on the keys of DINO's last block (valeoai/FOUND, model.py).
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UserError
from .checkpoints import check_keys, file_sha256, read_tensors, state_sha256
from .dino import Dino

PATCH_PX, WIDTH = 8, 384
BACKGROUND_COSINE = 0.3
ATTENTION_EPS = 1e-10


class Found:
    """Saliency of DINO's patches: ``weight`` ``(1, 384, 1, 1)`` and ``bias`` ``(1,)`` of the head, kept in float32.

    Every method takes ``(B, 3, H, W)`` floating RGB in [0, 1] of any size, on any device.  It is normalised first and
    then padded with zeros at the right and below to a multiple of 8 px, so the padding is the mean colour.
    Raises ``UserError`` unless ``dino`` is a ViT-S/8.
    """

    def __init__(
        self,
        dino: Dino,
        weight: Tensor,
        bias: Tensor,
        source: str = "tensors given by the caller",
        sha256: str | None = None,
    ) -> None:
        if (dino.patch_px, dino.width) != (PATCH_PX, WIDTH):
            raise UserError(
                f"the FOUND head reads keys of DINO ViT-S/8 (patch {PATCH_PX} px, width {WIDTH}), not of {dino.name} "
                f"({dino.source}): pass the file dino_deitsmall8_300ep_pretrain.pth that it was trained on"
            )
        self.dino, self.source = dino, source
        self.sha256 = sha256 or f"state:{state_sha256({'weight': weight, 'bias': bias})}"
        self._weight, self._bias = (part.to(dino.device, torch.float32) for part in (weight.flatten(1), bias))

    @property
    def provenance(self) -> dict[str, Any]:
        """Name, source and hash of the head, and the same of its DINO, as JSON values."""
        return {"name": "FOUND", "source": self.source, "sha256": self.sha256, "dino": self.dino.provenance}

    @torch.no_grad()
    def logits(self, rgb: Tensor) -> Tensor:
        """One logit per patch, above 0 where it is part of an object: ``(B, 1, ceil(H / 8), ceil(W / 8))`` float32."""
        height, width = rgb.shape[2:]
        last = self.dino.qkv(F.pad(self.dino.normalise(rgb), (0, -width % PATCH_PX, 0, -height % PATCH_PX)))
        return F.linear(last.k, self._weight, self._bias).transpose(1, 2).unflatten(2, last.grid)

    def saliency(self, rgb: Tensor) -> Tensor:
        """Probability per patch that it is part of an object, ``(B, 1, ceil(H / 8), ceil(W / 8))`` float32."""
        return self.logits(rgb).sigmoid()

    def pixel_mask(self, rgb: Tensor) -> Tensor:
        """Probability per pixel, ``(B, 1, H, W)`` float32: logits upsampled bilinearly, cropped, then the sigmoid."""
        logits = F.interpolate(self.logits(rgb), scale_factor=PATCH_PX, mode="bilinear", align_corners=False)
        return logits[:, :, : rgb.shape[2], : rgb.shape[3]].sigmoid()


def load_found(path: Path, dino: Dino) -> Found:
    """Load the released head: ``{"decoder": {"weight", "bias"}}``.

    Raises ``UserError`` when the file cannot be read or does not fit, or when ``dino`` is no ViT-S/8.
    """
    state = read_tensors(path, nests=("decoder",))
    check_keys(path, state, {"weight": (1, WIDTH, 1, 1), "bias": (1,)})
    return Found(dino, state["weight"], state["bias"], f"file {path.name}", f"file:{file_sha256(path)}")


def coarse_background(keys: Tensor, class_attention: Tensor) -> Tensor:
    """Patches that look like the one the class token attends to least: FOUND's pseudo-label, from DINO alone.

    ``keys`` is ``(B, N, heads * d)`` and ``class_attention`` ``(B, heads, N)``, both of the last block.  A head counts
    the more, the fewer patches it attends to above the mean over all heads and patches:
    ``beta_h = log(sum_g (Q_g + eps) / (Q_h + eps))`` with Q_h the fraction of such patches.  The seed has the least
    ``sum_h beta_h A_h``; background is every patch whose key, heads scaled by beta, has a cosine above 0.3 with the
    seed's.  Returns ``(B, N)`` bool, True for background.
    """
    fraction = (class_attention > class_attention.mean(dim=(1, 2), keepdim=True)).float().mean(dim=2) + ATTENTION_EPS
    beta = (fraction.sum(dim=1, keepdim=True) / fraction).log()
    seed = torch.einsum("bh,bhn->bn", beta, class_attention).argmin(dim=1)
    heads = class_attention.shape[1]
    scaled = keys.unflatten(2, (heads, -1)) * beta[:, None, :, None]
    descriptors = F.normalize(scaled.flatten(2), dim=2)
    seeds = descriptors[torch.arange(len(seed), device=seed.device), seed]
    return torch.einsum("bnd,bd->bn", descriptors, seeds) > BACKGROUND_COSINE
