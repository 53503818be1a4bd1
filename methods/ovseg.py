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

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.clip_method import ClipMethod, ClipWords
from .blocks.mask_crops import binary_masks, cut_masked, fuse_scores
from .blocks.mask_prompts import embed_crops
from .core.errors import UserError
from .core.info import MethodInfo
from .core.options import Options
from .core.picture import Picture
from .core.score_field import ScoreField
from .core.windows import Box, WindowGeometry
from .models.backbone import Backbone
from .models.open_model import open_model
from .models.ovseg_checkpoint import OVSegParts, read_ovseg

LOGIT_SCALE = 100.0
Checkpoint = Literal["ovseg-swinb-vitl14", "ovseg-r101c-vitb16", "ovseg-swinb-vitl14-prompts"]


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


class OVSegOptions(Options):
    """Options of ``OVSeg``.

    The defaults are those of Swin-B on ADE20K; results are sensitive to ``mask_threshold`` and ``ensemble_weight``, and
    the protocol ``ovseg`` has them per data set.
    """

    checkpoint: Checkpoint = Field(
        "ovseg-swinb-vitl14", exclude=True, description="released weights to look for where no file of them is given"
    )
    mask_threshold: float = Field(
        0.4, ge=0, lt=1, description="probability above which a mask's pixels are shown in its crop"
    )
    ensemble_weight: float = Field(
        0.7, ge=0, le=1, description="lambda: 0 is the crops alone, 1 as 0, but empty masks count"
    )
    ensemble: bool = Field(True, description="false: S = p, and no crop is looked at")
    mask_prompts: bool = Field(True, description="false: CLIP sees blank areas as pixels of the mean colour")
    crop_batch: int = Field(64, ge=1, exclude=True, description="crops that go through CLIP in one call")


class OVSeg(ClipMethod[SeenProposals]):
    """See the module docstring for the equations.

    It has its own weights, CLIP included, and is not training-free.  ``weights`` is the file of a released checkpoint,
    or what ``read_ovseg`` returned.  Sizes are recognised by the tensors.  The licence of code and weights is
    CC BY-NC 4.0: no commercial use.  ``dtype`` is CLIP's; the mask network and all cosines stay float32.

    ResNet-101c: ``mask_threshold`` 0.5 on ADE20K, images with a short side of 512 px and a long side of at most 2048.

    The mask network was trained on the masks of COCO-Stuff: values on COCO-Stuff are not zero-shot.  A background
    class that has texts is scored as any other; the original never evaluates one.

    The whole image is seen at once, and windows of a protocol have no effect.
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

    options: OVSegOptions

    def __init__(
        self,
        options: OVSegOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        weights: str | Path | OVSegParts | None = None,
    ) -> None:
        asked = options or OVSegOptions()
        parts = weights if isinstance(weights, OVSegParts) else open_model(read_ovseg, asked.checkpoint, weights)
        super().__init__(_backbone(parts), asked, device, dtype)
        self.size_multiple_px = None
        prompts = parts.prompts if asked.mask_prompts else None
        if asked.mask_prompts and prompts is None:
            raise UserError(
                f"the weights ({parts.source}) have no mask prompts: give a checkpoint that has them, or "
                "mask_prompts=false for crops through plain CLIP"
            )
        self._prompts = None if prompts is None else prompts.to(self.device, dtype)
        self._non_object = F.normalize(parts.non_object.to(self.device), dim=-1)
        self.mask_net = parts.mask_net.to(self.device)

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``; values without crops or prompts are not in the table of reported ones."""
        as_released = self.options.ensemble and self.options.mask_prompts
        return self.info if as_released else replace(self.info, published=None)

    @torch.inference_mode()
    def encode_image(self, picture: Picture, geometry: WindowGeometry) -> SeenProposals:  # noqa: ARG002
        """The 100 proposals of the image and CLIP's view of their crops."""
        image = picture.pixels.to(self.device)
        found = picture.once(("mask net", self.mask_net), lambda: self.mask_net(image))
        shown = binary_masks(found.masks, self.options.mask_threshold)
        embeddings = F.normalize(found.embeddings, dim=-1)
        if not self.options.ensemble:
            return SeenProposals(found.masks, embeddings, None, shown.flatten(1).any(dim=1))
        side = self.tower.stored_side * self.tower.patch_px
        crops, crop_masks, valid = cut_masked(image, shown, *self.statistics, side_px=side)
        most = self.options.crop_batch
        batches = zip(crops.to(self.dtype).split(most), crop_masks.split(most), strict=True)
        parts = [embed_crops(self.tower, self._prompts, *batch) for batch in batches]
        return SeenProposals(found.masks, embeddings, torch.cat(parts), valid)

    @torch.inference_mode()
    def score(self, seen: SeenProposals, words: ClipWords) -> ScoreField:
        """Masks ``(1, 100, H, W)`` and their mixing S: how well each proposal fits each text."""
        labels = torch.cat([words.text, self._non_object])
        prior = (LOGIT_SCALE * seen.embeddings @ labels.T).softmax(dim=-1)[:, :-1]
        crops = None if seen.crops is None else (LOGIT_SCALE * seen.crops @ words.text.T).softmax(dim=-1)
        mixing = fuse_scores(crops, seen.valid, prior, self.options.ensemble_weight)
        frame = (seen.masks.shape[1], seen.masks.shape[2])
        boxes = (Box(0, 0, *frame),)
        return ScoreField(seen.masks[None], boxes, boxes, frame, words.query_to_class, activated=True, mixing=mixing)


def _backbone(parts: OVSegParts) -> Backbone:
    """The checkpoint's CLIP, with OpenAI's tokenizer and statistics."""
    from .models.clip_library import SimpleTokenizer, open_clip

    tokenizer = SimpleTokenizer(context_length=parts.clip.positional_embedding.shape[0])
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return Backbone(parts.clip, tokenizer, parts.clip_name, parts.source, mean, std, file_sha256=parts.sha256)
