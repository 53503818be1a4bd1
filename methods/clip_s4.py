"""CLIP-S4-like: a pixel encoder trained without labels to agree with itself and with CLIP.  Our reconstruction.

    z_p  = f(image)_p at unit length, in CLIP's joint space
    S_pq = z_p . c_q,   c_q = normalised mean of the stored CLIP segment features that are most like text q

After He et al., CVPR 2023, arXiv:2305.01040.  Neither code nor weights of CLIP-S4 were found and the paper's body was
not readable, so this is **not** CLIP-S4 and no number of its paper belongs beside it.

Not training-free.  The embedded weights (this project's licence) were trained on scenes of ``shapes`` without labels,
with the names of every second class; other backbones need ``bench train clip-s4``.  A patent application covers the
same content (US 2024/0378859, of which the abstract was read): look into it before a commercial use.

What the paper, as far as it could be read, leaves open and is decided here: the encoder's layout and input statistics
(the backbone's); that new names and known ones get their prototype in the same way, from one pool stored in the
weights; that the pool holds CLIP's features over superpixels; that unknown prototypes are dropped for a closed list.
"""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.clip_method import ClipMethod, ClipWords
from .core.errors import UserError
from .core.info import MethodInfo
from .core.options import Options
from .core.picture import Windows
from .core.vocabulary import Vocabulary
from .core.window_method import SeenWindows, WindowMethod
from .core.windows import Box
from .models.backbone import TINY_CLIP, TINY_CLIP_FOLDER, Backbone
from .models.clip_s4 import S4Parts, cluster, load_weights, segment_means, top_prototypes

TINY_S4 = TINY_CLIP_FOLDER / "clip_s4.safetensors"
OURS = "clip-s4-like is our reconstruction, not CLIP-S4"
_ROUNDS = 10


class CLIPS4Options(Options):
    """Options of ``CLIPS4Like``."""

    classifier: Literal["prototype", "text"] = Field(
        "prototype", description="what embeddings are compared with: prototypes from the stored pool, or the texts"
    )
    smooth: int = Field(
        0,
        ge=0,
        description="cells a side from which a spherical k-means starts, over whose segments embeddings are averaged; "
        "0 is off",
    )
    encoder: str | None = Field(
        None,
        exclude=True,
        description="file that `bench train clip-s4` wrote; without it the embedded one, which fits tiny-clip only",
    )


class CLIPS4Like(WindowMethod[Tensor, ClipWords], ClipMethod[SeenWindows[Tensor]]):
    """See the module docstring."""

    info = MethodInfo(
        name="clip-s4-like",
        title="CLIP-S4-like (our reconstruction)",
        paper="ours, after He et al., CVPR 2023, arXiv:2305.01040",
        training_free=False,
        trained_on="images without labels, class names, a frozen CLIP",
    )

    options: CLIPS4Options
    models = ("trained",)

    def __init__(
        self,
        backbone: Backbone,
        options: CLIPS4Options | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        encoder: S4Parts | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.embedded = encoder is None and self.options.encoder is None
        self.trained = encoder or self._find(self.options.encoder)
        self._check()
        self._encoder = deepcopy(self.trained.encoder).to(self.device, dtype).eval()

    def _find(self, encoder: str | None) -> S4Parts:
        if encoder is None and self.backbone.name != TINY_CLIP:
            raise UserError(
                f"clip-s4-like has no weights for backbone {self.backbone.name}: nobody published any.  Train them "
                "with `bench train clip-s4 --data FOLDER --output OUT --backbone ...` and name the file with --option "
                "encoder=OUT/clip_s4.safetensors, or use --backbone tiny-clip, whose weights are embedded"
            )
        return load_weights(TINY_S4 if encoder is None else Path(encoder))

    def _check(self) -> None:
        dim, mine = self.tower.projection.shape[1], self.trained.encoder.dim
        if mine != dim:
            raise UserError(f"the encoder ({self.trained.source}) embeds in {mine} dimensions, the backbone in {dim}")
        if self.trained.clip_sha256 not in ("", self.backbone.sha256):
            raise UserError(
                f"the encoder ({self.trained.source}) was trained with another CLIP than {self.backbone.name} "
                f"({self.trained.clip_sha256[:17]}..., not {self.backbone.sha256[:17]}...): its embeddings mean "
                "nothing to these texts.  Name the backbone it was trained with"
            )
        if self.options.classifier == "prototype" and self.trained.pool is None:
            raise UserError(f"{self.trained.source} stores no pool of CLIP segment features: use classifier=text")

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``: the embedded weights saw scenes only."""
        if not self.embedded:
            return self.info
        return replace(self.info, trained_on="scenes of `shapes` without labels, names of half the classes")

    @property
    def note(self) -> str:
        """The backbone's, and that this is not the original."""
        return "; ".join(filter(None, (OURS, super().note)))

    def cover(self, height: int, width: int) -> Box:
        """See ``WindowMethod.cover``: the window, filled up to whole cells below and to the right."""
        stride = self.trained.encoder.spec.stride
        return Box(0, 0, height + -height % stride, width + -width % stride)

    def encode_text(self, vocabulary: Vocabulary) -> ClipWords:
        """What embeddings are compared with: the queries' embeddings, or the prototype of each."""
        words = super().encode_text(vocabulary)
        if self.options.classifier == "text":
            return words
        assert self.trained.pool is not None  # see _check
        return replace(words, text=top_prototypes(words.text, self.trained.pool.to(self.device), self.trained.top))

    def encode_windows(self, windows: Windows) -> Tensor:
        """Pixel embeddings ``(B, dim, h, w)`` float32, unit length."""
        pixels = self.normalised(windows.pixels)
        box = self.cover(*pixels.shape[2:])
        z = self._encoder(
            F.pad(pixels, (0, box.right - pixels.shape[3], 0, box.bottom - pixels.shape[2]), mode="replicate")
        )
        return smoothed(z, self.options.smooth) if self.options.smooth else z

    def score_windows(self, seen: Tensor, words: ClipWords) -> Tensor:
        """Cosines with the targets, ``(B, Q, h, w)`` float32 in [-1, 1]."""
        return torch.einsum("qd,bdhw->bqhw", words.text, seen)


def smoothed(z: Tensor, side: int) -> Tensor:
    """Each embedding becomes the mean of its k-means segment, at unit length: ``(B, d, h, w)`` -> the same shape."""
    labels = cluster(z, side, _ROUNDS)
    own = (labels + torch.arange(len(z), device=z.device)[:, None] * side * side).flatten()
    means = segment_means(z.flatten(2).transpose(1, 2).flatten(0, 1), own, len(z) * side * side)
    return means[own].view(len(z), -1, z.shape[1]).transpose(1, 2).view_as(z)
