"""The dense-CLIP core: trunk, rewritten last block, cosine with the text.

A method of this family is a ``LastBlock`` record; the code below is the same for all.  What the
released programs do differently is a field of the record; the paper stands in the method's ``info``.
"""

from collections.abc import Hashable, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..core.options import Options
from ..core.picture import Windows
from ..core.window_method import SeenWindows, WindowMethod
from ..core.windows import Box
from ..models import vit
from ..models.dino import Dino
from .clip_method import ClipMethod, ClipWords

Similarity = Literal["qk", "qq", "kk", "vv"]
Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, ``(B, heads, 1 + h * w, d)`` each."""


@dataclass(frozen=True)
class LastBlock:
    """How the last block is rewritten.

    The attention matrix is the *sum* over ``attention`` of ``softmax(s * a b^T + omega)``, ``s = head_size ** -0.5``;
    no term at all means the identity, i.e. each token keeps its own value.  ``omega`` is a Gaussian of the distance
    between patches with ``gaussian_sigma`` (in patches), 0 for every pair with the class token, not scaled by ``s``.
    ``residual`` and ``ffn`` say whether the block's skip connection and MLP stay.
    """

    attention: tuple[Similarity, ...]
    residual: bool
    ffn: bool
    gaussian_sigma: float | None = None


@dataclass(frozen=True)
class SeenPatches:
    """What of the windows' scores does not depend on the words.  One tensor for each thing, as it was computed.

    ``features`` ``(B, h, w, dim)`` float32 are of unit length.  The rest is None unless the method asks for it:
    ``keys`` ``(B, h * w, D)`` float32 are those of the last block through its output projection, ``salient``
    ``(B, h, w)`` bool marks patches that show an object, ``class_token`` ``(B, dim)`` float32 is that of the window as
    CLIP itself has it, of unit length.

    A slice of a wider tensor would not do: a product reads it with other strides, and on some CPUs rounds otherwise
    than the same product in another method.
    """

    features: Tensor
    keys: Tensor | None = None
    salient: Tensor | None = None
    class_token: Tensor | None = None


class DenseClipOptions(Options):
    """How windows are fitted to the patch grid."""

    pad: Literal["end"] | bool = Field(
        False,
        description="windows that are no multiple of the patch: false drops the rest and stretches the grid over the "
        "window (SCLIP, NACLIP), true pads evenly with the mean colour and cuts after (ClearCLIP), end pads with black "
        "below and to the right and stretches the grid over the window (CLIP-DINOiser)",
    )
    positions: Literal["factor", "size", "antialias", "bilinear"] = Field(
        "factor",
        description="how the position embedding is interpolated: bicubic by a scale factor, by the target size, by "
        "that with antialias (GEM), or bilinear (CLIPSurgery)",
    )


class EndPaddedOptions(DenseClipOptions):
    """As MaskCLIP and CLIP-DINOiser were released: padding below and to the right, positions by target size."""

    pad: Literal["end"] | bool = Field("end", description=DenseClipOptions.model_fields["pad"].description)
    positions: Literal["factor", "size", "antialias", "bilinear"] = Field(
        "size", description=DenseClipOptions.model_fields["positions"].description
    )


class DenseClip(WindowMethod[SeenPatches, ClipWords], ClipMethod[SeenWindows[SeenPatches]]):
    """Patch-text cosine similarities of a CLIP ViT whose last block is ``last_block``."""

    last_block: ClassVar[LastBlock]
    options: DenseClipOptions
    reads_layers: bool = False
    """Whether all blocks' inputs are kept: by methods that want them, and by those that share a tower with one."""

    @property
    def multiple_px(self) -> int:
        """What sides of windows are padded to a multiple of."""
        return self.tower.patch_px

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {**super().provenance, "last_block": asdict(self.last_block)}

    def cover(self, height: int, width: int) -> Box:
        """See ``WindowMethod.cover``."""
        if self.options.pad is not True:
            return Box(0, 0, height, width)
        (top, bottom), (left, right) = (self._padding(side) for side in (height, width))
        return Box(-top, -left, height + bottom, width + right)

    def _padding(self, side: int) -> tuple[int, int]:
        total = -side % self.multiple_px
        return total // 2, total - total // 2

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Patch features of windows."""
        tokens, grid = self.trunk(windows)
        heads = self.last_heads(windows) if self.last_block.attention else None
        return SeenPatches(self.patch_features(tokens, grid, heads).unflatten(1, grid))

    def trunk(self, windows: Windows) -> tuple[Tensor, tuple[int, int]]:
        """Input of the last block, ``(B, 1 + h * w, D)``, and the patch grid; once for all methods on this tower."""
        if self.reads_layers:
            layers, grid = self.layers(windows)
            return layers[-1], grid
        return windows.once(
            ("trunk", *self._trunk_key(windows)),
            lambda: vit.run_trunk(self.tower, self.normalised(windows.pixels), self.options.positions),
        )

    def layers(self, windows: Windows) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """Input of every block, and the patch grid; once for all methods on this tower."""
        return windows.once(
            ("layers", *self._trunk_key(windows)),
            lambda: vit.run_layers(self.tower, self.normalised(windows.pixels), self.options.positions),
        )

    def last_heads(self, windows: Windows) -> Heads:
        """Queries, keys and values of the last block, once for all methods that rewrite its attention with them."""
        tokens, _ = self.trunk(windows)
        key = ("last heads", *self._trunk_key(windows))
        return windows.once(key, lambda: vit.split_heads(self.tower.blocks[-1], tokens))

    def dino_trunk(self, dino: Dino, windows: Windows) -> tuple[Tensor, tuple[int, int]]:
        """``Dino.trunk`` of what the image tower is shown, whole patches; once for all methods with these models."""
        return windows.once(
            ("dino trunk", dino, self.statistics, self.padding_key(windows)),
            lambda: dino.trunk(dino.normalise(dino.whole(self.shown(windows.pixels)))),
        )

    def dino_patches(self, dino: Dino, windows: Windows) -> tuple[Tensor, tuple[int, int]]:
        """Output of DINO's final norm for the patches, ``(B, N, D)`` float32, and their grid; likewise once."""
        trunk = self.dino_trunk(dino, windows)
        key = ("dino patches", dino, self.statistics, self.padding_key(windows))
        return windows.once(key, lambda: dino.last_tokens(trunk)[:, 1:]), trunk[1]

    def _trunk_key(self, windows: Windows) -> tuple[Hashable, ...]:
        return self.tower, self.statistics, self.options.positions, self.padding_key(windows)

    def padding_key(self, windows: Windows) -> Hashable:
        """What the padding of these windows depends on; None where there is none."""
        if not any(side % self.multiple_px for side in windows.pixels.shape[2:]):
            return None
        return self.options.pad, self.multiple_px, type(self).normalised

    def shown(self, pixels: Tensor) -> Tensor:
        """What the image tower is shown, for a second model: ``(B, 3, H', W')`` float32 RGB in [0, 1], padding too."""
        mean, std = (torch.tensor(s, device=self.device).view(3, 1, 1) for s in self.statistics)
        return self.normalised(pixels).float() * std + mean

    def normalised(self, pixels: Tensor) -> Tensor:
        """See ``ClipMethod.normalised``; padded if asked for, ``(B, 3, H, W)`` -> ``(B, 3, H', W')``."""
        pixels = self._normalise(self.padded(pixels))
        if self.options.pad is True:
            (top, bottom), (left, right) = (self._padding(side) for side in pixels.shape[2:])
            pixels = F.pad(pixels, (left, right, top, bottom))
        return self._whole_patches(pixels)

    def padded(self, pixels: Tensor) -> Tensor:
        """Windows on the device, with black below and to the right if ``pad`` is "end"; uint8."""
        pixels = pixels.to(self.device)
        if self.options.pad != "end":
            return pixels
        bottom, right = (-side % self.multiple_px for side in pixels.shape[2:])
        return F.pad(pixels, (0, right, 0, bottom))

    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        """Cosines with the queries, ``(B, Q, h, w)`` float32 in [-1, 1]."""
        unit = seen.features
        return (unit.flatten(1, 2) @ words.text.T).transpose(1, 2).unflatten(2, unit.shape[1:3])

    def patch_features(self, tokens: Tensor, grid: tuple[int, int], heads: Heads | None = None) -> Tensor:
        """Last block and head: ``(B, 1 + h * w, D)`` -> ``(B, h * w, dim)`` float32, unit length.

        ``heads`` are those of the last block, if the caller has them.
        """
        return F.normalize(self.raw_features(tokens, grid, heads), dim=-1)

    def raw_features(self, tokens: Tensor, grid: tuple[int, int], heads: Heads | None = None) -> Tensor:
        """``patch_features`` before they are normalised."""
        mixed = _mix_values(self.tower.blocks[-1], tokens, self.last_block, grid, heads)
        return project_mixed(self.tower, self.last_block, tokens, mixed)


