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
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks.dense_clip import DenseClip, LastBlock, SeenPatches
from .blocks.key_smoothing import SCALE, KeyNorm, denoise_prompts, projected_keys, smooth_by_keys
from .core.errors import UserError
from .core.method import MethodInfo
from .models import vit
from .models.backbone import Backbone

EPS = 1e-6
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class MaskCLIPOriginal(DenseClip):
    """See the module docstring.

    ``exact_gelu``, ``small_eps`` and ``imagenet_statistics`` are the three differences, in the image tower alone; with
    False the backbone's own take their place.  ``prompt_denoising`` and ``key_smoothing`` are thresholds in [0, 1], 0
    is off: the released configurations of MaskCLIP have both off, those of MaskCLIP+ have 0.5 and 1.0.  ``key_norm``:
    see ``smooth_by_keys``.

    ``pad="end"`` is the original's padding: zeros after the normalisation, that is ImageNet's mean colour, below and to
    the right.  Padded patches take part in both refinements, and the grid is stretched over the image.

    ``positions``: the position embedding is interpolated bicubically by target size, as in the released code.

    Scores are cosines, -100 for removed queries; with key smoothing they are like probabilities, but do not sum to 1
    and may be negative.
    """

    info = MethodInfo(
        name="maskclip-original",
        title="MaskCLIP (as released)",
        paper="Zhou et al., ECCV 2022, arXiv:2112.01071",
    )
    last_block = LastBlock((), residual=True, ffn=True)

    def __init__(
        self,
        backbone: Backbone,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        pad: bool | Literal["end"] = "end",
        positions: vit.Positions = "size",
        exact_gelu: bool = True,
        small_eps: bool = True,
        imagenet_statistics: bool = True,
        prompt_denoising: float = 0.0,
        key_smoothing: float = 0.0,
        key_norm: KeyNorm = "positions",
    ) -> None:
        super().__init__(backbone, device, dtype, pad, positions)
        for name, threshold in {"prompt_denoising": prompt_denoising, "key_smoothing": key_smoothing}.items():
            if not 0 <= threshold <= 1:
                raise UserError(f"{name} is {threshold}: it is compared with probabilities, so 0 (off) to 1 is allowed")
        if key_norm not in get_args(KeyNorm):
            raise UserError(f"key_norm is {key_norm!r}; allowed are {', '.join(get_args(KeyNorm))}")
        self.exact_gelu, self.small_eps, self.imagenet_statistics = exact_gelu, small_eps, imagenet_statistics
        self.prompt_denoising, self.key_smoothing, self.key_norm = prompt_denoising, key_smoothing, key_norm
        if exact_gelu:
            self.tower = _with_exact_gelu(self.tower)
        if small_eps:
            self.tower = _with_eps(self.tower, EPS)
        if imagenet_statistics:
            self._mean = torch.tensor(IMAGENET_MEAN, device=self.device).view(3, 1, 1) * 255
            self._std = torch.tensor(IMAGENET_STD, device=self.device).view(3, 1, 1) * 255

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {
            **super().provenance,
            "exact_gelu": self.exact_gelu,
            "small_eps": self.small_eps,
            "imagenet_statistics": self.imagenet_statistics,
            "prompt_denoising": self.prompt_denoising,
            "key_smoothing": self.key_smoothing,
            "key_norm": self.key_norm,
        }

    @property
    def activated(self) -> bool:
        """See ``Method.activated``."""
        return self.key_smoothing > 0

    def normalised(self, windows: Tensor) -> Tensor:
        """See ``DenseClip.normalised``; here the zeros of ``pad="end"`` come after the normalisation."""
        if self.pad != "end":
            return super().normalised(windows)
        bottom, right = (-side % self.tower.patch_px for side in windows.shape[2:])
        return F.pad(self._normalise(windows), (0, right, 0, bottom))

    @torch.inference_mode()
    def encode_windows(self, windows: Tensor) -> SeenPatches:
        """See ``DenseClip.encode_windows``; with the keys, for key smoothing."""
        tokens, grid = vit.run_trunk(self.tower, self.normalised(windows), self.positions)
        keys = projected_keys(self.tower.blocks[-1], tokens) if self.key_smoothing else None
        return SeenPatches(self.patch_features(tokens, grid).unflatten(1, grid), keys)

    @torch.inference_mode()
    def score_features(self, features: SeenPatches) -> Tensor:
        """Refined scores, ``(B, Q, h, w)`` float32."""
        cosines = super().score_features(features)
        scores = cosines.flatten(2).transpose(1, 2)
        if self.prompt_denoising:
            scores = denoise_prompts(scores, self.prompt_denoising)
        if features.keys is not None:
            scores = smooth_by_keys((SCALE * scores).softmax(dim=2), features.keys, self.key_smoothing, self.key_norm)
        return scores.transpose(1, 2).unflatten(2, cosines.shape[2:])


def _with_exact_gelu(tower: vit.VisionTransformer) -> vit.VisionTransformer:
    return replace(tower, blocks=tuple(replace(block, activation=F.gelu) for block in tower.blocks))


def _with_eps(tower: vit.VisionTransformer, eps: float) -> vit.VisionTransformer:
    """Every LayerNorm with ``eps``."""

    def norm(affine: vit.Affine) -> vit.Affine:
        return replace(affine, eps=eps)

    blocks = tuple(replace(b, ln_1=norm(b.ln_1), ln_2=norm(b.ln_2)) for b in tower.blocks)
    return replace(tower, blocks=blocks, ln_pre=norm(tower.ln_pre), ln_post=norm(tower.ln_post))
