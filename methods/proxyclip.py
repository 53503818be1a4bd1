"""ProxyCLIP: CLIP's values, mixed by what a second model says belongs together.

    z = A up(v) W_o,   A = softmax of E where E >= 0,   E = gamma (S - beta mean(S)),   S = cosines of DINO's patches

One matrix for all heads, no class token, skip connection or MLP.  Scores live on DINO's grid.  Windows are padded to
multiples of 56 px.  Where nothing is left of a row the public code gives NaN; here a place keeps itself.

The second model may be another DINO, a DINOv2, the encoder of MAE, whose patches are those after the last norm, or
that of SAM, which sees each window stretched to its own square; how the public code prepares it is not sure.

Lan et al., ECCV 2024, arXiv:2408.04883, in the form of the public code (mc-lan/ProxyCLIP, open_clip/transformer.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.dense_clip import DenseClip, DenseClipOptions, LastBlock, SeenPatches
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit
from .models.backbone import Backbone
from .models.dino import Dino, load_dino
from .models.mae import load_mae
from .models.open_model import open_model
from .models.sam import Sam, load_sam
from .models.second_dino import open_dino
from .refine.patch_similarity import similarity_matrix


@dataclass(frozen=True)
class Encoder:
    """A second model: how its files are read, and its checkpoint in the catalogue."""

    read: Callable[..., Dino | Sam]
    weights: str


ENCODERS = {
    "dino-b8": Encoder(load_dino, "dino-vitb8"),
    "dino-b16": Encoder(load_dino, "dino-vitb16"),
    "dinov2-b14": Encoder(load_dino, "dinov2-vitb14"),
    "dinov2-b14-reg": Encoder(load_dino, "dinov2-vitb14-reg"),
    "mae-b16": Encoder(load_mae, "mae-vitb16"),
    "sam-b16": Encoder(load_sam, "sam-vitb-hf"),
}


class ProxyCLIPOptions(DenseClipOptions):
    """Options of ``ProxyCLIP``."""

    pad: ClassVar[Literal[True]] = True  # type: ignore[misc]  # evenly, to multiples of 56 px, always
    beta: float = Field(1.2, gt=0, description="cosines below beta times their mean are left out")
    gamma: float = Field(3.0, gt=0, description="inverse temperature of the softmax")
    encoder: Literal["dino-b8", "dino-b16", "dinov2-b14", "dinov2-b14-reg", "mae-b16", "sam-b16"] | None = Field(
        None, exclude=True, description="the second model; None is dino-b8, and tiny-dino beside tiny-clip"
    )
    dino: str | None = Field(
        None, exclude=True, description="file or folder of the second model instead of the catalogue's"
    )


class ProxyCLIP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="proxyclip",
        title="ProxyCLIP",
        paper="Lan et al., ECCV 2024, arXiv:2408.04883",
        trained_on="nothing; DINO ViT-B/8 is self-supervised",
        published="ProxyCLIP",
    )
    last_block = LastBlock((), residual=False, ffn=False)
    options: ProxyCLIPOptions
    multiple_px = 56
    models = ("dino",)

    def __init__(
        self,
        backbone: Backbone,
        options: ProxyCLIPOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        dino: Dino | Sam | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.dino = dino or self._open(dtype)

    def _open(self, dtype: torch.dtype) -> Dino | Sam:
        given, encoder = self.options.dino, self.options.encoder
        if encoder is None:
            return open_dino("dino-vitb8", given, self.backbone, self.device, dtype)
        known = ENCODERS[encoder]
        how = (self.device,) if known.read is load_sam else (self.device, dtype)
        return open_model(known.read, known.weights, given, *how)

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``; the reported values are those with DINO ViT-B/8."""
        published = self.info.published if self.dino.name == "DINO ViT-B/8" else None
        teacher = "trained with masks" if isinstance(self.dino, Sam) else "self-supervised"
        return replace(self.info, trained_on=f"nothing; {self.dino.name} is {teacher}", published=published)

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Patch features on the second model's grid."""
        tokens, clip_grid = self.trunk(windows)
        similar, grid = self._patches(windows)
        block, pull = self.tower.blocks[-1], (self.options.beta, self.options.gamma)
        values = vit.values(block, tokens[:, 1:]).transpose(1, 2).unflatten(2, clip_grid)
        values = F.interpolate(values, grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
        mix = torch.stack([similarity_matrix(s, *pull)[0].to(v) @ v for s, v in zip(similar, values, strict=True)])
        return SeenPatches(F.normalize(vit.project(self.tower, vit.project_out(block, mix)), dim=-1).unflatten(1, grid))

    def _patches(self, windows: Windows) -> tuple[Tensor, tuple[int, int]]:
        sam = self.dino
        if isinstance(sam, Dino):
            return self.dino_patches(sam, windows)
        key = ("sam patches", sam, self.statistics, self.padding_key(windows))
        return windows.once(key, lambda: sam.patches(self.shown(windows.pixels)))