def share_layers(methods: Iterable[object]) -> None:
    """Let methods of one pass run each tower once: where one wants all layers, the others take the last of them."""
    dense = [m for m in methods if isinstance(m, DenseClip)]
    read = {m.tower for m in dense if m.reads_layers}
    for method in dense:
        method.reads_layers = method.tower in read


def project_mixed(tower: vit.VisionTransformer, rule: LastBlock, tokens: Tensor, mixed: Tensor) -> Tensor:
    """What follows the attention: its input ``(B, 1 + N, D)`` and mixed values ``(B, N, D)`` -> ``(B, N, dim)``."""
    block = tower.blocks[-1]
    x = vit.project_out(block, mixed)
    if rule.residual:
        x = tokens[:, 1:] + x
    if rule.ffn:
        x = vit.add_ffn(block, x)
    return vit.project(tower, x)


def _mix_values(
    block: vit.Block, tokens: Tensor, rule: LastBlock, grid: tuple[int, int], heads: Heads | None
) -> Tensor:
    """``sum over terms of softmax(...) v`` for the patches, ``(B, h * w, D)``.

    The class token takes part as key and value, but its own row is never needed.
    """
    if not rule.attention:
        return vit.values(block, tokens[:, 1:])
    parts = dict(zip("qkv", heads or vit.split_heads(block, tokens), strict=True))
    omega = None
    if rule.gaussian_sigma is not None:
        omega = gaussian_window(*grid, rule.gaussian_sigma)[1:].to(tokens)
    terms = [
        F.scaled_dot_product_attention(parts[a][:, :, 1:], parts[b], parts["v"], attn_mask=omega)
        for a, b in rule.attention
    ]
    return vit.merge_heads(torch.stack(terms).sum(0) if len(terms) > 1 else terms[0])


@lru_cache(maxsize=2)
def gaussian_window(height: int, width: int, sigma: float) -> Tensor:
    """``exp(-(dy^2 + dx^2) / (2 sigma^2))`` between patches, 0 for the class token: ``(1 + N, 1 + N)`` float32."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([y, x], dim=-1).reshape(-1, 2).float()
    squared = ((place[:, None] - place[None]) ** 2).sum(-1)
    return F.pad(torch.exp(-squared / (2 * sigma**2)), (1, 0, 1, 0))
