"""FLOSS: classes have prompt templates of their own, those under which a method is least unsure of them.

    P_e = softmax(s f . T_e),   P_0 the same with T_0,   T_e[q] = mean over the templates of e's class of unit t(q)
    P   = P_e where argmax P_e is e,   P_0 where there is no such e,   of several the one with the largest P_e[e]

``f`` are features of another method, ``base``; every query e has an expert, a classifier of all queries, and T_0 is the
mean over all templates.  Probabilities are brought to the window's pixels before experts speak, and averaged over
windows.  Over NACLIP T_e and T_0 are of unit length, over MaskCLIP and CLIP-DINOiser they stay shorter: less sure.

Which templates are a class's comes from a file (``experts``) that ``bench experts`` writes, from images without labels
(``blocks.experts``).  A class that no template ever gave a pixel to has all templates, as in the public code for
MaskCLIP; for NACLIP that ends with an error.  ``fusion=patches`` lets experts speak on the patch grid, which is ours.

Benigmim et al., ICCV 2025, arXiv:2504.10487, in the form of the public code (yasserben/FLOSS, commit ccf1d49).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .blocks.clip_method import ClipMethod, ClipWords
from .blocks.dense_clip import DenseClip, SeenPatches
from .blocks.experts import Experts, ExpertsFile, read_experts
from .clearclip import ClearCLIP
from .clip import CLIP
from .clip_dinoiser import CLIPDINOiser
from .core.errors import UserError
from .core.info import MethodInfo
from .core.options import Options, options_type
from .core.picture import Windows
from .core.vocabulary import Vocabulary
from .core.window_method import SeenWindows, WindowMethod
from .core.windows import Box
from .maskclip import MaskCLIP
from .models.backbone import Backbone
from .models.text import encode_queries
from .naclip import NACLIP
from .pearl import PEARL
from .sc_clip import SCCLIP
from .sclip import SCLIP
from .sfp import SFP

BASES: dict[str, type[DenseClip]] = {
    "naclip": NACLIP,
    "maskclip": MaskCLIP,
    "clip-dinoiser": CLIPDINOiser,
    "clip": CLIP,
    "sclip": SCLIP,
    "clearclip": ClearCLIP,
    "sc-clip": SCCLIP,
    "sfp": SFP,
    "pearl": PEARL,
}
PUBLISHED = ("naclip", "maskclip", "clip-dinoiser")
SHORT_TEXTS = ("maskclip", "clip-dinoiser")


class FLOSSOptions(Options):
    """Options of ``FLOSS``."""

    base: Literal["naclip", "maskclip", "clip-dinoiser", "clip", "sclip", "clearclip", "sc-clip", "sfp", "pearl"] = (
        Field("naclip", description="method whose features are scored; published: the first three")
    )
    experts: str | None = Field(None, exclude=True, description="file that `bench experts` wrote")
    fusion: Literal["pixels", "patches"] = Field(
        "pixels", description="where experts speak: at the window's pixels (published), or on the patch grid, faster"
    )
    unit_texts: bool | None = Field(
        None,
        description="whether means over templates get unit length; without it as published: not over maskclip "
        "and clip-dinoiser",
    )
    logit_scale: float = Field(100.0, gt=0, description="s; published: 100")
    pad: Literal["end"] | bool | None = Field(None, description="as for the base; nothing: the base's own default")
    positions: Literal["factor", "size", "antialias", "bilinear"] | None = Field(
        None, description="as for the base; nothing: the base's own default"
    )


@dataclass(frozen=True)
class ExpertWords(ClipWords):
    """Texts of the default classifier, and ``experts`` ``(Q, Q, dim)`` float32, whose first axis is the expert."""

    experts: Tensor


@dataclass(frozen=True)
class SeenForExperts:
    """What the base saw in windows of ``size`` px (height, width)."""

    patches: SeenPatches
    size: tuple[int, int]


class FLOSS(WindowMethod[SeenForExperts, ExpertWords], ClipMethod[SeenWindows[SeenForExperts]]):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="floss",
        title="FLOSS",
        paper="Benigmim et al., ICCV 2025, arXiv:2504.10487",
        published="NACLIP + FLOSS",
        offline=False,
    )
    models = ("base", "experts")
    options: FLOSSOptions

    def __init__(
        self,
        backbone: Backbone,
        options: FLOSSOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        experts: ExpertsFile | Experts | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        self.experts = _experts(self.options.experts if experts is None else experts)
        kind = BASES[self.options.base]
        fitted = {n: v for n in ("pad", "positions") if (v := getattr(self.options, n)) is not None}
        self.base = kind(backbone, options_type(kind)(**fitted), device, dtype)
        chosen = self.options.unit_texts
        self.unit = self.options.base not in SHORT_TEXTS if chosen is None else chosen

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``: what was trained is the base's, and so is the line of reported values."""
        base, own, images = self.base.described, self.options, self.experts.experts.images
        as_published = own.base in PUBLISHED and own.unit_texts is None and own.fusion == "pixels" and base.published
        return replace(
            self.info,
            training_free=base.training_free,
            trained_on=f"{base.trained_on}; templates were chosen on {images} images without labels",
            published=f"{base.published} + FLOSS" if as_published else None,
        )

    @property
    def chosen_on(self) -> tuple[str, ...]:
        """See ``Method.chosen_on``."""
        return self.experts.experts.image_names

    @property
    def activated(self) -> bool:
        """See ``WindowMethod.activated``: probabilities."""
        return True

    def cover(self, height: int, width: int) -> Box:
        """See ``WindowMethod.cover``."""
        return Box(0, 0, height, width) if self.options.fusion == "pixels" else self.base.cover(height, width)

    def encode_text(self, vocabulary: Vocabulary) -> ExpertWords:
        """Texts of every expert.  Raises ``UserError`` for experts of other classes."""
        of_class = self.experts.experts.templates_for(vocabulary)
        lists = [of_class[c] for c in vocabulary.query_to_class]
        used = dict.fromkeys(t for templates in (vocabulary.templates, *lists) for t in templates)
        texts = {t: self._texts(vocabulary, t) for t in used}
        experts = torch.stack([self._mean([texts[t] for t in templates]) for templates in lists])
        return ExpertWords(vocabulary, self._mean([texts[t] for t in vocabulary.templates]), experts)

    def _texts(self, vocabulary: Vocabulary, template: str) -> Tensor:
        """Unit embeddings ``(Q, dim)`` of the queries in one template."""
        return encode_queries(self.backbone, replace(vocabulary, templates=(template,)), self.device)

    def _mean(self, texts: list[Tensor]) -> Tensor:
        mean = torch.stack(texts).mean(dim=0)
        return F.normalize(mean, dim=-1) if self.unit else mean

    def encode_windows(self, windows: Windows) -> SeenForExperts:
        """Patch features of the base."""
        height, width = windows.pixels.shape[2:]
        return SeenForExperts(self.base.encode_windows(windows), (height, width))

    def score_windows(self, seen: SeenForExperts, words: ExpertWords) -> Tensor:
        """Probabilities, ``(B, Q, H, W)`` or ``(B, Q, h, w)`` float32; one window and one expert at a time."""
        windows = (replace(seen.patches, features=one[None]) for one in seen.patches.features)
        return torch.stack([self._fused(one, seen.size, words) for one in windows])

    def _fused(self, seen: SeenPatches, size: tuple[int, int], words: ExpertWords) -> Tensor:
        fused = self._probabilities(seen, size, ClipWords(words.vocabulary, words.text))
        own = fused.new_full(fused.shape[1:], -1.0)
        for e, texts in enumerate(words.experts):
            p = self._probabilities(seen, size, ClipWords(words.vocabulary, texts))
            speaks = (p.argmax(dim=0) == e) & (p[e] > own)
            own[speaks] = p[e][speaks]
            fused[:, speaks] = p[:, speaks]
        return fused

    def _probabilities(self, seen: SeenPatches, size: tuple[int, int], words: ClipWords) -> Tensor:
        """``(Q, H, W)`` at the window's pixels, or ``(Q, h, w)``."""
        p = (self.options.logit_scale * self.base.score_windows(seen, words)).softmax(dim=1)
        if self.options.fusion == "patches":
            return p[0]
        shape = self.base.cover(*size)
        full = (shape.bottom - shape.top, shape.right - shape.left)
        p = F.interpolate(p, full, mode="bilinear", align_corners=False)[0]
        return p[:, -shape.top :, -shape.left :][:, : size[0], : size[1]].contiguous()


def _experts(given: str | ExpertsFile | Experts | None) -> ExpertsFile:
    if isinstance(given, ExpertsFile):
        return given
    if isinstance(given, Experts):
        return ExpertsFile(given, given.written())
    if given is None:
        raise UserError(
            "floss needs a file of experts, which says which templates are a class's: `bench experts --method naclip "
            "--dataset KEY --out experts.json` makes one, --option floss.experts=experts.json names it"
        )
    return read_experts(Path(given))
