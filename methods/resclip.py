"""ResCLIP: attention of earlier blocks, and a second look that knows what the first one saw.

    z  = A v W_o,   A = tau_r ((1 - l_r) A_base + l_r A_early)
    A_base = sum over terms of softmax(logits + omega),   logits = s a b^T,  in the second pass
    logits = tau_s ((1 - l_s) s a b^T + l_s B)

The terms, omega, the skip connection and the MLP are those of another method, ``base``; ``A_early`` is the mean of the
attention of blocks 5 to 8, from 0, head by head.  The first pass gives labels: cosines, at the window's size, refined
by PAMR, and the most frequent query of each patch's pixels; pixels below ``least_probability`` go to query 0.  ``B``
says which patches have one label (``blocks.label_feedback``), over its maximum, in float16.  Rows of A sum to tau_r.

The factors are tuned for each data set in the public code; the defaults are those of ADE20K, the presets have the
others.  On a backbone that has not 12 blocks, those that are as deep in it are taken, which is ours.

Yang et al., CVPR 2025, arXiv:2411.15851, in the form of the public code (yvhangyang/ResCLIP, commit 0e085f7).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.clip_method import ClipWords
from .blocks.dense_clip import DenseClip, DenseClipOptions, Heads, SeenPatches, gaussian_window, project_mixed
from .blocks.depth import block_at
from .blocks.label_feedback import feedback_matrix, vote
from .clearclip import ClearCLIP
from .core.errors import UserError
from .core.info import MethodInfo
from .core.picture import Windows
from .models import vit
from .models.backbone import Backbone
from .naclip import NACLIP
from .refine.pamr import Pamr
from .sclip import SCLIP

BASES = {"naclip": NACLIP.last_block, "clearclip": ClearCLIP.last_block, "sclip": SCLIP.last_block}
SIGMA = 5.0


class ResCLIPOptions(DenseClipOptions):
    """Options of ``ResCLIP``."""

    pad: ClassVar[Literal[False]] = False  # type: ignore[misc]  # patches of labels are counted from the window's corner
    base: Literal["naclip", "clearclip", "sclip"] = Field("naclip", description="method whose last block is changed")
    early: bool = Field(True, description="mix with A_early; false: A is A_base")
    early_gain: float = Field(2.0, gt=0, description="tau_r: what rows of A sum to")
    early_share: float = Field(0.3, ge=0, le=1, description="l_r: share of A_early in A")
    first_early: int | None = Field(None, ge=0, description="first block of A_early, from 0; published: 5 of 12")
    last_early: int | None = Field(None, ge=0, description="last block of A_early, from 0; published: 8 of 12")
    feedback: bool = Field(True, description="the second pass; false: the first pass is scored")
    feedback_gain: float = Field(2.1, gt=0, description="tau_s: inverse temperature of the second pass")
    feedback_share: float = Field(0.7, ge=0, le=1, description="l_s: share of B in the second pass")
    paths: bool = Field(True, description="B is less where the way between two patches leaves their label")
    least_probability: float = Field(0.25, ge=0, le=1, description="pixels of the first pass below it go to query 0")
    logit_scale: float = Field(40.0, gt=0, description="of the probabilities of the first pass")


@dataclass(frozen=True, kw_only=True)
class SeenOnce(SeenPatches):
    """The first pass, and what the second one needs; ``early`` is ``(B, heads, N, 1 + N)`` or None."""

    tokens: Tensor
    heads: Heads
    early: Tensor | None
    pamr: tuple[Pamr, ...]


class ResCLIP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="resclip",
        title="ResCLIP",
        paper="Yang et al., CVPR 2025, arXiv:2411.15851",
        published="ResCLIP",
    )
    last_block = NACLIP.last_block
    reads_layers = True
    options: ResCLIPOptions

    def __init__(
        self,
        backbone: Backbone,
        options: ResCLIPOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        first = block_at(self.tower, "first_early", self.options.first_early, 5)
        last = block_at(self.tower, "last_early", self.options.last_early, 8)
        if first > last:
            raise UserError(f"first_early is block {first}, after last_early, block {last}: there is nothing to mix")
        self.rule, self.early_blocks = BASES[self.options.base], range(first, last + 1)

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {**super().provenance, "last_block": asdict(self.rule)}

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``: values of other bases and of ablations are not in the table."""
        chosen = self.options
        whole = chosen.base == "naclip" and chosen.early and chosen.feedback
        return self.info if whole else replace(self.info, published=None)

    def encode_windows(self, windows: Windows) -> SeenOnce:
        """The first pass."""
        layers, grid = self.layers(windows)
        heads = vit.split_heads(self.tower.blocks[-1], layers[-1])
        early = self._early_attention(layers) if self.options.early else None
        pixels = windows.pixels.to(self.device) if self.options.feedback else ()
        pamr = tuple(Pamr(window, (window.shape[1], window.shape[2]), *self.statistics) for window in pixels)
        features = self._features(layers[-1], heads, early, grid)
        return SeenOnce(features, tokens=layers[-1], heads=heads, early=early, pamr=pamr)

    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        """Cosines with the queries, of the second pass where there is one; ``(B, Q, h, w)`` float32."""
        assert isinstance(seen, SeenOnce)
        first = super().score_windows(seen, words)
        if not self.options.feedback:
            return first
        feedback = torch.stack([self._feedback(*window) for window in zip(first, seen.pamr, strict=True)])
        grid = (first.shape[2], first.shape[3])
        features = self._features(seen.tokens, seen.heads, seen.early, grid, feedback)
        return super().score_windows(SeenPatches(features), words)

    def _early_attention(self, layers: tuple[Tensor, ...]) -> Tensor:
        """``(B, heads, N, 1 + N)``: mean over the blocks; the class token's row is left out."""
        total = torch.zeros((), device=self.device)
        for number in self.early_blocks:
            q, k, _ = vit.split_heads(self.tower.blocks[number], layers[number])
            total = total + _logits(q, k).softmax(dim=-1)
        return total / len(self.early_blocks)

    def _feedback(self, scores: Tensor, pamr: Pamr) -> Tensor:
        """``l_s B`` with a class token: scores ``(Q, h, w)`` of a window -> ``(N, 1 + N)`` float16."""
        chosen = self.options
        refined = pamr(F.interpolate(scores[None], pamr.size, mode="bilinear", align_corners=False)[0])
        probability, label = (chosen.logit_scale * refined).softmax(dim=0).max(dim=0)
        label = label.masked_fill(probability < chosen.least_probability, 0)
        matrix = feedback_matrix(vote(label, self.tower.patch_px, len(scores)), chosen.paths, SIGMA)
        return F.pad((matrix / matrix.max()).half() * chosen.feedback_share, (1, 0))

    def _features(
        self,
        tokens: Tensor,
        heads: Heads,
        early: Tensor | None,
        grid: tuple[int, int],
        feedback: Tensor | None = None,
    ) -> Tensor:
        """Last block and head, ``(B, h, w, dim)`` float32, unit length."""
        chosen, parts, v = self.options, dict(zip("qkv", heads, strict=True)), heads[2]
        attention = torch.zeros((), device=self.device)
        for a, b in self.rule.attention:
            logits = _logits(parts[a], parts[b])
            if feedback is not None:
                logits = chosen.feedback_gain * ((1 - chosen.feedback_share) * logits + feedback[:, None].float())
            if self.rule.gaussian_sigma is not None:
                logits = logits + gaussian_window(*grid, self.rule.gaussian_sigma)[1:].to(logits)
            attention = attention + logits.softmax(dim=-1)
        if early is not None:
            attention = chosen.early_gain * ((1 - chosen.early_share) * attention + chosen.early_share * early)
        mixed = vit.merge_heads(attention.to(v.dtype) @ v)
        return F.normalize(project_mixed(self.tower, self.rule, tokens, mixed), dim=-1).unflatten(1, grid)


def _logits(a: Tensor, b: Tensor) -> Tensor:
    """``s a b^T`` of the patches with all tokens, ``(B, heads, N, 1 + N)`` float32."""
    return ((a[:, :, 1:] * a.shape[-1] ** -0.5) @ b.mT).float()
