"""Similarity of DINO's patches as a guide: each place takes the mean of the places that look like it.

    C_ij = cosine of the patch tokens i and j (output of the final norm)
    E    = gamma * (C - beta * mean of C over all i and j),   entries below 0 are left out
    R    = softmax of E over j,   refined map = R S

ProxyCLIP's attention (Lan et al., ECCV 2024, arXiv:2408.04883; mc-lan/ProxyCLIP, open_clip/transformer.py) with beta
1.2 and gamma 3, which CLIPer's second release offers in place of Stable Diffusion (linsun449/cliper.code,
ovs/pipeline.py).  No row of published results uses it there, and how an image is prepared for it is not
known to us.  Ours are:

* the image at its own size, resized (bilinear, antialiased) to the multiples of the patch below its sides; a side
  shorter than a patch becomes one patch;
* an image of more than ``most_patches`` patches is shrunk to about that many, with about its aspect ratio: R has the
  square of that number of entries, 164 MB at the default;
* a row without any entry keeps its own place alone.  A patch's cosine with itself is 1, so with
  beta 1.2 all rows are such when the mean is above 0.833 (an image of sky only): maps then come out as they went in.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UserError, did_you_mean
from ..models.dino import Dino, load_dino
from ..models.open_model import open_model

BETA, GAMMA = 1.2, 3.0
MOST_PATCHES = 6400  # 640 x 640 px, the largest size of COCO, in patches of 8 px

MODELS = {
    "dino-b16": "dino-vitb16",
    "dino-b8": "dino-vitb8",
    "dinov2-b14-reg": "dinov2-vitb14-reg",
}
"""Names of the guides, and their checkpoints in the catalogue."""


@dataclass(frozen=True)
class SimilarityAffinity:
    """R of one image: ``matrix`` is ``(N, N)`` float32, rows sum to 1, places row by row of ``grid``.

    ``lone_rows`` counts the rows that were left without any entry and keep their own place alone.
    """

    grid: tuple[int, int]
    matrix: Tensor
    lone_rows: int

    def propagate(self, maps: Tensor) -> Tensor:
        """``R S``: ``(k, rows, columns)`` float32 -> the same shape, on the maps' device."""
        if maps.ndim != 3 or tuple(maps.shape[1:]) != self.grid or maps.dtype != torch.float32:
            raise ValueError(f"maps are {tuple(maps.shape)} {maps.dtype}; wanted (k, *{self.grid}) float32")
        places = maps.to(self.matrix.device).flatten(1)
        return (places @ self.matrix.T).view(maps.shape).to(maps.device)


class PatchSimilarity:
    """The guide: a DINO or DINOv2 ViT and its options.  It draws no noise, so an image's name does not matter.

    ``beta`` scales the mean that is subtracted, ``gamma`` is the softmax's inverse temperature.

    Raises ``ValueError`` for a ``gamma`` that is not above 0, or fewer than one patch.
    """

    def __init__(
        self,
        dino: Dino,
        beta: float = BETA,
        gamma: float = GAMMA,
        most_patches: int = MOST_PATCHES,
    ) -> None:
        if not (math.isfinite(beta) and 0 < gamma < math.inf and most_patches >= 1):
            raise ValueError(f"wanted gamma > 0 and most_patches >= 1, not {beta=}, {gamma=}, {most_patches=}")
        self.dino, self.beta, self.gamma, self.most_patches = dino, beta, gamma, most_patches

    @property
    def provenance(self) -> dict[str, Any]:
        """The ViT's provenance and the options, as JSON values."""
        options = {"beta": self.beta, "gamma": self.gamma, "most_patches": self.most_patches}
        return {**self.dino.provenance, **options}

    @property
    def note(self) -> str:
        """Nothing has to be said."""
        return ""

    @torch.no_grad()
    def observe(self, image: Tensor, name: str) -> SimilarityAffinity:  # noqa: ARG002
        """R of ``image``, ``(3, H, W)`` uint8 RGB at its original size; ``name`` is not used."""
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape or image.dtype != torch.uint8:
            raise ValueError(f"the image is {tuple(image.shape)} {image.dtype}; wanted (3, H, W) uint8")
        height, width = image.shape[1:]
        grid = patch_grid(height, width, self.dino.patch_px, self.most_patches)
        size = (grid[0] * self.dino.patch_px, grid[1] * self.dino.patch_px)
        rgb = image[None].to(self.dino.device).float() / 255
        rgb = F.interpolate(rgb, size, mode="bilinear", align_corners=False, antialias=True)
        tokens = self.dino.tokens(self.dino.normalise(rgb))[0, 1:]
        matrix, lone_rows = similarity_matrix(tokens, self.beta, self.gamma)
        return SimilarityAffinity(grid, matrix, lone_rows)


def patch_grid(height: int, width: int, patch_px: int, most_patches: int) -> tuple[int, int]:
    """Rows and columns of patches for an image of ``height x width`` px."""
    rows, columns = max(1, height // patch_px), max(1, width // patch_px)
    if rows * columns <= most_patches:
        return rows, columns
    scale = math.sqrt(most_patches / (height * width))  # a square of most_patches has this many patches per px
    rows = min(most_patches, max(1, int(height * scale)))
    return rows, min(most_patches // rows, max(1, int(width * scale)))


def similarity_matrix(
    tokens: Tensor, beta: float = BETA, gamma: float = GAMMA, mean: Tensor | None = None
) -> tuple[Tensor, int]:
    """R, ``(N, N)`` float32, of tokens ``(N, D)``, and how many of its rows were left without any entry.

    ``mean`` takes the place of the mean of C, for those who look at several images together.  One matrix and one mask
    of its shape are held at a time.
    """
    unit = F.normalize(tokens.float(), dim=1)
    matrix = unit @ unit.T
    matrix.sub_(beta * (matrix.mean() if mean is None else mean)).mul_(gamma)
    matrix.masked_fill_(matrix < 0, -math.inf)
    lone = (matrix.amax(dim=1) == -math.inf).nonzero()[:, 0]
    matrix[lone, lone] = 0
    matrix.sub_(matrix.amax(dim=1, keepdim=True)).exp_()
    return matrix.div_(matrix.sum(dim=1, keepdim=True)), len(lone)


def load_patch_similarity(
    name: str,
    device: str | torch.device = "cpu",
    weights: Path | None = None,
    beta: float = BETA,
    gamma: float = GAMMA,
    most_patches: int = MOST_PATCHES,
) -> PatchSimilarity:
    """The guide called ``name`` in ``MODELS``, from its catalogued checkpoint or from the file ``weights``, float32.

    Raises ``UserError`` for an unknown name, when the checkpoint is not on this machine (nothing is downloaded), and
    when the file does not fit.
    """
    if name not in MODELS:
        raise UserError(f"unknown guide {name!r}{did_you_mean(name, MODELS)}")
    dino = open_model(load_dino, MODELS[name], weights, device)
    return PatchSimilarity(dino, beta, gamma, most_patches)
