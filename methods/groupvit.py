"""GroupViT: a ViT, trained from scratch on image-text pairs, whose tokens are merged into 64 and then into 8 groups.

The assignments of both steps are soft maps, patches to 64 groups and 64 to 8; their product says which of the 8 groups
a patch belongs to.  What follows is in ``group_scores``, with the projected tokens of the 8 groups and the projection
of their mean.

Xu et al., CVPR 2022, arXiv:2202.11094, by the model of the ``transformers`` library and the evaluation of the public
code (NVlabs/GroupViT, segmentation/evaluation/group_vit_seg.py).  The library's own ``segmentation_logits`` are
something else: the logit scale counts twice, groups are soft, and neither the five classes nor the background exist.

Not training-free: trained on CC3M, CC12M and YFCC14M, or with RedCaps12M in the place of the last, without masks.
Weights: ``nvidia/groupvit-gcc-yfcc`` and ``nvidia/groupvit-gcc-redcaps`` on the hub, converted from the originals.
Those are under the NVIDIA Source Code License (non-commercial); the licence of the converted ones is unknown.
"""

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .blocks.clip_method import ClipWords
from .blocks.group_scores import GroupMethod, GroupOptions, Groups, pixel_owner
from .core.errors import UserError
from .core.info import MethodInfo
from .core.loaded import record_own
from .core.tokenizer import Tokenizer
from .core.vocabulary import Vocabulary
from .models.backbone import Backbone
from .models.checkpoints import state_sha256
from .models.groupvit_checkpoint import GroupViTParts, build_model, load_groupvit
from .models.text import encode_queries
from .models.weights import find_weights

