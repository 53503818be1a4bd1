"""OVSeg's pipeline with vanilla CLIP: masks of any proposer, a crop of each, CLIP's classes of the crops.

    phat[q] = softmax over texts of 100 cos(CLIP(crop q), text)
    S[q]    = o[q] ** (1 - lambda) * phat[q] ** lambda          o: objectness, if the proposer has one
    Y       = sum over q of S[q] M[q]                           M: masks, soft ones as they are

A crop is the tight rectangle of the thresholded mask with the mean colour outside, stretched to CLIP's square input
(``mask_crops``).  Pixels that no crop shows are decided by one proposal more: the whole image, with the weight 1e-3.

This is **not** OVSeg (Liang et al., CVPR 2023, arXiv:2210.04150): there the proposals are of a MaskFormer whose
embeddings are classified, too, and CLIP is fine-tuned on masked crops, with learned tokens where a mask is empty.
Nothing here is trained, unless the proposer is; its numbers must not be called OVSeg's.  Our adapter, with the crops
and the fusion of the released code (facebookresearch/ov-seg, open_vocab_seg/modeling/clip_adapter/adapter.py and
ovseg_model.py).
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from .blocks.clip_method import ClipMethod, ClipWords
from .blocks.mask_crops import Fill, binary_masks, cut_masked, fuse_scores
from .blocks.region_queries import covered_patches, default_depth, region_features
from .core.errors import UserError
from .core.info import MethodInfo
from .core.picture import Picture
from .core.score_field import ScoreField
from .core.windows import Box, WindowGeometry
from .models import vit
from .models.backbone import Backbone
from .proposals.base import Proposer, ProposerParts
from .proposals.for_methods import ProposerOptions, info_with, note_of

LOGIT_SCALE = 100.0
WHOLE_IMAGE = 1e-3
"""Weight of the whole image where no proposal is."""
GPU_BATCH, CPU_BATCH = 64, 8
FAST_SIDES = 2
"""Largest short side of the image for region queries, in sides that the tower was trained for (448 px for ViT-B/16)."""


@dataclass(frozen=True)
class SeenRegions:
    """CLIP's embeddings of masks.

    ``valid`` ``(P,)`` bool are the R masks that have any pixel, ``rows`` says which embedding is that of each of them:
    equal masks have one.  ``batches`` of embeddings ``(n, dim)`` float32, unit length, one for each view of a crop.
    """

    valid: Tensor
    rows: list[int]
    batches: tuple[tuple[Tensor, ...], ...]


@dataclass(frozen=True)
class SeenMasks:
    """Masks ``(P, h, w)`` float32, the last one of them the whole image if ``whole``; ``objectness`` of the others."""

    masks: Tensor
    objectness: Tensor | None
    whole: bool
    regions: SeenRegions


class OVSegTFOptions(ProposerOptions):
    """Options of ``OVSegTF``; all others are the proposer's, and its record reads them."""

    mask_threshold: float | None = Field(
        None, ge=0, le=1, description="makes masks binary for crops; nothing: 0.4 for soft masks, 0.5 for others"
    )
    ensemble_weight: float | None = Field(
        None, ge=0, le=1, description="lambda; nothing: 0.7 with an objectness, 1 without"
    )
    fill: Fill = Field("mean", description="outside the mask: the mean colour, the blurred image, the image")
    expand: float = Field(1.0, ge=0.1, le=10, description="scales the rectangles of crops about their centre")
    square: bool = Field(False, description="widens the shorter side of rectangles to the longer one")
    views: Literal["masked", "unmasked", "both"] = Field(
        "masked", description="crops with the mask, without it, or the mean probability of both"
    )
    crop_px: int = Field(
        0, ge=0, le=4096, description="side of crops, at least a patch; 0: what the image tower was trained for"
    )
    crop_batch: int = Field(
        0,
        ge=0,
        le=4096,
        exclude=True,
        description="crops at once; 0: 64 on a GPU, 8 on a CPU, whose caches hold no more",
    )
    fast: Literal["", "F2"] = Field("", description="F2: region queries in place of crops, an approximation")
    fast_depth: int = Field(0, ge=0, description="last blocks that the region queries pass; 0: half of them or less")

    @model_validator(mode="after")
    def _no_crops(self) -> "OVSegTFOptions":
        if self.fast and (self.fill, self.expand, self.square, self.views) != ("mean", 1.0, False, "masked"):
            raise ValueError(
                f"fast={self.fast} makes no crops: fill, expand, square and views say how they are cut.  Leave them out"
            )
        return self


