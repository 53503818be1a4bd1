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
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.clip_method import ClipWords
from .blocks.dense_clip import DenseClip, DenseClipOptions, LastBlock, SeenPatches
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit
from .models.open_model import open_model
from .models.tcl_checkpoint import IMAGENET_MEAN, IMAGENET_STD, SCALE, TclModel, load_tcl
from .refine.pamr import Pamr

DILATIONS = (1, 2, 4, 8, 12, 24)
_QUERIES = 64  # at once, beside those that are done


@dataclass(frozen=True)
class SeenForMasks(SeenPatches):
    """Patches of the frozen branch, and for each window what the decoder made of it.

    ``pixels`` are ``(16 * h * w, dim)`` float32 of unit length, row by row; ``pamr`` is empty without the refinement.
    """

    pixels: tuple[Tensor, ...] = ()
    pamr: tuple[Pamr, ...] = ()


class TCLOptions(DenseClipOptions):
    """Options of ``TCL``."""

    pad: ClassVar[Literal[True]] = True  # type: ignore[misc]  # on all sides up to a multiple of the patch, always
    positions: ClassVar[Literal["size"]] = "size"  # type: ignore[misc]  # as in the public code, always
    pamr: bool = Field(True, description="refine masks by PAMR inside each window, before the frozen branch is added")
    pamr_steps: int = Field(10, ge=0, description="steps of PAMR")
    mix: float = Field(0.3, ge=0, le=1, description="share of the frozen branch")


class TCL(DenseClip):
    """See the module docstring for the equations.

    ``weights`` is the file ``tcl.pth`` (or its folder); without it the places of ``bench weights`` are searched.

    Scores are masks between 0 and 1, each by itself, on a grid of four cells per patch side.  They are no distribution
    over classes.  The background of TCL is a channel of constant 0.4, or 0.5 without PAMR, which has no text: a
    ``probability_threshold`` of the protocol, with a vocabulary whose background has none.
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

    options: TCLOptions
    unit_prompts = False

    def __init__(
        self,
        options: TCLOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        weights: str | Path | TclModel | None = None,
    ) -> None:
        model = weights if isinstance(weights, TclModel) else open_model(load_tcl, "tcl", weights)
        super().__init__(model.clip, options, device, dtype)
        self.masker = model.masker(self.device, dtype)

    @property
    def activated(self) -> bool:
        """See ``WindowMethod.activated``."""
        return True

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``: rows with and without PAMR are two in the table of reported values."""
        if (self.options.mix, self.options.pamr_steps) != (0.3, 10):
            return replace(self.info, published=None)
        return replace(self.info, published="TCL (PAMR)") if self.options.pamr else self.info

    def encode_windows(self, windows: Windows) -> SeenForMasks:
        """Both branches for each window.

        The decoder takes one window at a time: a window fills any device, and several would only take memory.
        """
        tokens, grid = self.trunk(windows)
        frozen = self.patch_features(tokens, grid).unflatten(1, grid)
        trained = _each_alone(self.masker.block, tokens[:, 1:]).transpose(1, 2).unflatten(2, grid)
        pixels = tuple(self.masker.embed(maps[None]) for maps in trained)
        pamr = tuple(self._affinities(w, grid) for w in windows.pixels.to(self.device)) if self.options.pamr else ()
        return SeenForMasks(frozen, pixels=pixels, pamr=pamr)

    def _affinities(self, window: Tensor, grid: tuple[int, int]) -> Pamr:
        (top, bottom), (left, right) = (self._padding(side) for side in window.shape[1:])
        return Pamr(
            window,
            _mask_size(grid),
            IMAGENET_MEAN,
            IMAGENET_STD,
            self.options.pamr_steps,
            DILATIONS,
            align_corners=True,
            padding=(left, right, top, bottom),
        )

    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        """Masks ``(B, Q, 4h, 4w)`` float32 in [0, 1] for ``h x w`` patches."""
        assert isinstance(seen, SeenForMasks)
        text, grid = words.text, (seen.features.shape[1], seen.features.shape[2])
        out = torch.empty(len(seen.features), len(text), *_mask_size(grid), device=self.device)
        for number, masks in enumerate(out):
            for rows, chunk in zip(text.split(_QUERIES), masks.split(_QUERIES), strict=True):
                chunk.copy_(self._masks(seen, number, rows))
        return out

    def _masks(self, seen: SeenForMasks, number: int, text: Tensor) -> Tensor:
        patches, grid = seen.features[number].flatten(0, 1), seen.features.shape[1:3]
        size = _mask_size((grid[0], grid[1]))
        masks = (text @ seen.pixels[number].T * self.masker.scale + self.masker.shift).sigmoid().unflatten(1, size)
        if seen.pamr:
            masks = seen.pamr[number](masks)
        frozen = (10 * (text @ patches.T - 0.25)).sigmoid().unflatten(1, grid)
        frozen = F.interpolate(frozen[None], size, mode="bilinear", align_corners=False)[0]
        return self.options.mix * frozen + (1 - self.options.mix) * masks


def _each_alone(block: vit.Block, x: Tensor) -> Tensor:
    """The block with identity attention: each token attends to itself only."""
    return vit.add_ffn(block, x + vit.project_out(block, vit.values(block, x)))


def _mask_size(grid: tuple[int, int]) -> tuple[int, int]:
    return SCALE * grid[0], SCALE * grid[1]
