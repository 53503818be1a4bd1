"""MaskCLIP as it was released: OpenAI's weights inside a ViT that is not quite theirs.

    z = y + mlp(ln_2(y)),   y = x + v W_o            (A = identity, as in ``maskclip``)

Three things differ from CLIP, and the numbers of the paper need all of them: the activation is the exact GELU although
the weights were trained with QuickGELU, LayerNorms have an epsilon of 1e-6, and images are normalised with ImageNet's
statistics.  Two refinements work on the scores of an image: prompt denoising removes queries that are sure nowhere, key
smoothing lets patches with similar keys agree.

Zhou et al., ECCV 2022, arXiv:2112.01071, in the form of the released code (chongzhou96/MaskCLIP,
mmseg/models/backbones/vit.py, mmseg/models/decode_heads/maskclip_head.py).
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.clip_method import ClipWords
from .blocks.dense_clip import DenseClip, EndPaddedOptions, LastBlock, SeenPatches
from .blocks.key_smoothing import SCALE, KeyNorm, denoise_prompts, projected_keys, smooth_by_keys
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit
from .models.backbone import Backbone

EPS = 1e-6
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class MaskCLIPOriginalOptions(EndPaddedOptions):
    """Options of ``MaskCLIPOriginal``; the first three are the differences, in the image tower alone."""

    exact_gelu: bool = Field(True, description="the exact GELU in place of the backbone's activation")
    small_eps: bool = Field(True, description="LayerNorms with an epsilon of 1e-6 in place of the backbone's")
    imagenet_statistics: bool = Field(True, description="images normalised by ImageNet's mean and deviation")
    prompt_denoising: float = Field(
        0.0, ge=0, le=1, description="probability that a query must reach somewhere, 0 is off; MaskCLIP+ has 0.5"
    )
    key_smoothing: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability below which a patch follows patches with similar keys, 0 is off; MaskCLIP+ has 1.0",
    )
    key_norm: KeyNorm = Field(
        "positions", description="keys normalised over positions, as released, or over channels, as the paper says"
    )


class MaskCLIPOriginal(DenseClip):
    """See the module docstring.  The released configurations of MaskCLIP have both refinements off.

    Padded patches take part in both refinements.  Scores are cosines, -100 for removed queries; with key smoothing they
    are like probabilities, but do not sum to 1 and may be negative.
    """

    info = MethodInfo(
        name="maskclip-original",
        title="MaskCLIP (as released)",
        paper="Zhou et al., ECCV 2022, arXiv:2112.01071",
    )
    last_block = LastBlock((), residual=True, ffn=True)

    options: MaskCLIPOriginalOptions

    def __init__(
        self,
        backbone: Backbone,
        options: MaskCLIPOriginalOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        if self.options.exact_gelu:
            self.tower = _with_exact_gelu(self.tower)
        if self.options.small_eps:
            self.tower = _with_eps(self.tower, EPS)
        if self.options.imagenet_statistics:
            self.statistics = (IMAGENET_MEAN, IMAGENET_STD)

    @property
    def activated(self) -> bool:
        """See ``WindowMethod.activated``."""
        return self.options.key_smoothing > 0

    def normalised(self, pixels: Tensor) -> Tensor:
        """See ``DenseClip.normalised``; here the zeros of ``pad="end"`` come after the normalisation."""
        if self.options.pad != "end":
            return super().normalised(pixels)
        bottom, right = (-side % self.tower.patch_px for side in pixels.shape[2:])
        return F.pad(self._normalise(pixels), (0, right, 0, bottom))

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """See ``DenseClip.encode_windows``; with the keys, for key smoothing."""
        tokens, grid = self.trunk(windows)
        keys = projected_keys(self.tower.blocks[-1], tokens) if self.options.key_smoothing else None
        return SeenPatches(self.patch_features(tokens, grid).unflatten(1, grid), keys)

    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        """Refined scores, ``(B, Q, h, w)`` float32."""
        cosines = super().score_windows(seen, words)
        scores = cosines.flatten(2).transpose(1, 2)
        if self.options.prompt_denoising:
            scores = denoise_prompts(scores, self.options.prompt_denoising)
        if seen.keys is not None:
            probabilities = (SCALE * scores).softmax(dim=2)
            scores = smooth_by_keys(probabilities, seen.keys, self.options.key_smoothing, self.options.key_norm)
        return scores.transpose(1, 2).unflatten(2, cosines.shape[2:])


def _with_exact_gelu(tower: vit.VisionTransformer) -> vit.VisionTransformer:
    return replace(tower, blocks=tuple(replace(block, activation=F.gelu) for block in tower.blocks))


def _with_eps(tower: vit.VisionTransformer, eps: float) -> vit.VisionTransformer:
    """Every LayerNorm with ``eps``."""

    def norm(affine: vit.Affine) -> vit.Affine:
        return replace(affine, eps=eps)

    blocks = tuple(replace(b, ln_1=norm(b.ln_1), ln_2=norm(b.ln_2)) for b in tower.blocks)
    return replace(tower, blocks=blocks, ln_pre=norm(tower.ln_pre), ln_post=norm(tower.ln_post))