class OVSegTF(ClipMethod[SeenMasks]):
    """See the module docstring for the equations.

    ``proposer`` is one that is loaded already, in place of that of the options.

    The whole image is seen at once, in the size that the protocol resized it to; windows of a protocol have no effect.
    A background that has texts is scored by them like any class.
    """

    info = MethodInfo(
        name="ovseg-tf",
        title="OVSeg pipeline with vanilla CLIP",
        paper="after Liang et al., CVPR 2023, arXiv:2210.04150",
    )
    options: OVSegTFOptions
    models = ("proposer",)

    def __init__(
        self,
        backbone: Backbone,
        options: OVSegTFOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        proposer: Proposer | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.size_multiple_px = None
        asked, blocks, patch = self.options, len(self.tower.blocks), self.tower.patch_px
        if asked.fast_depth > blocks:
            raise UserError(f"fast_depth is {asked.fast_depth}; the image tower has {blocks} blocks")
        if 0 < asked.crop_px < patch:
            raise UserError(f"crop_px is {asked.crop_px}; the image tower has patches of {patch} px")
        parts = ProposerParts(self.tower, *self.statistics, self.device, dtype, asked.proposer_weights)
        self.proposer = asked.load(parts, proposer)
        threshold = asked.mask_threshold
        self.mask_threshold = (0.4 if self.proposer.soft else 0.5) if threshold is None else threshold
        self.crop_batch = asked.crop_batch or (GPU_BATCH if self.device.type == "cuda" else CPU_BATCH)
        self.crop_px = asked.crop_px or self.tower.stored_side * patch
        self.fast_depth = asked.fast_depth or default_depth(self.tower)

    @property
    def note(self) -> str:
        """The backbone's; what the proposer was trained with; whether crops were replaced by an approximation."""
        notes = [super().note, note_of(self.proposer)]
        if self.options.fast:
            notes.append(f"approximation {self.options.fast}: region queries instead of crops")
        return "; ".join(filter(None, notes))

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``: training-free as long as the proposer was not trained with masks."""
        return info_with(self.info, self.proposer)

    @torch.inference_mode()
    def encode_image(self, picture: Picture, geometry: WindowGeometry) -> SeenMasks:  # noqa: ARG002
        """Masks, CLIP's view of them, and the whole image as one mask more where some pixels are in none."""
        proposals = self.proposer.look(picture)
        binary = binary_masks(proposals.masks, self.mask_threshold)
        whole = not bool(binary.any(dim=0).all())
        masks = proposals.masks
        if whole:
            everything = binary.new_ones(1, *picture.size)
            masks, binary = torch.cat([masks, everything.float()]), torch.cat([binary, everything])
        return SeenMasks(masks, proposals.objectness, whole, self.look(picture.pixels, binary))

    @torch.inference_mode()
    def score(self, seen: SeenMasks, words: ClipWords) -> ScoreField:
        """One box that is the whole image, its planes the masks."""
        probabilities, weight = classify(seen.regions, words.text), self.options.ensemble_weight
        if weight is None:
            weight = 1.0 if seen.objectness is None else 0.7
        crops, last = probabilities.split([len(probabilities) - seen.whole, int(seen.whole)])
        valid = seen.regions.valid[: len(seen.masks) - seen.whole]
        mixing = torch.cat([fuse_scores(crops, valid, seen.objectness, weight), WHOLE_IMAGE * last])
        frame = (seen.masks.shape[1], seen.masks.shape[2])
        boxes = (Box(0, 0, *frame),)
        return ScoreField(seen.masks[None], boxes, boxes, frame, words.query_to_class, activated=True, mixing=mixing)

    @torch.inference_mode()
    def look(self, image: Tensor, masks: Tensor) -> SeenRegions:
        """CLIP's view of masks: image ``(3, h, w)`` uint8, masks ``(P, h, w)`` bool."""
        image = image.to(self.device)
        valid = masks.flatten(1).any(dim=1)
        kept = masks[valid]
        firsts, rows = _distinct(kept)
        kept = kept[firsts]
        if not firsts:
            return SeenRegions(valid, rows, ())
        batches = ((self._regions(image, kept),),) if self.options.fast else self._crops(image, kept)
        return SeenRegions(valid, rows, tuple(tuple(F.normalize(view, dim=-1) for view in views) for views in batches))

    def _crops(self, image: Tensor, masks: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        asked = self.options
        fills: tuple[Fill, ...] = {"masked": (asked.fill,), "unmasked": ("keep",), "both": (asked.fill, "keep")}[
            asked.views
        ]

        def encode(some: Tensor, fill: Fill) -> Tensor:
            crops = cut_masked(image, some, *self.statistics, fill, asked.expand, asked.square, self.crop_px)[0]
            return self.encode_crops(crops)

        return tuple(tuple(encode(some, fill) for fill in fills) for some in masks.split(self.crop_batch))

    @torch.inference_mode()
    def encode_crops(self, crops: Tensor) -> Tensor:
        """CLIP's embeddings of crops, ``(R, 3, side, side)`` normalised -> ``(R, dim)`` float32, not normalised."""
        tokens, _ = vit.run_trunk(self.tower, crops.to(self.dtype))
        block = self.tower.blocks[-1]
        q, k, v = vit.split_heads(block, tokens)
        mixed = vit.merge_heads(F.scaled_dot_product_attention(q[:, :, :1], k, v))  # only the class token is read
        first = vit.add_ffn(block, tokens[:, :1] + vit.project_out(block, mixed))
        return vit.project(self.tower, first)[:, 0]

    def _regions(self, image: Tensor, masks: Tensor) -> Tensor:
        """``region_features`` of the image with whole patches, made smaller if it is large."""
        patch = self.tower.patch_px
        scale = min(1, FAST_SIDES * self.tower.stored_side * patch / min(image.shape[1:]))
        rows, columns = (max(1, round(side * scale / patch)) for side in image.shape[1:])
        size = (rows * patch, columns * patch)
        pixels = F.interpolate(self._normalise(image[None]).float(), size, mode="bilinear", antialias=True)
        seen = covered_patches(masks, (rows, columns))
        return region_features(self.tower, pixels.to(self.dtype), seen, self.fast_depth)


def classify(seen: SeenRegions, text: Tensor) -> Tensor:
    """Probabilities of texts for each of the R masks that have any pixel, ``(R, Q)`` float32: the mean of all views."""
    batches = [
        torch.stack([(LOGIT_SCALE * view @ text.T).softmax(dim=-1) for view in views]).mean(dim=0)
        for views in seen.batches
    ]
    return torch.cat(batches)[seen.rows] if batches else text.new_zeros(0, len(text))


def _distinct(masks: Tensor) -> tuple[list[int], list[int]]:
    """Indices of the different ones among ``(P, h, w)`` bool, and for each mask which of those it equals."""
    numbers: dict[bytes, int] = {}
    firsts: list[int] = []
    rows: list[int] = []
    for index, mask in enumerate(masks.cpu().numpy()):
        key = hashlib.sha256(np.packbits(mask).tobytes()).digest()
        if key not in numbers:
            numbers[key] = len(firsts)
            firsts.append(index)
        rows.append(numbers[key])
    return firsts, rows
