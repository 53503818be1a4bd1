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

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from .blocks.clip_method import ClipMethod, ClipWords
from .blocks.early_fusion import Attention, FusedFeatures, fuse_layers
from .core.errors import UserError
from .core.info import MethodInfo
from .core.options import Options
from .core.picture import Windows
from .core.vocabulary import Vocabulary
from .core.window_method import SeenWindows, WindowMethod
from .core.windows import WindowGeometry, cut
from .models.backbone import Backbone


@dataclass(frozen=True)
class EncodedImage:
    """What of an image's scores does not depend on the words.

    ``views`` is ``(V, K, h * w, dim)`` float32: the whole image and, with windows, what they saw; K layers.
    ``attention`` is Abar, ``(h * w, h * w)`` float32.
    """

    views: Tensor
    attention: Tensor
    grid: tuple[int, int]


class CLIPerOptions(Options):
    """Options of ``CLIPer``; the last three are for ablations."""

    variant: Literal["v1", "v2"] = Field("v2", description="which of the two released programs")
    attention_threshold: float = Field(
        0.2, ge=0, lt=1, description="t: part of a query's largest probability below which it counts as 0; 0 is off"
    )
    select_layer: int = Field(-1, le=-1, description="sel, counted from the end; v1 has the last")
    window_px: int = Field(0, ge=0, description="side of windows, a multiple of the patch; 0: none, as v1 always")
    stride_px: int = Field(112, gt=0, description="distance of windows, a multiple of the patch")
    logit_scale: float = Field(100.0, gt=0, description="s; the paper uses 50 to 100")
    fusion: bool = Field(True, description="the mean over layers; false: the layer sel alone")
    propagate: bool = Field(True, description="spread along Abar; false: Abar is the identity (G of windows stays)")
    attention: Attention = Field("fused", description="what the last block attends by: see early_fusion")

    @model_validator(mode="after")
    def _check(self) -> "CLIPerOptions":
        if self.variant == "v1" and (self.window_px or self.select_layer != -1):
            raise ValueError(
                f"variant v1 has neither windows nor a choice of layer: window_px is {self.window_px} and select_layer "
                f"{self.select_layer}, allowed are 0 and -1.  variant=v2 has both"
            )
        return self


class CLIPer(WindowMethod[tuple[EncodedImage, ...], ClipWords], ClipMethod[SeenWindows[tuple[EncodedImage, ...]]]):
    """See the module docstring for the equations.

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

    options: CLIPerOptions

    def __init__(
        self,
        backbone: Backbone,
        options: CLIPerOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        count = len(self.tower.blocks)
        self._check_fit(count, self.tower.patch_px)
        self._selected = count + self.options.select_layer
        self._layers = tuple(range(count)) if self.options.fusion else (self._selected,)

    def _check_fit(self, count: int, patch: int) -> None:
        chosen = self.options
        if count < 2:
            raise UserError("the backbone has one block: there is no earlier layer that CLIPer could fuse")
        if chosen.select_layer < -count:
            raise UserError(
                f"select_layer is {chosen.select_layer}: layers are counted from the end, -{count} to -1 are allowed"
            )
        window, stride = chosen.window_px, chosen.stride_px
        if window and (window % patch or stride % patch or stride > window):
            raise UserError(
                f"window_px is {window} and stride_px {stride}: both must be multiples of the patch, {patch} px, and "
                "the stride no larger than the window.  window_px=0 is without windows"
            )

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``; values of v1 and of ablations are not in the table."""
        chosen = self.options
        ablated = not (chosen.fusion and chosen.propagate and chosen.attention == "fused")
        as_published = chosen.variant == "v2" and not ablated
        name = "CLIPer (sliding)" if chosen.window_px else self.info.published
        return replace(self.info, published=name if as_published else None)

    @property
    def activated(self) -> bool:
        """See ``WindowMethod.activated``: sums of probabilities."""
        return True

    def encode_text(self, vocabulary: Vocabulary) -> ClipWords:
        """See ``ClipMethod.encode_text``; the last row is the mean over the foreground, where there is any."""
        words = super().encode_text(vocabulary)
        foreground = [k for k, owner in enumerate(vocabulary.query_to_class) if owner != vocabulary.background]
        generic = [F.normalize(words.text[foreground].mean(dim=0, keepdim=True), dim=-1)] if foreground else []
        return replace(words, text=torch.cat([words.text, *generic]))

    def encode_windows(self, windows: Windows) -> tuple[EncodedImage, ...]:
        """Features of each window, an image by itself."""
        return tuple(self._encode_image(self.normalised(window[None])) for window in windows.pixels)

    def _encode_image(self, pixels: Tensor) -> EncodedImage:
        whole = fuse_layers(self.tower, pixels, self._layers, self.options.attention)
        views = [whole.unit[:, 0]]
        if self.options.window_px:
            views.append(self._seen_by_windows(pixels[0], whole.grid))
        return EncodedImage(torch.stack(views), whole.attention[0], whole.grid)

    def _seen_by_windows(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """``G^T U_k``: ``(3, H, W)`` -> ``(K, h * w, dim)``."""
        patch = self.tower.patch_px
        boxes = WindowGeometry(self.options.window_px, self.options.stride_px).boxes(grid[0] * patch, grid[1] * patch)
        seen = fuse_layers(self.tower, cut(pixels, boxes), self._layers, self.options.attention)
        place = torch.arange(grid[0] * grid[1], device=pixels.device).view(grid)
        cells = [place[b.top // patch : b.bottom // patch, b.left // patch : b.right // patch].flatten() for b in boxes]
        return _mix_windows(seen, cells, place.numel())

    def score_windows(self, seen: tuple[EncodedImage, ...], words: ClipWords) -> Tensor:
        """Sums of probabilities, ``(B, Q, h, w)`` float32, 0 or more."""
        queries = len(words.query_to_class)
        return torch.stack([self._score(image, words.text, queries).T.unflatten(1, image.grid) for image in seen])

    def _score(self, image: EncodedImage, texts: Tensor, queries: int) -> Tensor:
        """``(h * w, Q)``."""
        chosen = self.options
        averaged = []
        for layer, views in zip(self._layers, image.views.unbind(1), strict=True):
            logits = chosen.logit_scale * views @ texts.T
            probabilities = logits.softmax(dim=-1)[..., :queries].mean(dim=0)
            if layer == self._selected:
                low = probabilities < chosen.attention_threshold * probabilities.amax(dim=0)
                probabilities = selected = torch.where(low, 0.0, probabilities)
            if chosen.fusion and (chosen.variant == "v2" or layer != self._selected):
                averaged.append(probabilities)
        spread = selected
        if chosen.propagate:
            spread = (image.attention.mT if chosen.variant == "v2" else image.attention) @ selected
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
