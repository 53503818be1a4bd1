"""RF-CLIP: sinks are softened in every block, all blocks' attention is averaged, texts lean towards the image.

    z = (g(S X, x) + g(S G, y)) / 2,   g(P, c) = A v W_o,   A = mean over blocks i of softmax(k_i k_i^T / sqrt(d))
    score = (1 - g) f . t' + g a,   f = unit features of z,   a = cosines of the image's class token and the texts

Every block is followed by softening: with ``u`` the channels of a patch, shifted to a minimum of 0 and divided by their
sum, a patch whose largest ``u`` over the sink channels exceeds 5 / D becomes 0.6 of itself and 0.4 of the mean over its
3 x 3 patches, 0 outside the window.  ``X`` are the patches that enter the last block, ``G`` the mean of all blocks'
outputs, x and y their class tokens; S are the cosines of G, those below 0.4 set to 0.  The last of the k_i, and v, are
the last block's of P with its c; the class token's row and column of A are cut off, and rows not divided again.

``t'``: texts are grouped by complete linkage, no two further apart than ``text_distance``.  In each group the text with
the largest a is moved: ``t' = unit((1 - m) t + m unit(mean of the two f nearest to t))``.

Sink channels are those of OpenAI's weights.  RF-CLIP, AAAI 2026, in the form of an early public commit
(liblacklucy/RF-CLIP, c2b333e), which its repository no longer shows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.dense_clip import LastBlock
from .blocks.moved_texts import MovedTexts, MovedTextsOptions, SeenWithOverall
from .blocks.patch_cosines import attention, similar, smooth
from .core.errors import UserError
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit
from .models.backbone import Backbone

SINKS = {
    768: (4, 162, 189, 326, 429, 474, 633, 713),
    1024: (250, 261, 437, 650, 720, 779, 936, 1005),
}
"""Published channels by width of the tower."""
SINK_LEVEL, BLEND = 5.0, 0.4


@dataclass(frozen=True)
class _Softened:
    """Outputs of a softened trunk: the last block's input and output, the mean of all outputs, the sum of all blocks'
    attention but the last."""

    before: Tensor
    last: Tensor
    mean: Tensor
    attention: Tensor


class RFCLIPOptions(MovedTextsOptions):
    """Options of ``RFCLIP``."""

    sink_channels: str | None = Field(
        None, description="channels joined by commas; without it the published ones of towers 768 or 1024 wide"
    )


class RFCLIP(MovedTexts):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="rf-clip",
        title="RF-CLIP",
        paper="AAAI 2026; public code liblacklucy/RF-CLIP",
        offline=False,
    )
    last_block = LastBlock(("kk",), residual=False, ffn=False)
    linkage = "complete"
    options: RFCLIPOptions

    def __init__(
        self,
        backbone: Backbone,
        options: RFCLIPOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.sinks = _sinks(self.options.sink_channels, len(self.tower.class_token))

    def encode_windows(self, windows: Windows) -> SeenWithOverall:
        """Patch features of windows, and class tokens."""
        seen, grid = self._run(windows.pixels)
        s = similar(seen.mean[:, 1:])
        z = self._branch(s, seen.before, seen.attention) + self._branch(s, seen.mean, seen.attention)
        features = F.normalize(vit.project(self.tower, z / 2), dim=-1).unflatten(1, grid)
        overall = self.overall_of(windows, self._class_token(seen), self._image_token)
        return SeenWithOverall(features, overall=overall)

    def _run(self, pixels: Tensor) -> tuple[_Softened, tuple[int, int]]:
        """The softened trunk of windows ``(B, 3, H, W)`` uint8, and the patch grid."""
        x, grid = vit.embed(self.tower, self.normalised(pixels), self.options.positions)
        total, looks = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for number, block in enumerate(self.tower.blocks, 1):
            before = x
            if number < len(self.tower.blocks):
                looks = looks + _own_attention(block, x)
            x = soften(vit.run_block(block, x), grid, self.sinks)
            total = total + x.float()
        return _Softened(before, x, (total / number).to(x.dtype), looks), grid

    def _branch(self, s: Tensor, tokens: Tensor, looks: Tensor) -> Tensor:
        """g: ``tokens`` ``(B, 1 + N, D)``, smoothed, through the last block: ``(B, N, D)``.

        S is divided by its sums, which the norm that follows takes away, so that half precision has room for it.
        """
        block = self.tower.blocks[-1]
        x = torch.cat([tokens[:, :1], smooth(s, tokens[:, 1:])], dim=1)
        _, k, v = vit.split_heads(block, x)
        mixing = (looks + attention(k, k)) / len(self.tower.blocks)
        return vit.project_out(block, vit.merge_heads(mixing[..., 1:, 1:].to(v.dtype) @ v[:, :, 1:]))

    def _image_token(self, whole: Windows) -> Tensor:
        key = ("softened class token", *self._trunk_key(whole), self.sinks)
        return whole.once(key, lambda: self._class_token(self._run(whole.pixels)[0]))

    def _class_token(self, seen: _Softened) -> Tensor:
        return F.normalize(vit.project(self.tower, seen.last[:, :1])[:, 0], dim=-1)


def soften(tokens: Tensor, grid: tuple[int, int], sinks: tuple[int, ...]) -> Tensor:
    """``tokens`` ``(B, 1 + h * w, D)`` with the patches that are sinks mixed with their 3 x 3 patches."""
    patches = tokens[:, 1:].float()
    raised = patches - patches.amin(dim=-1, keepdim=True)
    level = raised[..., list(sinks)].amax(dim=-1) / raised.sum(dim=-1).clamp(min=1e-8)
    maps = patches.transpose(1, 2).unflatten(2, grid)
    near = F.avg_pool2d(maps, 3, stride=1, padding=1).flatten(2).transpose(1, 2)
    mixed = (1 - BLEND) * patches + BLEND * near
    softened = torch.where((level > SINK_LEVEL / patches.shape[-1])[..., None], mixed, patches)
    return torch.cat([tokens[:, :1], softened.to(tokens.dtype)], dim=1)


def _own_attention(block: vit.Block, x: Tensor) -> Tensor:
    _, k, _ = vit.split_heads(block, x)
    return attention(k, k)


def _sinks(given: str | None, width: int) -> tuple[int, ...]:
    if given is None and width in SINKS:
        return SINKS[width]
    if given is None:
        raise UserError(
            f"the backbone's tokens are {width} wide, and RF-CLIP's sink channels are published for 768 and 1024 only: "
            "give those of this backbone, --option rf-clip.sink_channels=4,22,41"
        )
    numbers = [int(part) for part in given.split(",") if part.strip().isdecimal()]
    if len(numbers) != len(given.split(",")) or max(numbers) >= width:
        raise UserError(
            f"sink_channels is {given!r}: wanted are whole numbers from 0 to {width - 1}, joined by commas, as in "
            "--option rf-clip.sink_channels=4,22,41"
        )
    return tuple(numbers)
