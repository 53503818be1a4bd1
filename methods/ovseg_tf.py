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
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks.clip_method import ClipMethod
from .blocks.mask_crops import Fill, binary_masks, cut_masked, fuse_scores
from .blocks.region_queries import covered_patches, default_depth, region_features
from .core.errors import UserError
from .core.method import MethodInfo
from .core.score_field import ScoreField
from .core.windows import Box, WindowGeometry
from .models import vit
from .models.backbone import Backbone
from .proposals import ProposerParts, load_proposer

Views = Literal["masked", "unmasked", "both"]
Fast = Literal["", "F2"]

LOGIT_SCALE = 100.0
WHOLE_IMAGE = 1e-3
"""Weight of the whole image where no proposal is."""
GPU_BATCH, CPU_BATCH = 64, 8
FAST_SIDES = 2
"""Largest short side of the image for region queries, in sides that the tower was trained for (448 px for ViT-B/16)."""


@dataclass(frozen=True)
class ScoredMasks:
    """Masks ``(P, h, w)`` float32 and what they score, ``(P, Q)`` float32."""

    masks: Tensor
    scores: Tensor


class OVSegTF(ClipMethod):
    """See the module docstring for the equations.

    ``proposer`` is a name of ``proposals.list_proposers``, ``proposer_weights`` its weights or folder;
    ``proposer_options`` are its own.  ``mask_threshold`` makes masks binary for crops (None: 0.4 for soft masks, 0.5
    for others).  ``ensemble_weight`` is lambda (None: 0.7 with an objectness, 1 without).  ``fill``, ``expand`` and
    ``square``: see ``mask_crops.cut_masked``.  ``views``: crops with the mask, without it, or the mean probability of
    both.  ``crop_px`` is the side of crops (0: what the image tower was trained for), ``crop_batch`` how many go
    through it at once (0: 64 on a GPU, 8 on a CPU, whose caches hold no more).

    ``fast`` "F2" takes ``region_queries`` in place of crops, an approximation; ``fast_depth`` is its k (0: default).

    The whole image is seen at once, in the size that the protocol resized it to; windows of a protocol have no effect.
    A background that has texts is scored by them like any class.
    """

    info = MethodInfo(
        name="ovseg-tf",
        title="OVSeg pipeline with vanilla CLIP",
        paper="after Liang et al., CVPR 2023, arXiv:2210.04150",
    )

    def __init__(
        self,
        backbone: Backbone,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        proposer: str = "felzenszwalb",
        proposer_weights: Any = None,
        mask_threshold: float | None = None,
        ensemble_weight: float | None = None,
        fill: Fill = "mean",
        expand: float = 1.0,
        square: bool = False,
        views: Views = "masked",
        crop_px: int = 0,
        crop_batch: int = 0,
        fast: Fast = "",
        fast_depth: int = 0,
        **proposer_options: Any,
    ) -> None:
        super().__init__(backbone, device, dtype)
        parts = ProposerParts(self.tower, backbone.mean, backbone.std, self.device, dtype, proposer_weights)
        self.proposer = load_proposer(proposer, parts, **proposer_options)
        self.mask_threshold = (0.4 if self.proposer.soft else 0.5) if mask_threshold is None else mask_threshold
        self.ensemble_weight, self.fill, self.expand, self.square = ensemble_weight, fill, expand, square
        self.views, self.fast = views, fast
        self.crop_batch = crop_batch or (GPU_BATCH if self.device.type == "cuda" else CPU_BATCH)
        self.crop_px = crop_px or self.tower.stored_side * self.tower.patch_px
        self.fast_depth = fast_depth or default_depth(self.tower)
        self._check_options()

    def _check_options(self) -> None:
        for name, kind in {"fill": Fill, "views": Views, "fast": Fast}.items():
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(repr(value) for value in get_args(kind))
                raise UserError(f"{name} is {getattr(self, name)!r}; allowed are {allowed}")
        for name, least, most in (
            ("mask_threshold", 0, 1),
            ("ensemble_weight", 0, 1),
            ("expand", 0.1, 10),
            ("crop_px", self.tower.patch_px, 4096),
            ("crop_batch", 1, 4096),
            ("fast_depth", 1, len(self.tower.blocks)),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"{name} is {value}; allowed is {least} to {most}")
        if self.fast and (self.fill, self.expand, self.square, self.views) != ("mean", 1.0, False, "masked"):
            raise UserError(
                f"fast={self.fast} makes no crops: fill, expand, square and views say how they are cut.  Leave them out"
            )

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        crops = {name: getattr(self, name) for name in ("fill", "expand", "square", "views", "crop_px")}
        fast = {"approximation": self.fast, "fast_depth": self.fast_depth}
        return {
            **super().provenance,
            "proposer": self.proposer.provenance,
            "mask_threshold": self.mask_threshold,
            "ensemble_weight": "default" if self.ensemble_weight is None else self.ensemble_weight,
            **(fast if self.fast else crops),
        }

    @property
    def note(self) -> str:
        """The backbone's; what the proposer was trained with; whether crops were replaced by an approximation."""
        notes = [super().note]
        if self.proposer.supervision:
            notes.append(f"not training-free: proposer trained with {self.proposer.supervision}")
        if self.fast:
            notes.append(f"approximation {self.fast}: region queries instead of crops")
        return "; ".join(filter(None, notes))

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``: training-free as long as the proposer was not trained with masks."""
        if not self.proposer.supervision:
            return self.info
        return replace(self.info, training_free=False, trained_on=f"the proposer: {self.proposer.supervision}")

    @property
    def activated(self) -> bool:
        """See ``Method.activated``."""
        return True

    def segment(self, image: Tensor, geometry: WindowGeometry = WindowGeometry(), batch_size: int = 8) -> ScoreField:  # noqa: ARG002
        """See ``Method.segment``; one box that is the whole image, its planes the masks."""
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(f"segment takes (3, H, W) uint8, not {tuple(image.shape)} {image.dtype}")
        found = self.score_masks(image)
        height, width = image.shape[1:]
        boxes = (Box(0, 0, height, width),)
        return ScoreField(
            found.masks[None], boxes, boxes, (height, width), self.query_to_class, activated=True, mixing=found.scores
        )

    def score_windows(self, windows: Tensor) -> Tensor:
        """Scores, each window an image by itself: ``(B, 3, H, W)`` uint8 RGB -> ``(B, Q, H, W)`` float32."""
        found = [self.score_masks(window) for window in windows]
        return torch.stack([torch.einsum("phw,pq->qhw", one.masks, one.scores) for one in found])

    @torch.inference_mode()
    def score_masks(self, image: Tensor) -> ScoredMasks:
        """Masks of an image, ``(3, h, w)`` uint8 RGB, and the scores of the queries for each.

        Where some pixels are in no mask, the last one is the whole image.
        """
        _ = self.text  # the clear error when encode was forgotten
        image = image.to(self.device)
        proposals = self.proposer.propose(image)
        masks, prior = proposals.masks, proposals.objectness
        binary = binary_masks(masks, self.mask_threshold)
        weight = self.ensemble_weight
        if weight is None:
            weight = 1.0 if prior is None else 0.7
        if bool(binary.any(dim=0).all()):
            return ScoredMasks(masks, fuse_scores(*self.classify(image, binary), prior, weight))
        whole = torch.ones_like(binary[:1]) if len(binary) else binary.new_ones(1, *image.shape[1:])
        probabilities, valid = self.classify(image, torch.cat([binary, whole]))
        scores = fuse_scores(probabilities[:-1], valid[:-1], prior, weight)
        return ScoredMasks(torch.cat([masks, whole.float()]), torch.cat([scores, WHOLE_IMAGE * probabilities[-1:]]))

    @torch.inference_mode()
    def classify(self, image: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the queries: image ``(3, h, w)`` uint8, masks ``(P, h, w)`` bool -> ``(R, Q)`` float32.

        Rows are those of the R masks that have any pixel; which they are is returned, too, ``(P,)`` bool.  Equal masks
        are classified once.
        """
        valid = masks.flatten(1).any(dim=1)
        kept = masks[valid]
        firsts, rows = _distinct(kept)
        if not firsts:
            return self.text.new_zeros(0, len(self.text)), valid
        kept = kept[firsts]
        classified = (
            [self._probabilities(self._regions(image, kept))] if self.fast else self._classify_crops(image, kept)
        )
        return torch.cat(classified)[rows], valid

    def _classify_crops(self, image: Tensor, masks: Tensor) -> list[Tensor]:
        fills: tuple[Fill, ...] = () if self.views == "unmasked" else (self.fill,)
        fills += () if self.views == "masked" else ("keep",)
        statistics = (self.backbone.mean, self.backbone.std)
        out = []
        for some in masks.split(self.crop_batch):
            views = [
                cut_masked(image, some, *statistics, fill, self.expand, self.square, self.crop_px) for fill in fills
            ]
            seen = [self._probabilities(self.encode_crops(crops)) for crops, _, _ in views]
            out.append(torch.stack(seen).mean(dim=0))
        return out

    def _probabilities(self, embeddings: Tensor) -> Tensor:
        return (LOGIT_SCALE * F.normalize(embeddings, dim=-1) @ self.text.T).softmax(dim=-1)

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
