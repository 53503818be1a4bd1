"""Regions whose features are alike: clusters and normalised cuts of a ViT's patch features.

Patch features of the last block, keys or values, are cut into regions; each connected part of a region is a mask.
CLIP's features know nothing but CLIP's training, DINO's nothing but images.  Constants are ours.
"""

from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..core.errors import UserError
from ..core.options import Options
from ..core.picture import Picture
from ..models import vit
from ..models.dino import Dino, load_dino
from ..models.open_model import open_model
from .base import Proposals, Proposer, ProposerParts, masks_of

Kind = Literal["key", "value"]
Encode = Callable[[Tensor], tuple[Tensor, tuple[int, int]]]
"""RGB in [0, 1], ``(1, 3, H, W)``, multiples of the patch -> features ``(h * w, D)`` float32 and ``(h, w)``."""

POSITION_WEIGHT = 0.1
TEMPERATURE = 0.05
ITERATIONS = 20
ALIKE, NOT_ALIKE = 0.2, 1e-5
MOST_TOKENS = 1600
"""Largest grid for the dense eigenvectors of normalised cuts."""


class _RegionOptions(Options):
    segments: int = Field(16, ge=1, description="regions at most")
    side_px: int = Field(
        0, ge=0, description="short side of the image as the ViT sees it, in px; 0: twice what the ViT was trained for"
    )


class ClipClustersOptions(_RegionOptions):
    """Options of ``ClipClusters``."""

    features: Kind = Field("value", description="keys or values of the last block of the method's own image tower")


class DinoClustersOptions(_RegionOptions):
    """Options of ``DinoClusters``."""

    patch: Literal[16, 8] = Field(16, description="side of the patches of the DINO ViT-B, in px")


class NormalisedCutsOptions(DinoClustersOptions):
    """Options of ``NormalisedCuts``."""

    features: Literal["dino", "key", "value"] = Field("dino", description="DINO's keys, or CLIP's keys or values")


class _Features:
    """Patch features of one ViT.

    ``tower`` tells those of one CLIP from those of another; DINO's weights are in the provenance.
    """

    def __init__(self, encode: Encode, trained_px: int, patch_px: int, side_px: int, tower: Hashable = None) -> None:
        self.encode, self.patch_px, self.tower = encode, patch_px, tower
        self.side_px = side_px or 2 * trained_px

    def __call__(self, image: Tensor, most: int | None = None) -> tuple[Tensor, tuple[int, int]]:
        """``(3, h, w)`` uint8 -> unit features ``(N, D)`` float32 and the grid, of at most ``most`` patches."""
        height, width = image.shape[1:]
        scale = self.side_px / min(height, width) / self.patch_px
        if most is not None:
            scale = min(scale, (most / (height * width)) ** 0.5)
        grid = [max(1, int(side * scale + 1e-6)) for side in (height, width)]
        size = [side * self.patch_px for side in grid]
        rgb = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True) / 255
        features, found = self.encode(rgb)
        return F.normalize(features, dim=-1), found


def _clip_features(parts: ProposerParts, kind: Kind, side_px: int) -> _Features:
    vision = parts.vision
    if vision is None:
        raise UserError(
            "the regions are to be cut from features of the method's own CLIP, and it has none: choose another "
            "proposer, such as felzenszwalb or dino-clusters"
        )
    mean, std = (torch.tensor(v, device=parts.device).view(3, 1, 1) for v in (parts.mean, parts.std))

    def encode(rgb: Tensor) -> tuple[Tensor, tuple[int, int]]:
        pixels = ((rgb.to(parts.device) - mean) / std).to(parts.dtype)
        tokens, grid = vit.run_trunk(vision, pixels)
        _, key, value = vit.split_heads(vision.blocks[-1], tokens)
        return vit.merge_heads(key if kind == "key" else value)[0, 1:].float(), grid

    tower = (vision, tuple(parts.mean), tuple(parts.std))
    return _Features(encode, vision.stored_side * vision.patch_px, vision.patch_px, side_px, tower)


def _dino(parts: ProposerParts, patch: int) -> Dino:
    if isinstance(parts.weights, Dino):
        return parts.weights
    return open_model(load_dino, f"dino-vitb{patch}", parts.weights, parts.device, parts.dtype)


