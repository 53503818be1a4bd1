"""CLIPer: patch-text probabilities from every layer, thresholded and spread along fused attention.

With unit features O_k of layers k = 0 .. L-1 and the attention Abar between patches (``early_fusion`` has both), texts
T and the temperature s:

    P_k = softmax over T of s O_k T^T                 columns of queries are kept, not renormalised
    Q   = P_sel where P_sel >= t * max over patches, else 0
    v2:  seg = Abar^T Q + (1/L) sum_k P_k             with Q in the place of P_sel
    v1:  seg = Abar Q + 1/(L-1) sum_(k<L-1) P_k       sel is the last layer

T is all queries and one row more, the mean over queries of the foreground: a generic object that takes probability away
from everything that is just some object.

The two variants are two released programs.  v2 is behind the numbers of ICCV, v1 behind those of the first preprint.
What is easily missed in v2: the threshold reaches into the mean over layers, and Abar acts transposed.  Abar is always
that of the last layer of the whole image, also with an earlier ``select_layer`` and with windows.

With windows (v2), P_k is the mean of the above and of

    softmax over T of s (G^T U_k) T^T

U_k are the unit features of windows, averaged where windows overlap, G their Abar, averaged likewise and normalised by
row; G is 0 between patches that no window shows together.  The original averages logits and multiplies those by G; both
are linear in the features, so this is the same, and it does not depend on the vocabulary.

The ViT-H/14 of the paper is left out: it has other formulas, and its settings were never published.  Refining scores
with Stable Diffusion's attention is a step of the protocol.

Sun et al., ICCV 2025, arXiv:2411.13836, in the form of the released code (linsun449/cliper.code,
modified_clip/model.py; v2 is commit c05fa41, v1 is commit 0c32ff2).
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks.clip_method import ClipMethod
from .blocks.early_fusion import Attention, FusedFeatures, fuse_layers
from .core.errors import UserError
from .core.method import MethodInfo
from .core.vocabulary import Vocabulary
from .core.windows import WindowGeometry, cut
from .models.backbone import Backbone

Variant = Literal["v1", "v2"]


@dataclass(frozen=True)
class EncodedImage:
    """What of an image's scores does not depend on the vocabulary.

    ``views`` is ``(V, K, h * w, dim)`` float32: the whole image and, with windows, what they saw; K layers.
    ``attention`` is Abar, ``(h * w, h * w)`` float32.
    """

    views: Tensor
    attention: Tensor
    grid: tuple[int, int]


class CLIPer(ClipMethod):
    """See the module docstring for the equations.

    ``attention_threshold`` is t (v1's is 0.2), ``select_layer`` is sel, counted from the end.  ``window_px`` (0: none)
    and ``stride_px`` are multiples of the patch.  ``logit_scale`` is s.

    The rest is for ablations.  ``fusion`` False: the layer sel alone, without the mean over layers.  ``propagate``
    False: Abar is the identity (G of windows stays).  ``attention``: see ``fuse_layers``.

    Scores are between 0 and about 2, for queries of the background as for any other.  Without any query of the
    foreground there is no mean over them either, and T is the queries alone.

    Images are encoded one by one, so that a batch cannot move a probability over the threshold.
    """

    info = MethodInfo(
        name="cliper",
        title="CLIPer",
        paper="Sun et al., ICCV 2025, arXiv:2411.13836",
        published="CLIPer (whole)",
    )

    def __init__(
        self,
        backbone: Backbone,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        variant: Variant = "v2",
        attention_threshold: float = 0.2,
        select_layer: int = -1,
        window_px: int = 0,
        stride_px: int = 112,
        logit_scale: float = 100.0,
        fusion: bool = True,
        propagate: bool = True,
        attention: Attention = "fused",
    ) -> None:
        super().__init__(backbone, device, dtype)
        self.variant, self.attention, self.fusion, self.propagate = variant, attention, fusion, propagate
        self.attention_threshold, self.logit_scale = attention_threshold, logit_scale
        self.select_layer, self.window_px, self.stride_px = select_layer, window_px, stride_px
        self._check_options()
        count = len(self.tower.blocks)
        self._selected = count + select_layer
        self._layers = tuple(range(count)) if fusion else (self._selected,)
        self._texts: Tensor | None = None

    def _check_options(self) -> None:
        for name, kind in {"variant": Variant, "attention": Attention}.items():
            if getattr(self, name) not in get_args(kind):
                raise UserError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(get_args(kind))}")
        if not 0 <= self.attention_threshold < 1:
            raise UserError(
                f"attention_threshold is {self.attention_threshold}: it is a part of a query's largest probability, so "
                "0 (off) or more is allowed, below 1"
            )
        if not 0 < self.logit_scale < math.inf:
            raise UserError(f"logit_scale is {self.logit_scale}: it must be larger than 0; the paper uses 50 to 100")
        count = len(self.tower.blocks)
        if count < 2:
            raise UserError("the backbone has one block: there is no earlier layer that CLIPer could fuse")
        if not -count <= self.select_layer <= -1:
            raise UserError(
                f"select_layer is {self.select_layer}: layers are counted from the end, -{count} to -1 are allowed"
            )
        if self.variant == "v1" and (self.window_px or self.select_layer != -1):
            raise UserError(
                f"variant v1 has neither windows nor a choice of layer: window_px is {self.window_px} and select_layer "
                f"{self.select_layer}, allowed are 0 and -1.  variant=v2 has both"
            )
        self._check_windows()

    def _check_windows(self) -> None:
        window, stride, patch = self.window_px, self.stride_px, self.tower.patch_px
        if window and (window % patch or stride % patch or not 0 < stride <= window):
            raise UserError(
                f"window_px is {window} and stride_px {stride}: both must be multiples of the patch, {patch} px, and "
                "the stride no larger than the window.  window_px=0 is without windows"
            )

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {
            **super().provenance,
            "variant": self.variant,
            "attention_threshold": self.attention_threshold,
            "select_layer": self.select_layer,
            "window_px": self.window_px,
            "stride_px": self.stride_px,
            "logit_scale": self.logit_scale,
            "fusion": self.fusion,
            "propagate": self.propagate,
            "attention": self.attention,
        }

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``; values of v1 and of ablations are not in the table."""
        as_published = self.variant == "v2" and self.fusion and self.propagate and self.attention == "fused"
        name = "CLIPer (sliding)" if self.window_px else self.info.published
        return replace(self.info, published=name if as_published else None)

    @property
    def activated(self) -> bool:
        """See ``Method.activated``: sums of probabilities."""
        return True

    def encode(self, vocabulary: Vocabulary) -> None:
        """See ``ClipMethod.encode``; the mean over the foreground is added."""
        super().encode(vocabulary)
        foreground = [k for k, owner in enumerate(vocabulary.query_to_class) if owner != vocabulary.background]
        generic = [F.normalize(self.text[foreground].mean(dim=0, keepdim=True), dim=-1)] if foreground else []
        self._texts = torch.cat([self.text, *generic])

    def score_windows(self, windows: Tensor) -> Tensor:
        """Sums of probabilities: ``(B, 3, H, W)`` uint8 RGB -> ``(B, Q, h, w)`` float32, 0 or more."""
        return self.score_features(self.encode_windows(windows))

    @torch.inference_mode()
    def encode_windows(self, windows: Tensor) -> tuple[EncodedImage, ...]:
        """Features of each image: ``(B, 3, H, W)`` uint8 RGB."""
        return tuple(self._encode_image(self.normalised(window[None])) for window in windows)

    def _encode_image(self, pixels: Tensor) -> EncodedImage:
        whole = fuse_layers(self.tower, pixels, self._layers, self.attention)
        views = [whole.unit[:, 0]]
        if self.window_px:
            views.append(self._seen_by_windows(pixels[0], whole.grid))
        return EncodedImage(torch.stack(views), whole.attention[0], whole.grid)

    def _seen_by_windows(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """``G^T U_k``: ``(3, H, W)`` -> ``(K, h * w, dim)``."""
        patch = self.tower.patch_px
        boxes = WindowGeometry(self.window_px, self.stride_px).boxes(grid[0] * patch, grid[1] * patch)
        seen = fuse_layers(self.tower, cut(pixels, boxes), self._layers, self.attention)
        place = torch.arange(grid[0] * grid[1], device=pixels.device).view(grid)
        cells = [place[b.top // patch : b.bottom // patch, b.left // patch : b.right // patch].flatten() for b in boxes]
        return _mix_windows(seen, cells, place.numel())

    @torch.inference_mode()
    def score_features(self, features: tuple[EncodedImage, ...]) -> Tensor:
        """Sums of probabilities, from ``encode_windows``: ``(B, Q, h, w)`` float32."""
        return torch.stack([self._score(image).T.unflatten(1, image.grid) for image in features])

    def _score(self, image: EncodedImage) -> Tensor:
        """``(h * w, Q)``."""
        _ = self.vocabulary  # the clear error
        assert self._texts is not None
        queries = len(self.text)
        averaged = []
        for layer, views in zip(self._layers, image.views.unbind(1), strict=True):
            logits = self.logit_scale * views @ self._texts.T
            probabilities = logits.softmax(dim=-1)[..., :queries].mean(dim=0)
            if layer == self._selected:
                low = probabilities < self.attention_threshold * probabilities.amax(dim=0)
                probabilities = selected = torch.where(low, 0.0, probabilities)
            if self.fusion and (self.variant == "v2" or layer != self._selected):
                averaged.append(probabilities)
        spread = selected
        if self.propagate:
            spread = (image.attention.mT if self.variant == "v2" else image.attention) @ selected
        return spread + sum(averaged) / len(averaged) if averaged else spread


def _mix_windows(seen: FusedFeatures, cells: list[Tensor], count: int) -> Tensor:
    """``G^T U_k``, ``(K, count, dim)``; ``cells[b]`` says which of the ``count`` patches window ``b`` shows."""
    features = seen.unit.new_zeros(seen.unit.shape[0], count, seen.unit.shape[-1])
    shown = features.new_zeros(count, 1)
    mixing, together = features.new_zeros(2, count, count)
    for unit, attention, where in zip(seen.unit.unbind(1), seen.attention, cells, strict=True):
        features[:, where] += unit
        shown[where] += 1
        mixing[where[:, None], where] += attention
        together[where[:, None], where] += 1
    mixing /= together + 1e-5
    sums = mixing.sum(dim=1, keepdim=True)
    mixing /= torch.where(sums == 0, 1.0, sums)
    return mixing.mT @ (features / shown)