Checkpoint = Literal["groupvit-gcc-yfcc", "groupvit-gcc-redcaps"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GroupViTOptions(GroupOptions):
    """Options of ``GroupViT``."""

    checkpoint: Checkpoint = Field(
        "groupvit-gcc-yfcc", exclude=True, description="released weights to look for where no file of them is given"
    )


class GroupViT(GroupMethod):
    """See the module docstring.

    ``weights`` is a folder as on the hub, an original ``.pth`` file, or the parts themselves; without it the folder of
    ``checkpoint`` that ``bench weights`` knows is used.  The public configurations have a ``background_threshold`` of
    0.95 (VOC21), 0.35 (Context60) and 0.95 (COCO-Object), for a background without a text.

    The numbers belong to windows of 448 px every 224 px of an image with a short side of 448 px.  The position
    embedding is resized by the target size (bicubic); rows and columns that do not fill a patch are dropped.  Texts are
    averaged over templates before they are normalised.  Text and projections run in float32 whatever ``dtype`` is.
    """

    info = MethodInfo(
        name="groupvit",
        title="GroupViT",
        paper="Xu et al., CVPR 2022, arXiv:2202.11094",
        training_free=False,
        trained_on="image-text pairs of CC3M, CC12M and YFCC14M (or RedCaps12M), without masks",
        backbone="",
        published="GroupViT",
        offline=False,
    )

    options: GroupViTOptions

    def __init__(
        self,
        options: GroupViTOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        weights: str | Path | GroupViTParts | None = None,
    ) -> None:
        super().__init__(options)
        self.device, self.dtype = torch.device(device), dtype
        if not isinstance(weights, GroupViTParts):
            weights = load_groupvit(_find(self.options.checkpoint, weights))
        self._source = {"source": weights.source, "sha256": _sha256(weights)}
        model = build_model(weights.config)
        model.load_state_dict(dict(weights.state))
        model.to(self.device).float()
        self.logit_scale = float(model.logit_scale.detach().exp().clamp(max=100))
        self.vision, self.projection = model.vision_model.to(dtype), model.visual_projection
        self.size_multiple_px = self.vision.embeddings.patch_embeddings.projection.kernel_size[0]
        self.group_count = model.config.vision_config.num_output_groups[-1]
        self._text_side = _text_side(model, weights)
        self._mean = torch.tensor(IMAGENET_MEAN, device=self.device).view(3, 1, 1) * 255
        self._std = torch.tensor(IMAGENET_STD, device=self.device).view(3, 1, 1) * 255

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {
            **super().provenance,
            "weights": {"name": "GroupViT", **self._source},
            "precision": str(self.dtype).removeprefix("torch."),
        }

    @property
    def prompt_tokenizer(self) -> Tokenizer:
        """See ``Method.prompt_tokenizer``."""
        return self._text_side.tokenizer

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``: the two checkpoints saw different images."""
        pairs = {"groupvit-gcc-yfcc": "YFCC14M", "groupvit-gcc-redcaps": "RedCaps12M"}[self.options.checkpoint]
        return replace(self.info, trained_on=f"image-text pairs of CC3M, CC12M and {pairs}, without masks")

    def encode_text(self, vocabulary: Vocabulary) -> ClipWords:
        """The queries' embeddings (float32, cached on disk): means of text features that are not normalised first."""
        return ClipWords(vocabulary, encode_queries(self._text_side, vocabulary, self.device, unit_prompts=False))

    def group(self, window: Tensor) -> Groups:
        """See ``GroupMethod.group``."""
        x, grid = self._embed(window)
        out = self.vision.encoder(x, output_attentions=True, return_dict=True)
        fine, coarse = (soft[0].float() for soft in out.attentions)
        tokens = self.vision.layernorm(out.last_hidden_state)[0]
        tokens = torch.cat([tokens, tokens.mean(dim=0, keepdim=True)]).float()
        unit = F.normalize(self.projection(tokens), dim=-1)
        soft = (coarse @ fine).unflatten(1, grid)
        return Groups(unit[:-1], unit[-1], pixel_owner(soft, *window.shape[1:]))

    def _embed(self, window: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens that enter the first stage, ``(1, h * w, D)``, and ``(h, w)``, for a window of any size.

        The library's ``vision_model`` refuses sizes other than 224 px, its parts do not.  Patches are embedded by a
        matrix product: on CUDA its convolution would be rounded to TF32.
        """
        parts = self.vision.embeddings
        side = parts.patch_embeddings.projection.kernel_size[0]
        height, width = (length - length % side for length in window.shape[1:])
        if min(height, width) == 0:
            raise UserError(
                f"a window of {window.shape[2]}x{window.shape[1]} px is smaller than one patch of {side} px: raise "
                "short_side_px of the protocol, or leave the image out"
            )
        pixels = ((window[:, :height, :width].to(self.device).float() - self._mean) / self._std).to(self.dtype)
        cells = pixels.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
        convolution = parts.patch_embeddings.projection
        x = parts.layernorm(F.linear(cells, convolution.weight.flatten(1), convolution.bias))[None]
        return x + parts.interpolate_pos_encoding(x, height, width), (height // side, width // side)


def _find(checkpoint: Checkpoint, given: str | Path | None) -> Path:
    """The folder of a checkpoint, or the original file that was given."""
    if given is not None and Path(given).is_file():
        record_own(Path(given))
        return Path(given)
    return find_weights(checkpoint, Path(given) if given else None)


def _sha256(weights: GroupViTParts) -> str:
    """Over tensors and configuration, which does not show in the tensors' shapes as a whole."""
    config = hashlib.sha256(json.dumps(dict(weights.config), sort_keys=True).encode()).hexdigest()[:16]
    if weights.file_sha256:
        return f"file:{weights.file_sha256}+{config}"
    return f"state:{state_sha256(weights.state)}+{config}"


class _TextTower(nn.Module):
    """The text half of the model as ``encode_queries`` takes it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text_model, self.text_projection = model.text_model, model.text_projection

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Features of texts, padded with zeros: ``(N, 77)`` int64 -> ``(N, dim)``.

        No mask is needed for the padding: attention is causal, and the feature is read at the end-of-text token.
        """
        features: Tensor = self.text_projection(self.text_model(input_ids=tokens).pooler_output)
        return features


def _text_side(model: Any, weights: GroupViTParts) -> Backbone:
    return Backbone(
        _TextTower(model).eval(),
        _tokenizer(model.config.text_config.max_position_embeddings),
        "GroupViT",
        weights.source,
        IMAGENET_MEAN,
        IMAGENET_STD,
        file_sha256=_sha256(weights).partition(":")[2],
    )


@cache
def _tokenizer(context: int) -> Tokenizer:
    """CLIP's tokenizer, which is GroupViT's (the vocabularies of the hub's folders are not read)."""
    from .models.clip_library import SimpleTokenizer

    return SimpleTokenizer(context_length=context)
