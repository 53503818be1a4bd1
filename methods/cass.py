"""CASS: the last block attends by its keys and by the rough form of a DINO's, head by head; texts are moved, too.

    z = A v W_o,   A = softmax(E + omega),   E = (10 w L + C) / (10 w + 1),   C = s k k^T
    score = (1 - g) f . t' + g a,   f = unit features of z   (``moved_texts``; groups by Ward's linkage)

C is a head's own graph, of patches alone.  DINO's keys of the last block, on CLIP's grid and moved to the range of
CLIP's, make graphs D.  Each head is paired with one of DINO's, one to one, so that spectra differ most in sum; w is
how much they do.  L is the rank-10 form of that D, its singular values stretched (``stretch``; not on VOC20 and
Cityscapes), its diagonal 0, moved to the range of C.  omega is NACLIP's Gaussian.

DINO looks at a square of the window's smaller side, with colours a little off, as released.  Ours: the random matrix
of the low-rank form depends on ``seed`` and the number of patches alone; of pairings that cost the same, the one in
order; windows of fewer than ten patches are scored.

Kim et al., CVPR 2025, arXiv:2411.17150, in the form of the public code (MICV-yonsei/CASS, commit 228ecdd).
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from .blocks.dense_clip import LastBlock, gaussian_window
from .blocks.head_graphs import distances, into, partners, rough, spectra, start_matrix
from .blocks.moved_texts import MovedTexts, MovedTextsOptions, SeenWithOverall
from .core.errors import UserError
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit
from .models.backbone import Backbone
from .models.dino import HEAD_SIZE, Dino
from .models.second_dino import open_dino

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
SIGMA, SHARE = 5.0, 10.0
_COLOUR_STD, _COLOUR_MEAN = (0.229, 0.224, 0.255), (0.485, 0.456, 0.406)  # blue 0.255: as released


class CASSOptions(MovedTextsOptions):
    """Options of ``CASS``."""

    stretch: bool = Field(True, description="singular values of DINO's graphs are stretched")
    seed: int = Field(0, ge=0, description="of the random matrix that the low-rank form starts from")
    dino: str | None = Field(
        None, exclude=True, description="file of a DINO; without it ViT-B/8, or tiny-dino beside tiny-clip"
    )


class CASS(MovedTexts):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="cass",
        title="CASS",
        paper="Kim et al., CVPR 2025, arXiv:2411.17150",
        trained_on="nothing; DINO ViT-B/8 is self-supervised",
        published="CASS",
        offline=False,
    )
    last_block = LastBlock(("kk",), residual=False, ffn=False, gaussian_sigma=SIGMA)
    linkage = "ward"
    options: CASSOptions
    models = ("dino",)

    def __init__(
        self,
        backbone: Backbone,
        options: CASSOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        dino: Dino | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.dino = dino or open_dino("dino-vitb8", self.options.dino, backbone, self.device, dtype)
        heads = self.tower.blocks[-1].heads
        if heads != self.dino.heads:
            raise UserError(
                f"CASS pairs the heads of both models: the backbone has {heads}, {self.dino.name} {self.dino.heads}.  "
                "Give a backbone with as many, --backbone ViT-B-16-quickgelu/openai, or another --option cass.dino=FILE"
            )

    def encode_windows(self, windows: Windows) -> SeenWithOverall:
        """Patch features of windows, and class tokens."""
        tokens, grid = self.trunk(windows)
        _, k, v = self.last_heads(windows)
        e = self._graphs(windows, k[:, :, 1:].float(), grid)
        attention = (e + gaussian_window(*grid, SIGMA)[1:, 1:].to(e)).softmax(dim=-1)
        x = vit.project_out(self.tower.blocks[-1], vit.merge_heads(attention.to(v.dtype) @ v[:, :, 1:]))
        features = F.normalize(vit.project(self.tower, x), dim=-1).unflatten(1, grid)
        return SeenWithOverall(features, overall=self.overall_of(windows, self._class_token(tokens), self._image_token))

    def _graphs(self, windows: Windows, k: Tensor, grid: tuple[int, int]) -> Tensor:
        """E of each head: keys ``(B, M, N, d)`` float32 -> ``(B, M, N, N)`` float32."""
        theirs = self._dino_keys(windows, grid)
        theirs = into(theirs, *_range(theirs, 1), *_range(k, 1))
        w = distances(spectra(theirs), spectra(k))
        pairs = partners(w)
        weight = SHARE * w.gather(2, pairs[..., None])[..., None]
        graphs = _graph(theirs)[torch.arange(len(pairs), device=pairs.device)[:, None], pairs]
        start = start_matrix(graphs.shape[-1], self.options.seed).to(graphs.device)
        low_rank = rough(graphs, start, self.options.stretch)
        low_rank.diagonal(dim1=-2, dim2=-1).zero_()
        c = _graph(k)
        low_rank = into(low_rank, *_range(low_rank, 2), *_range(c, 2)).float()
        return (weight * low_rank + c) / (weight + 1)

    def _dino_keys(self, windows: Windows, grid: tuple[int, int]) -> Tensor:
        """DINO's keys on CLIP's grid, ``(B, M, N, 64)`` float32."""
        key = ("dino squared", self.dino, self.statistics)
        last = windows.once(key, lambda: self.dino.qkv(self._squares(windows.pixels)))
        maps = last.k.transpose(1, 2).unflatten(2, last.grid)
        maps = F.interpolate(maps, grid, mode="bilinear", align_corners=False)
        return maps.flatten(2).unflatten(1, (-1, HEAD_SIZE)).mT

    def _squares(self, pixels: Tensor) -> Tensor:
        """What DINO is given of windows ``(B, 3, H, W)`` uint8: ``(B, 3, side, side)``, normalised."""
        side, patch = min(pixels.shape[2:]), self.dino.patch_px
        shown = torch.stack([_squared(one, side) for one in recoloured(pixels, self.statistics)])
        whole = side // patch * patch
        return self.dino.normalise(shown[..., :whole, :whole] / 255)

    def _image_token(self, whole: Windows) -> Tensor:
        key = ("class token", *self._trunk_key(whole))
        return whole.once(key, lambda: self._class_token(self.trunk(whole)[0]))

    def _class_token(self, tokens: Tensor) -> Tensor:
        last = vit.run_block(self.tower.blocks[-1], tokens)[:, :1]
        return F.normalize(vit.project(self.tower, last)[:, 0], dim=-1)


def recoloured(pixels: Tensor, statistics: Statistics) -> Tensor:
    """Windows uint8 as CASS hands them on: CLIP's mean and deviation out, ImageNet's in, one of them mistyped."""
    mean, std = (torch.tensor(s).view(3, 1, 1) * 255 for s in statistics)
    clip = (pixels.cpu().float() - mean) / std
    new_mean, new_std = (torch.tensor(s).view(3, 1, 1) for s in (_COLOUR_MEAN, _COLOUR_STD))
    return ((clip * new_std + new_mean) * 255).clamp(0, 255).to(torch.uint8)


def _squared(pixels: Tensor, side_px: int) -> Tensor:
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    resized = np.array(picture.resize((side_px, side_px), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized).permute(2, 0, 1)


def _graph(keys: Tensor) -> Tensor:
    return keys.shape[-1] ** -0.5 * keys @ keys.mT


def _range(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest over all axes from ``first`` on."""
    axes = tuple(range(first, x.ndim))
    return x.amin(dim=axes, keepdim=True), x.amax(dim=axes, keepdim=True)
