"""ITACLIP: attention of middle blocks in the last one, five views of a window, a second text for every class.

    z = x + A v W_o,   A = a_12 / 2 + (a_7 + a_8 + a_10) / 6
    a_i = softmax(q_i q_i^T / sqrt(w)) + softmax(k_i k_i^T / sqrt(w))
    score = f . t,   f = c (u_plain + u_gray + u_blur) / 3 + (1 - c) (u_down + u_side) / 2
    t = (1 - d) t_name + d t_class

x and v are those of the last block, a_i of the i-th of 12, counted from 1, w the width of a head; rows of A sum to 2.
The skip connection stays, the MLP is dropped.  ``u`` are unit features of a view: as it is, gray, under a Gaussian of
11 x 11 px, mirrored in either direction and turned back.  Neither f nor t is brought to unit length again.  ``t_class``
is a definition or a synonym of the class, written by a language model: a file of the user's, without which t is
``t_name``.

PAMR and the closing of label maps are the protocol's (preset ``itaclip``).  A backbone that has not 12 blocks gives
those that are as deep in it.

Aydin et al., CVPR Workshops 2025, arXiv:2411.12044, in the form of the public code (m-arda-aydn/ITACLIP, 521a33c).
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.class_texts import mix_class_texts, read_class_texts
from .blocks.clip_method import ClipWords
from .blocks.dense_clip import DenseClip, DenseClipOptions, LastBlock, SeenPatches, project_mixed
from .blocks.depth import block_at
from .blocks.image_views import blurred, gray
from .blocks.patch_cosines import attention
from .core.info import MethodInfo
from .core.picture import Windows
from .core.vocabulary import Vocabulary
from .models import vit
from .models.backbone import Backbone
from .models.text import encode_queries

MIDDLE_OF_TWELVE = (6, 7, 9)
"""Blocks from 0."""


class ITACLIPOptions(DenseClipOptions):
    """Options of ``ITACLIP``; the default weights are those of COCO-Stuff."""

    views: bool = Field(True, description="five views of each window, at five times the cost; false: the window alone")
    upright_weight: float = Field(
        0.75, ge=0, le=1, description="c: share of the views that are not mirrored; published: 0.7 or 0.75"
    )
    class_texts: str | None = Field(
        None,
        exclude=True,
        description="file with a second text for every class, one a line, none for the background",
    )
    class_text_weight: float = Field(
        0.2, ge=0, le=1, description="d: share of the second text, if there is one; published: 0.05 to 0.2"
    )


class ITACLIP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="itaclip",
        title="ITACLIP",
        paper="Aydin et al., CVPR Workshops 2025, arXiv:2411.12044",
        published="ITACLIP",
    )
    last_block = LastBlock(("qq", "kk"), residual=True, ffn=False)
    reads_layers = True
    options: ITACLIPOptions

    def __init__(
        self,
        backbone: Backbone,
        options: ITACLIPOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.middle = [block_at(self.tower, "the middle block", None, block) for block in MIDDLE_OF_TWELVE]
        given = self.options.class_texts
        self.texts = read_class_texts(Path(given)) if given else None

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        texts = {"source": self.texts.source, "sha256": self.texts.sha256} if self.texts else None
        return {**super().provenance, "class_texts": texts}

    def encode_text(self, vocabulary: Vocabulary) -> ClipWords:
        """The queries' embeddings, each with that of its class's second text in it; not of unit length then."""
        words = super().encode_text(vocabulary)
        if self.texts is None:
            return words
        second = encode_queries(self.backbone, self.texts.of(vocabulary), self.device, unit_prompts=self.unit_prompts)
        return self.mixed(words, second)

    def mixed(self, words: ClipWords, second: Tensor) -> ClipWords:
        """``words`` with the second text of every class, ``(C, dim)`` without the background."""
        share, background = self.options.class_text_weight, words.vocabulary.background
        return ClipWords(words.vocabulary, mix_class_texts(words.text, words.query_to_class, second, share, background))

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Patch features, mean over the views; not of unit length with more than one."""
        layers, grid = self.layers(windows)
        plain = self._unit(layers, grid)
        if not self.options.views:
            return SeenPatches(plain)
        pixels = self.normalised(windows.pixels)
        upright = (plain + self._view(gray(pixels.float())) + self._view(blurred(pixels.float()))) / 3
        mirrored = (self._view(pixels.flip(2)).flip(1) + self._view(pixels.flip(3)).flip(2)) / 2
        c = self.options.upright_weight
        return SeenPatches(c * upright + (1 - c) * mirrored)

    def _view(self, pixels: Tensor) -> Tensor:
        """Unit features of normalised pixels, ``(B, h, w, dim)``."""
        return self._unit(*vit.run_layers(self.tower, pixels.to(self.dtype), self.options.positions))

    def _unit(self, layers: tuple[Tensor, ...], grid: tuple[int, int]) -> Tensor:
        block, x = self.tower.blocks[-1], layers[-1]
        middle = sum((_own(self.tower.blocks[i], layers[i]) for i in self.middle), torch.zeros((), device=x.device))
        mixing = 0.5 * _own(block, x) + 0.5 * middle / len(self.middle)
        v = vit.split_heads(block, x)[2]
        mixed = vit.merge_heads(mixing[:, :, 1:].to(v.dtype) @ v)
        return F.normalize(project_mixed(self.tower, self.last_block, x, mixed), dim=-1).unflatten(1, grid)


def _own(block: vit.Block, tokens: Tensor) -> Tensor:
    """a of a block's input ``(B, T, D)``: ``(B, heads, T, T)`` float32."""
    q, k, _ = vit.split_heads(block, tokens)
    return attention(q, q) + attention(k, k)
