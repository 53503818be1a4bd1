"""TCL: masks of texts from a decoder on top of a frozen CLIP, trained with image-text pairs.

    t      = input of CLIP's last block, z = its output with identity attention (skip connection and MLP stay)
    x      = the trained copy of that block, identity attention, on the patches of t
    x     <- up(x), then twice  x + tanh(g) conv3x3(GELU(LN(x)));   two such levels: four times the patch grid
    m_q    = sigmoid(w cos(LN(x) P, text_q) + b)
    m     <- PAMR(m): 10 steps, dilations 1, 2, 4, 8, 12, 24, colours at the size of the masks
    k_q    = sigmoid(10 (cos(ln_post(z) proj, text_q) - 0.25))
    score  = 0.3 up(k) + 0.7 m

Texts are the normalised mean over templates of features that are *not* normalised before.  Images have the statistics
of ImageNet, and zeros on all sides up to a multiple of the patch.

Cha et al., CVPR 2023, arXiv:2212.00785, in the form of the public code (kakaobrain/tcl, models/tcl/tcl.py, masker.py,
decoders.py, pamr.py).  The released weights are MIT; they were trained with the captions of CC3M and CC12M, no masks:
so TCL is not training-free.  Without them nothing of it is left but the frozen branch, which is ``maskclip`` but for
the statistics of the image and the sigmoid: use that.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks.dense_clip import DenseClip, LastBlock
from .core.errors import UserError
from .core.method import Method, MethodInfo
from .core.vocabulary import Vocabulary
from .models import vit
from .models.tcl_checkpoint import IMAGENET_MEAN, IMAGENET_STD, SCALE, TclModel, load_tcl
from .models.text import encode_queries
from .models.weights import find_weights
from .refine.pamr import Pamr

DILATIONS = (1, 2, 4, 8, 12, 24)
_QUERIES = 64  # at once, beside those that are done


@dataclass(frozen=True)
class _Seen:
    """What of a window does not depend on the texts.

    ``pixels`` ``(16 * N, dim)`` is the decoder's embedding, ``patches`` ``(N, dim)`` the frozen branch, both float32 at
    unit length and row by row; ``grid`` is that of the N patches.
    """

    pixels: Tensor
    patches: Tensor
    grid: tuple[int, int]
    pamr: Pamr | None


class TCL(DenseClip):
    """See the module docstring for the equations.

    ``weights`` is the file ``tcl.pth`` (or its folder); without it the places of ``bench weights`` are searched.
    ``pamr`` switches the refinement, which takes place inside each window, before ``mix``, the share of the frozen
    branch, is added.

    Scores are masks between 0 and 1, each by itself, on a grid of four cells per patch side.  They are no distribution
    over classes.  The background of TCL is a channel of constant 0.4, or 0.5 without PAMR, which has no text: a
    ``probability_threshold`` of the protocol, with a vocabulary whose background has none.

    Positions are interpolated bicubically to the size of the grid, as in the public code.
    """

    info = MethodInfo(
        name="tcl",
        title="TCL",
        paper="Cha et al., CVPR 2023, arXiv:2212.00785",
        training_free=False,
        trained_on="a block and a decoder, on the image-text pairs of CC3M and CC12M, on top of CLIP",
        backbone="",
        published="TCL",
        offline=False,
    )
    last_block = LastBlock((), residual=True, ffn=True)

    def __init__(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        weights: str | Path | TclModel | None = None,
        pamr: bool = True,
        pamr_steps: int = 10,
        mix: float = 0.3,
    ) -> None:
        if pamr_steps < 0 or not 0 <= mix <= 1:
            raise UserError(f"pamr_steps is {pamr_steps}, mix is {mix}: they must be 0 or more, and between 0 and 1")
        model = weights if isinstance(weights, TclModel) else _load(weights)
        super().__init__(model.clip, device, dtype, pad=True, positions="size")
        self.masker = model.masker(self.device, dtype)
        self.pamr, self.pamr_steps, self.mix = pamr, pamr_steps, mix

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {**super().provenance, "pamr": self.pamr, "pamr_steps": self.pamr_steps, "mix": self.mix}

    @property
    def activated(self) -> bool:
        """See ``Method.activated``."""
        return True

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``: rows with and without PAMR are two in the table of reported values."""
        if self.mix != 0.3 or self.pamr_steps != 10:
            return replace(self.info, published=None)
        return replace(self.info, published="TCL (PAMR)") if self.pamr else self.info

    def encode(self, vocabulary: Vocabulary) -> None:
        """Encode the queries once (float32, cached on disk)."""
        Method.encode(self, vocabulary)
        self._text = encode_queries(self.backbone, vocabulary, self.device, unit_prompts=False)

    def score_windows(self, windows: Tensor) -> Tensor:
        """Masks: ``(B, 3, H, W)`` uint8 RGB -> ``(B, Q, 4h, 4w)`` float32 in [0, 1] for ``h x w`` patches."""
        return self.score_features(self.encode_windows(windows))

    @torch.inference_mode()
    def encode_windows(self, windows: Tensor) -> Any:
        """A ``_Seen`` for each of the windows ``(B, 3, H, W)`` uint8 RGB.

        The decoder takes one window at a time: a window fills any device, and several would only take memory.
        """
        windows = windows.to(self.device)
        tokens, grid = vit.run_trunk(self.tower, self.normalised(windows), self.positions)
        frozen = self.patch_features(tokens, grid)
        trained = _each_alone(self.masker.block, tokens[:, 1:]).transpose(1, 2).unflatten(2, grid)
        return [
            _Seen(self.masker.embed(maps[None]), patches, grid, self._affinities(window, grid))
            for maps, patches, window in zip(trained, frozen, windows, strict=True)
        ]

    def _affinities(self, window: Tensor, grid: tuple[int, int]) -> Pamr | None:
        if not self.pamr:
            return None
        (top, bottom), (left, right) = (self._padding(side) for side in window.shape[1:])
        return Pamr(
            window,
            _mask_size(grid),
            IMAGENET_MEAN,
            IMAGENET_STD,
            self.pamr_steps,
            DILATIONS,
            align_corners=True,
            padding=(left, right, top, bottom),
        )

    @torch.inference_mode()
    def score_features(self, features: Any) -> Tensor:
        """Masks from what ``encode_windows`` returned: ``(B, Q, 4h, 4w)`` float32."""
        text = self.text
        out = torch.empty(len(features), len(text), *_mask_size(features[0].grid), device=self.device)
        for seen, masks in zip(features, out, strict=True):
            for rows, chunk in zip(text.split(_QUERIES), masks.split(_QUERIES), strict=True):
                chunk.copy_(self._masks(seen, rows))
        return out

    def _masks(self, seen: _Seen, text: Tensor) -> Tensor:
        size = _mask_size(seen.grid)
        masks = (text @ seen.pixels.T * self.masker.scale + self.masker.shift).sigmoid().unflatten(1, size)
        if seen.pamr is not None:
            masks = seen.pamr(masks)
        frozen = (10 * (text @ seen.patches.T - 0.25)).sigmoid().unflatten(1, seen.grid)
        frozen = F.interpolate(frozen[None], size, mode="bilinear", align_corners=False)[0]
        return self.mix * frozen + (1 - self.mix) * masks


def _load(given: str | Path | None) -> TclModel:
    path = find_weights("tcl", Path(given) if given else None)
    try:
        return load_tcl(path)
    except UserError as error:
        raise UserError(f"{error}.\nThe released file: bench weights fetch tcl") from error


def _each_alone(block: vit.Block, x: Tensor) -> Tensor:
    """The block with identity attention: each token attends to itself only."""
    return vit.add_ffn(block, x + vit.project_out(block, vit.values(block, x)))


def _mask_size(grid: tuple[int, int]) -> tuple[int, int]:
    return SCALE * grid[0], SCALE * grid[1]
