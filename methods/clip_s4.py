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
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks.clip_method import ClipMethod
from .core.errors import UserError
from .core.method import MethodInfo
from .core.vocabulary import Vocabulary
from .core.windows import Box
from .models.backbone import TINY_CLIP, TINY_CLIP_FOLDER, Backbone
from .models.clip_s4 import S4Weights, cluster, load_weights, segment_means, top_prototypes

Classifier = Literal["prototype", "text"]
TINY_S4 = TINY_CLIP_FOLDER / "clip_s4.safetensors"
OURS = "clip-s4-like is our reconstruction, not CLIP-S4"
_ROUNDS = 10


class CLIPS4Like(ClipMethod):
    """See the module docstring.

    ``classifier``: "prototype" (image side, from the stored pool) or "text" (the text embedding itself).  ``smooth``
    averages embeddings over the segments of a spherical k-means that starts from ``smooth`` x ``smooth`` cells; 0 is
    off.  ``encoder`` is a file that ``bench train clip-s4`` wrote; without it the embedded one is used, which fits
    tiny-clip only.
    """

    info = MethodInfo(
        name="clip-s4-like",
        title="CLIP-S4-like (our reconstruction)",
        paper="ours, after He et al., CVPR 2023, arXiv:2305.01040",
        training_free=False,
        trained_on="images without labels, class names, a frozen CLIP",
    )

    def __init__(
        self,
        backbone: Backbone,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        classifier: Classifier = "prototype",
        smooth: int = 0,
        encoder: str | Path | S4Weights | None = None,
    ) -> None:
        super().__init__(backbone, device, dtype)
        if classifier not in get_args(Classifier):
            raise UserError(f"classifier is {classifier!r}; allowed are {', '.join(get_args(Classifier))}")
        if smooth < 0:
            raise UserError(f"smooth is {smooth}: it is the side of the grid that k-means starts from, 0 for off")
        self.classifier, self.smooth, self.embedded = classifier, smooth, encoder is None
        self.trained = self._find(encoder)
        self._check()
        self._encoder = deepcopy(self.trained.encoder).to(self.device, dtype).eval()
        self._targets: Tensor | None = None

    def _find(self, encoder: str | Path | S4Weights | None) -> S4Weights:
        if isinstance(encoder, S4Weights):
            return encoder
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
        if self.classifier == "prototype" and self.trained.pool is None:
            raise UserError(f"{self.trained.source} stores no pool of CLIP segment features: use classifier=text")

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {
            **super().provenance,
            "classifier": self.classifier,
            "smooth": self.smooth,
            "encoder": self.trained.provenance,
        }

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
        """See ``Method.cover``: the window, filled up to whole cells below and to the right."""
        stride = self.trained.encoder.spec.stride
        return Box(0, 0, height + -height % stride, width + -width % stride)

    def encode(self, vocabulary: Vocabulary) -> None:
        """Encode the queries, and find the prototype of each."""
        super().encode(vocabulary)
        self._targets = self.text
        if self.classifier == "prototype":
            assert self.trained.pool is not None  # see _check
            self._targets = top_prototypes(self.text, self.trained.pool.to(self.device), self.trained.top)

    @property
    def targets(self) -> Tensor:
        """What embeddings are compared with, ``(Q, dim)`` float32, unit length.  ``UserError`` before ``encode``."""
        _ = self.vocabulary  # the clear error
        assert self._targets is not None
        return self._targets

    def score_windows(self, windows: Tensor) -> Tensor:
        """Cosines: ``(B, 3, H, W)`` uint8 RGB -> ``(B, Q, h, w)`` float32 in [-1, 1]."""
        return self.score_features(self.encode_windows(windows))

    @torch.inference_mode()
    def encode_windows(self, windows: Tensor) -> Tensor:
        """Pixel embeddings: ``(B, 3, H, W)`` uint8 RGB -> ``(B, dim, h, w)`` float32, unit length."""
        pixels = self.normalised(windows)
        box = self.cover(*pixels.shape[2:])
        z = self._encoder(
            F.pad(pixels, (0, box.right - pixels.shape[3], 0, box.bottom - pixels.shape[2]), mode="replicate")
        )
        return smoothed(z, self.smooth) if self.smooth else z

    @torch.inference_mode()
    def score_features(self, features: Tensor) -> Tensor:
        """Cosines with the targets: ``(B, dim, h, w)`` -> ``(B, Q, h, w)`` float32."""
        return torch.einsum("qd,bdhw->bqhw", self.targets, features)


def smoothed(z: Tensor, side: int) -> Tensor:
    """Each embedding becomes the mean of its k-means segment, at unit length: ``(B, d, h, w)`` -> the same shape."""
    labels = cluster(z, side, _ROUNDS)
    own = (labels + torch.arange(len(z), device=z.device)[:, None] * side * side).flatten()
    means = segment_means(z.flatten(2).transpose(1, 2).flatten(0, 1), own, len(z) * side * side)
    return means[own].view(len(z), -1, z.shape[1]).transpose(1, 2).view_as(z)
