"""The two trained heads of CLIP-DINOiser and their checkpoint.

Layers: wysoczanska/clip_dinoiser, models/clip_dinoiser/clip_dinoiser.py; names in the file: train.py,
``get_model_dict``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoints import check_keys, file_sha256, read_tensors, state_sha256

AFFINITY_WIDTH = 256
NEST = "model_state_dict"


@dataclass(frozen=True)
class DinoiserHeads:
    """``obj_proj``, a 3x3 convolution to 256 channels, and ``bkg_decoder``, a 1x1 convolution to one; float32.

    Both take I, ``(B, N, D)``, for a grid of N patches.
    """

    obj_weight: Tensor
    obj_bias: Tensor
    bkg_weight: Tensor
    bkg_bias: Tensor
    source: str = "tensors given by the caller"
    sha256: str = ""

    @property
    def state(self) -> dict[str, Tensor]:
        """Tensors by the names of the released checkpoint."""
        return {
            "obj_proj.weight": self.obj_weight,
            "obj_proj.bias": self.obj_bias,
            "bkg_decoder.weight": self.bkg_weight,
            "bkg_decoder.bias": self.bkg_bias,
        }

    @property
    def width(self) -> int:
        """Width D of what the heads take."""
        return self.obj_weight.shape[1]

    @property
    def provenance(self) -> dict[str, Any]:
        """Source and hash, as JSON values."""
        return {"source": self.source, "sha256": self.sha256 or f"state:{state_sha256(self.state)}"}

    def to(self, device: str | torch.device) -> "DinoiserHeads":
        """The same on a device."""
        return heads_of({k: t.to(device, torch.float32) for k, t in self.state.items()}, self.source, self.sha256)

    def affinity(self, inner: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cosines of the projected patches, ``(B, N, N)``."""
        maps = F.pad(inner.transpose(1, 2).unflatten(2, grid), (1, 1, 1, 1), mode="replicate")
        cudnn = torch.backends.cudnn
        # else a GPU rounds to TF32 by default; whatever is not passed on would be switched off
        with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
            projected = F.conv2d(maps, self.obj_weight, self.obj_bias).flatten(2)
        unit = projected / projected.norm(dim=1, keepdim=True)
        return unit.transpose(1, 2) @ unit

    def saliency_logit(self, inner: Tensor) -> Tensor:
        """Logit of each patch for being part of an object, ``(B, N)``."""
        unit = inner / inner.norm(dim=2, keepdim=True)
        return F.linear(unit, self.bkg_weight.flatten(1), self.bkg_bias)[..., 0]


def load_heads(path: Path, width: int, device: str | torch.device = "cpu") -> DinoiserHeads:
    """Load the released checkpoint ``{"epoch", "model_state_dict"}``, or safetensors of the same four tensors.

    ``width`` is that of I.  Raises ``UserError`` that names the file, and keys and shapes that do not fit.
    """
    state = read_tensors(path, nests=(NEST,))
    wanted = {
        "obj_proj.weight": (AFFINITY_WIDTH, width, 3, 3),
        "obj_proj.bias": (AFFINITY_WIDTH,),
        "bkg_decoder.weight": (1, width, 1, 1),
        "bkg_decoder.bias": (1,),
    }
    check_keys(path, state, wanted)
    placed = {name: state[name].to(device, torch.float32) for name in wanted}
    return heads_of(placed, f"file {path.name}", f"file:{file_sha256(path)}")


def heads_of(state: Mapping[str, Tensor], source: str, sha256: str = "") -> DinoiserHeads:
    """Heads from the four tensors of a checkpoint."""
    return DinoiserHeads(
        obj_weight=state["obj_proj.weight"],
        obj_bias=state["obj_proj.bias"],
        bkg_weight=state["bkg_decoder.weight"],
        bkg_bias=state["bkg_decoder.bias"],
        source=source,
        sha256=sha256,
    )