class _Regions(Proposer):
    """Masks from regions of the patch grid, of DINO's features or of CLIP's ``kind``."""

    options: _RegionOptions

    def __init__(self, parts: ProposerParts, options: _RegionOptions | None = None) -> None:
        super().__init__(parts, options)
        self.dino: Dino | None = None
        self.features = self._load(parts)

    @abstractmethod
    def _load(self, parts: ProposerParts) -> _Features: ...

    def _of_dino(self, parts: ProposerParts, patch: int) -> _Features:
        dino = self.dino = _dino(parts, patch)

        def encode(rgb: Tensor) -> tuple[Tensor, tuple[int, int]]:
            last = dino.qkv(dino.normalise(rgb))
            return last.k[0], last.grid

        return _Features(encode, dino.tower.stored_side * dino.patch_px, dino.patch_px, self.options.side_px)

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Proposer.provenance``."""
        return {**super().provenance, **({"dino": self.dino.provenance} if self.dino else {})}

    @property
    def key(self) -> Hashable:
        """See ``Proposer.key``."""
        return super().key, self.features.tower

    def shares(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """How much of each patch belongs to each region: ``(N, Q)`` float32, and the grid."""
        features, grid = self.features(image)
        return soft_clusters(with_position(features, grid), self.options.segments), grid

    @torch.inference_mode()
    def propose(self, picture: Picture) -> Proposals:
        """See ``Proposer.propose``; regions do not overlap, and small parts of them are left out."""
        shares, grid = self.shares(picture.pixels.to(self.device))
        maps = shares.T.unflatten(1, grid)[None]
        labels = F.interpolate(maps, picture.size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
        return Proposals(masks_of(labels.cpu().numpy(), True, shares.device))


class ClipClusters(_Regions):
    """Spherical k-means on the features of the method's own image tower."""

    name = "clip-clusters"
    options: ClipClustersOptions

    def _load(self, parts: ProposerParts) -> _Features:
        return _clip_features(parts, self.options.features, self.options.side_px)


class DinoClusters(_Regions):
    """Spherical k-means on DINO's keys."""

    name = "dino-clusters"
    options: DinoClustersOptions

    def _load(self, parts: ProposerParts) -> _Features:
        return self._of_dino(parts, self.options.patch)


class NormalisedCuts(_Regions):
    """Recursive normalised cuts (Shi and Malik, PAMI 2000).

    The grid is made coarser where it would have more than 1600 patches.
    """

    name = "ncut"
    options: NormalisedCutsOptions

    def _load(self, parts: ProposerParts) -> _Features:
        if self.options.features == "dino":
            return self._of_dino(parts, self.options.patch)
        return _clip_features(parts, self.options.features, self.options.side_px)

    def shares(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Each patch belongs to one region."""
        features, grid = self.features(image, MOST_TOKENS)
        labels = normalised_cuts(features, self.options.segments)
        return F.one_hot(labels).to(features), grid


def with_position(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Unit features with 0.1 times (y, x) in [-1, 1] beside them, unit length again: ``(N, D)`` -> ``(N, D + 2)``."""
    y, x = (torch.linspace(-1, 1, side, device=features.device) if side > 1 else features.new_zeros(1) for side in grid)
    place = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
    return F.normalize(torch.cat([features, POSITION_WEIGHT * place], dim=-1), dim=-1)


def soft_clusters(points: Tensor, count: int) -> Tensor:
    """Spherical k-means: unit ``(N, D)`` -> how much of each point belongs to each cluster, ``(N, min(count, N))``.

    The first centre is the point farthest from the mean, each further one the point farthest from all centres.  After
    20 iterations the assignment is a softmax of cosines over the temperature 0.05.
    """
    chosen = [int((points @ points.mean(dim=0)).argmin())]
    nearest = points @ points[chosen[0]]
    while len(chosen) < min(count, len(points)):
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, points @ points[chosen[-1]])
    centres = points[chosen]
    for _ in range(ITERATIONS):
        owner = F.one_hot((points @ centres.T).argmax(dim=1), len(centres)).to(points)
        sums = owner.T @ points
        centres = torch.where(owner.any(dim=0)[:, None], F.normalize(sums, dim=-1), centres)
    return (points @ centres.T / TEMPERATURE).softmax(dim=-1)


def normalised_cuts(features: Tensor, count: int) -> Tensor:
    """Recursive two-way cuts: unit ``(N, D)`` -> labels ``(N,)`` int64, at most ``count`` of them.

    The affinity is 1 where the cosine is above 0.2, else 1e-5.  The part whose best cut is the cheapest, by the second
    eigenvalue, is cut next.
    """
    affinity = torch.where(features @ features.T > ALIKE, 1.0, NOT_ALIKE).double()
    done: list[Tensor] = []
    waiting = [_cut(affinity, torch.arange(len(features), device=features.device))]
    while waiting and len(done) + len(waiting) < count:
        best = min(range(len(waiting)), key=lambda i: waiting[i][0])
        _, members, side = waiting.pop(best)
        if side.all() or not side.any():
            done.append(members)
            continue
        waiting += [_cut(affinity, members[chosen]) for chosen in (side, ~side)]
    labels = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    parts = sorted([*done, *(members for _, members, _ in waiting)], key=lambda members: int(members[0]))
    for number, members in enumerate(parts):
        labels[members] = number
    return labels


def _cut(affinity: Tensor, members: Tensor) -> tuple[float, Tensor, Tensor]:
    """Cost of the best cut of some patches, the patches, and which of them lie on the side of the first."""
    from scipy.linalg import eigh

    if len(members) == 1:
        return float("inf"), members, torch.ones(1, dtype=torch.bool, device=members.device)
    part = affinity[members[:, None], members]
    scale = part.sum(dim=1).rsqrt()
    laplacian = torch.eye(len(members), device=part.device) - scale[:, None] * part * scale
    values, vectors = eigh(laplacian.cpu().numpy(), subset_by_index=(0, 1))
    second = torch.from_numpy(vectors[:, 1]).to(scale) * scale
    side = second > second.mean()
    return float(values[1]), members, side == side[0]
