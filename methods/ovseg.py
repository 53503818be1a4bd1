"""OVSeg: a MaskFormer proposes masks, a CLIP adapted to masked crops classifies them.

With the soft masks M_q and embeddings e_q of 100 queries, texts T, an embedding o of what is no object, and the
embedding phi_q of the crop that ``M_q > mask_threshold`` cuts out (``mask_prompts`` has it):

    p    = softmax over T and o of  100 cos(e_q, .)     o's column is dropped, the rest not renormalised
    phat = softmax over T of        100 cos(phi_q, T)
    S    = p^(1 - lambda) phat^lambda                    lambda is ensemble_weight
    Y    = sum_q S_q M_q

``mask_crops`` has the crops, and what S is for empty masks and for lambda = 0 (the crops alone).  The temperature is
100 whatever the checkpoint's is.  Crops are cut from the image that is given, the protocol's resized one.

Liang et al., CVPR 2023, arXiv:2210.04150, in the form of the released code (facebookresearch/ov-seg,
open_vocab_seg/ovseg_model.py, ``OVSeg``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks.clip_method import ClipMethod
from .blocks.mask_crops import binary_masks, cut_masked, fuse_scores
from .blocks.mask_prompts import embed_crops
from .core.errors import UserError
from .core.method import Method, MethodInfo
from .core.score_field import ScoreField
from .core.windows import Box, WindowGeometry
from .models.backbone import Backbone
from .models.ovseg_checkpoint import OVSegParts, read_ovseg
from .models.weights import find_weights

LOGIT_SCALE = 100.0
CHECKPOINTS = ("ovseg-swinb-vitl14", "ovseg-r101c-vitb16", "ovseg-swinb-vitl14-prompts")
"""Names in the catalogue of weights; the first is used when none is given."""


@dataclass(frozen=True)
class SeenProposals:
    """What of an image's scores does not depend on the vocabulary.

    ``masks`` ``(Q, h, w)`` float32 in [0, 1], ``embeddings`` ``(Q, D)`` and ``crops`` ``(R, D)`` float32, unit length;
    ``crops`` are of the R proposals that are ``valid`` ``(Q,)``, or None when they are not looked at.
    """

    masks: Tensor
    embeddings: Tensor
    crops: Tensor | None
    valid: Tensor


class OVSeg(ClipMethod):
    """See the module docstring for the equations.

    It has its own weights, CLIP included, and is not training-free.  ``weights`` is the file of a released checkpoint,
    or what ``read_ovseg`` returned; without it ``checkpoint`` is looked for, one of ``CHECKPOINTS``.
    Sizes are recognised by the tensors.  The licence of code and weights is CC BY-NC 4.0: no commercial use.

    ``mask_threshold`` and ``ensemble_weight`` are those of Swin-B on ADE20K; results are sensitive to both, and the
    protocol ``ovseg`` has them per data set.  ResNet-101c: ``mask_threshold`` 0.5 on ADE20K, images with a short side
    of 512 px and a long side of at most 2048.

    ``ensemble`` False: S = p, and no crop is looked at.  ``mask_prompts`` False: CLIP sees blank areas as pixels of
    the mean colour.  ``crop_batch`` crops go through CLIP in one call.  ``dtype`` is CLIP's; the mask network and all
    cosines stay float32.

    The mask network was trained on the masks of COCO-Stuff: values on COCO-Stuff are not zero-shot.  A background
    class that has texts is scored as any other; the original never evaluates one.

    The whole image is seen at once, and windows of a protocol have no effect.  ``segment`` returns masks and their
    mixing; ``score_windows`` the same with one plane per query, which is large for many classes.
    """

    info = MethodInfo(
        name="ovseg",
        title="OVSeg",
        paper="Liang et al., CVPR 2023, arXiv:2210.04150",
        training_free=False,
        trained_on="masks of COCO-Stuff (mask network), masked crops and nouns of COCO Captions (CLIP, prompts)",
        backbone="",
        published="OVSeg",
        offline=False,
    )

    def __init__(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        weights: str | Path | OVSegParts | None = None,
        checkpoint: str = "ovseg-swinb-vitl14",
        mask_threshold: float = 0.4,
        ensemble_weight: float = 0.7,
        ensemble: bool = True,
        mask_prompts: bool = True,
        crop_batch: int = 64,
    ) -> None:
        _check_options(mask_threshold, ensemble_weight, crop_batch)
        if checkpoint not in CHECKPOINTS:
            raise UserError(f"checkpoint is {checkpoint!r}; allowed are {', '.join(CHECKPOINTS)}")
        given = Path(weights) if isinstance(weights, (str, Path)) else None
        parts = weights if isinstance(weights, OVSegParts) else read_ovseg(find_weights(checkpoint, given))
        super().__init__(_backbone(parts), device, dtype)
        self.mask_threshold, self.ensemble_weight, self.ensemble = mask_threshold, ensemble_weight, ensemble
        self.mask_prompts, self.crop_batch = mask_prompts, crop_batch
        if mask_prompts and parts.prompts is None:
            raise UserError(
                f"the weights ({parts.source}) have no mask prompts: give a checkpoint that has them, or "
                "mask_prompts=false for crops through plain CLIP"
            )
        self._prompts = parts.prompts.to(self.device, dtype) if mask_prompts and parts.prompts is not None else None
        self._non_object = F.normalize(parts.non_object.to(self.device), dim=-1)
        self.mask_net = parts.mask_net.to(self.device)

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {
            **super().provenance,
            "mask_threshold": self.mask_threshold,
            "ensemble_weight": self.ensemble_weight,
            "ensemble": self.ensemble,
            "mask_prompts": self.mask_prompts,
        }

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``; values without crops or prompts are not in the table of reported ones."""
        return self.info if self.ensemble and self.mask_prompts else replace(self.info, published=None)

    @property
    def activated(self) -> bool:
        """See ``Method.activated``: sums of masks, weighted by probabilities."""
        return True

    def segment(self, image: Tensor, geometry: WindowGeometry = WindowGeometry(), batch_size: int = 8) -> ScoreField:
        """See ``Method.segment``; masks ``(1, 100, H, W)`` and their mixing, whatever ``geometry`` says."""
        return self.segment_with([self], image, geometry, batch_size)[0]

    @torch.inference_mode()
    def segment_with(
        self,
        methods: Sequence[Method],
        image: Tensor,
        geometry: WindowGeometry,  # noqa: ARG002
        batch_size: int = 8,  # noqa: ARG002
    ) -> list[ScoreField]:
        """See ``Method.segment_with``; the image's proposals are made once."""
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(f"segment takes (3, H, W) uint8, not {tuple(image.shape)} {image.dtype}")
        owners = [method.query_to_class for method in methods]  # the clear error, before any work
        seen = self._see(image)
        frame = (image.shape[1], image.shape[2])
        boxes = (Box(0, 0, *frame),)
        mixings = [method.mix(seen) for method in methods if isinstance(method, OVSeg)]
        return [
            ScoreField(seen.masks[None], boxes, boxes, frame, owner, activated=True, mixing=mixing)
            for owner, mixing in zip(owners, mixings, strict=True)
        ]

    def score_windows(self, windows: Tensor) -> Tensor:
        """Y of each window by itself: ``(B, 3, H, W)`` uint8 RGB -> ``(B, Q, H, W)`` float32, 0 or more."""
        return torch.cat([self.segment(window).dense().scores for window in windows])

    @torch.inference_mode()
    def mix(self, seen: SeenProposals) -> Tensor:
        """S: how well each proposal fits each text of the vocabulary, ``(100, Q)`` float32."""
        labels = torch.cat([self.text, self._non_object])
        prior = (LOGIT_SCALE * seen.embeddings @ labels.T).softmax(dim=-1)[:, :-1]
        crops = None if seen.crops is None else (LOGIT_SCALE * seen.crops @ self.text.T).softmax(dim=-1)
        return fuse_scores(crops, seen.valid, prior, self.ensemble_weight)

    @torch.inference_mode()
    def _see(self, image: Tensor) -> SeenProposals:
        image = image.to(self.device)
        found = self.mask_net(image)
        shown = binary_masks(found.masks, self.mask_threshold)
        embeddings = F.normalize(found.embeddings, dim=-1)
        if not self.ensemble:
            return SeenProposals(found.masks, embeddings, None, shown.flatten(1).any(dim=1))
        side = self.tower.stored_side * self.tower.patch_px
        mean, std = self.backbone.mean, self.backbone.std
        crops, crop_masks, valid = cut_masked(image, shown, mean, std, side_px=side)
        batches = zip(crops.to(self.dtype).split(self.crop_batch), crop_masks.split(self.crop_batch), strict=True)
        parts = [embed_crops(self.tower, self._prompts, *batch) for batch in batches]
        return SeenProposals(found.masks, embeddings, torch.cat(parts), valid)


def _backbone(parts: OVSegParts) -> Backbone:
    """The checkpoint's CLIP, with OpenAI's tokenizer and statistics."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=parts.clip.positional_embedding.shape[0])
    mean, std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    return Backbone(parts.clip, tokenizer, parts.clip_name, parts.source, mean, std, file_sha256=parts.sha256)


def _check_options(mask_threshold: float, ensemble_weight: float, crop_batch: int) -> None:
    if not 0 <= mask_threshold < 1:
        raise UserError(f"mask_threshold is {mask_threshold}: it is a probability, 0 or more is allowed, below 1")
    if not 0 <= ensemble_weight <= 1:
        raise UserError(
            f"ensemble_weight is {ensemble_weight}: allowed are 0 (the crops alone) to 1 (as 0, but empty masks count)"
        )
    if crop_batch < 1:
        raise UserError(f"crop_batch is {crop_batch}: at least one crop goes through CLIP at a time")
