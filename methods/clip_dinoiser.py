"""CLIP-DINOiser: MaskCLIP's patch features, pooled over patches that look alike.

    F'_i = sum_j A_ij F_j / (sum_j A_ij + 1e-6),   A = P^T P with A < gamma set to 0
    P    = g(I) per patch at unit length,          g a 3x3 convolution trained to imitate DINO's affinities
    I    = ln_2 output of the third block from the end

Where a background class is scored, patches that are unsure (best probability below delta) and not salient become
background: p_0 = 1.  The saliency comes from a second head, h(I / |I|) > 0, trained to imitate FOUND, or from FOUND.

Wysoczanska et al., ECCV 2024, arXiv:2312.12359, in the form of the released code (wysoczanska/clip_dinoiser,
models/clip_dinoiser/clip_dinoiser.py).  Every row of the paper's ablation is a value of ``pooling`` and ``background``.
"""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from .blocks.clip_method import ClipWords
from .blocks.dense_clip import DenseClip, EndPaddedOptions, LastBlock, SeenPatches
from .blocks.key_smoothing import SCALE, KeyNorm, projected_keys, smooth_by_keys
from .core.errors import UserError
from .core.info import MethodInfo
from .core.picture import Windows
from .core.vocabulary import Vocabulary
from .models import vit
from .models.backbone import TINY_CLIP, TINY_CLIP_FOLDER, Backbone
from .models.dino import Dino, LastAttention, load_dino
from .models.dinoiser_heads import DinoiserHeads, load_heads
from .models.found import Found, load_found
from .models.open_model import open_model
from .models.second_dino import open_dino

TINY_HEADS = TINY_CLIP_FOLDER / "dinoiser_heads.safetensors"


class CLIPDINOiserOptions(EndPaddedOptions):
    """Options of ``CLIPDINOiser``."""

    pooling: Literal["none", "clip_keys", "dino_q", "dino_k", "dino_v", "trained"] = Field(
        "trained",
        description="A: g, cosines of that slice of DINO ViT-B/16, probabilities smoothed by CLIP's keys (the paper's "
        "row has no released code, hence key_norm), or none (MaskCLIP)",
    )
    background: Literal["none", "found", "found_delta", "head_delta"] = Field(
        "none", description="rule for the background: FOUND alone, or FOUND or the second head where p is below delta"
    )
    gamma: float = Field(0.2, ge=0, lt=1, description="a cosine below which patches are unlike")
    delta: float = Field(0.99, description="probability below which a patch is unsure")
    layer: Literal["final", -1, -2, -3, -4, -5] = Field(
        -3,
        description="where I is taken, counted from the last block, or final for F.  In the last block itself I is "
        "ln_2 of the value path, because the released code's hook fires there once more",
    )
    key_norm: KeyNorm = Field("channels", description="of clip_keys: keys normalised over channels or positions")
    heads: str | None = Field(
        None,
        exclude=True,
        description="file of the heads, or a name that `bench weights` lists; without it the "
        "released ones, and for tiny-clip the embedded ones",
    )
    dino: str | None = Field(None, exclude=True, description="file or name of DINO ViT-B/16, as heads")
    found: str | None = Field(
        None, exclude=True, description="file or name of FOUND's head; its DINO is always the catalogue's"
    )

    @model_validator(mode="after")
    def _check(self) -> "CLIPDINOiserOptions":
        if self.pooling == "clip_keys" and self.background != "none":
            raise ValueError("pooling=clip_keys goes with background=none: smoothed values are no probabilities")
        return self


class CLIPDINOiser(DenseClip):
    """See the module docstring for the equations.

    Scores are probabilities with a background rule or with "clip_keys", else cosines.  Where several texts speak for
    the background, p_0 is the first one's.
    """

    info = MethodInfo(
        name="clip-dinoiser",
        title="CLIP-DINOiser",
        paper="Wysoczanska et al., ECCV 2024, arXiv:2312.12359",
        training_free=False,
        trained_on="two convolutions on 1000 ImageNet images without labels, after DINO and FOUND",
        backbone="ViT-B-16/laion2b_s34b_b88k",
        published="CLIP-DINOiser",
    )
    last_block = LastBlock((), residual=True, ffn=True)
    options: CLIPDINOiserOptions
    models = ("heads", "dino", "found")

    def __init__(
        self,
        backbone: Backbone,
        options: CLIPDINOiserOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        heads: DinoiserHeads | None = None,
        dino: Dino | None = None,
        found: Found | None = None,
    ) -> None:
        super().__init__(backbone, options, device, dtype)
        chosen, count = self.options, len(self.tower.blocks)
        if chosen.layer != "final" and count + chosen.layer < 0:
            raise UserError(f"layer is {chosen.layer}, but the backbone has {count} blocks")
        needs_heads = chosen.pooling == "trained" or chosen.background == "head_delta"
        self.heads = self._load_heads(heads or chosen.heads) if needs_heads else None
        self._released = heads is None and chosen.heads is None
        self.dino = self._load_dino(dino or chosen.dino) if chosen.pooling.startswith("dino_") else None
        self.found = self._load_found(found or chosen.found) if chosen.background.startswith("found") else None

    def _load_heads(self, heads: str | DinoiserHeads | None) -> DinoiserHeads:
        width = self.tower.projection.shape[1] if self.options.layer == "final" else self.tower.class_token.shape[-1]
        if isinstance(heads, DinoiserHeads):
            if heads.width != width:
                raise UserError(f"the heads ({heads.source}) take features of width {heads.width}, layer has {width}")
            return heads.to(self.device)
        if heads is None and self.backbone.name == TINY_CLIP:
            return load_heads(TINY_HEADS, width, self.device)
        return open_model(load_heads, "clip-dinoiser-heads", heads, width, self.device)

    def _load_dino(self, dino: str | Dino | None) -> Dino:
        if not isinstance(dino, Dino):
            dino = open_dino("dino-vitb16", dino, self.backbone, self.device, self.dtype)
        if dino.patch_px != self.tower.patch_px:
            raise UserError(
                f"{dino.name} has patches of {dino.patch_px} px, the backbone of {self.tower.patch_px} px: they must "
                "be equal"
            )
        return dino

    def _load_found(self, found: str | Found | None) -> Found:
        if isinstance(found, Found):
            return found
        small = open_model(load_dino, "dino-vits8-300ep", None, self.device, self.dtype)
        return open_model(load_found, "found-head", found, small)

    @property
    def described(self) -> MethodInfo:
        """See ``Method.described``: without heads nothing was trained, and the embedded ones saw scenes only.

        The reported values are those of the released heads (the catalogue's, not a file that was named).
        """
        if self.heads is None:
            return replace(self.info, training_free=True, trained_on=DINOPool.info.trained_on, published=None)
        if self.backbone.name == TINY_CLIP:
            return replace(self.info, trained_on="two convolutions on scenes of `shapes` without labels")
        info = self.info
        if any(weights.name == "clip-dinoiser-heads-voc" for weights in self.loaded):
            info = replace(info, trained_on=info.trained_on.replace("1000 ImageNet", "PASCAL VOC"))
        chosen = self.options
        constants = (chosen.pooling, chosen.gamma, chosen.delta, chosen.layer) == ("trained", 0.2, 0.99, -3)
        return info if constants and self._released else replace(info, published=None)

    @property
    def activated(self) -> bool:
        """See ``WindowMethod.activated``."""
        return self.options.background != "none" or self.options.pooling == "clip_keys"

    def encode_text(self, vocabulary: Vocabulary) -> ClipWords:
        """Encode the queries.  Raises ``UserError`` where a background rule has no class to give patches to."""
        background, rule = vocabulary.background, self.options.background
        if rule != "none" and (background is None or background not in vocabulary.query_to_class):
            raise UserError(
                f"background={rule} needs a data set with a scored background and a text for it: leave the option out "
                "(background=none), or choose another data set"
            )
        return super().encode_text(vocabulary)

    def encode_windows(self, windows: Windows) -> SeenPatches:
        """Pooled features of windows; saliency and keys where a rule needs them."""
        key = ("walk", self.tower, self.statistics, self.options.positions, self.options.layer)
        tokens, inner, grid = windows.once(
            (*key, self.padding_key(windows)), lambda: self.walk(self.normalised(windows.pixels))
        )
        features = self.raw_features(tokens, grid)
        inner = features if inner is None else inner
        rgb = self._rgb(windows.pixels, grid) if self.dino or self.found else None
        pooling = self.options.pooling
        if pooling not in ("none", "clip_keys"):
            last = windows.once(("last attention", self.dino, self.padding_key(windows)), lambda: self.look(rgb))
            features = pool(features, self.affinity(inner, last, grid), self.options.gamma)
        return SeenPatches(
            F.normalize(features, dim=-1).unflatten(1, grid),
            projected_keys(self.tower.blocks[-1], tokens) if pooling == "clip_keys" else None,
            self.salient(inner, rgb, grid).unflatten(1, grid) if self.options.background != "none" else None,
        )

    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        """Cosines, or probabilities where a rule needs them, ``(B, Q, h, w)`` float32."""
        scores = super().score_windows(seen, words)
        if not self.activated:
            return scores
        probabilities = (SCALE * scores).softmax(dim=1)
        if seen.salient is not None:
            return self._with_background(probabilities, seen.salient, words.vocabulary)
        assert seen.keys is not None  # see activated
        smooth = smooth_by_keys(probabilities.flatten(2).transpose(1, 2), seen.keys, 1.0, self.options.key_norm)
        return smooth.transpose(1, 2).unflatten(2, scores.shape[2:])

    def walk(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        """Input of the last block ``(B, 1 + N, D)``, I ``(B, N, D)`` float32 (None for layer "final"), and the grid."""
        x, grid = vit.embed(self.tower, pixels, self.options.positions)
        *blocks, last = self.tower.blocks
        inner = None
        for number, block in enumerate(blocks, start=-len(blocks) - 1):
            y = vit.attend(block, x)
            if number == self.options.layer:
                inner = vit.norm(y[:, 1:], block.ln_2).float()
            x = vit.add_ffn(block, y)
        if self.options.layer == -1:
            patches = x[:, 1:]
            inner = vit.norm(patches + vit.project_out(last, vit.values(last, patches)), last.ln_2).float()
        return x, inner, grid

    def _rgb(self, windows: Tensor, grid: tuple[int, int]) -> Tensor:
        """What the grid's patches show, for DINO and FOUND: ``(B, 3, h * patch, w * patch)`` float32 in [0, 1]."""
        rgb = self.padded(windows).float() / 255
        if self.options.pad is True:
            (top, bottom), (left, right) = (self._padding(side) for side in rgb.shape[2:])
            mean = torch.tensor(self.statistics[0], device=self.device).view(3, 1, 1) * 255 / 255
            rgb = F.pad(rgb - mean, (left, right, top, bottom)) + mean
        height, width = (count * self.tower.patch_px for count in grid)
        return rgb[:, :, :height, :width]

    def look(self, rgb: Tensor | None) -> LastAttention | None:
        """What DINO sees, if it is asked at all."""
        return None if self.dino is None or rgb is None else self.dino.qkv(self.dino.normalise(rgb))

    def affinity(self, inner: Tensor, last: LastAttention | None, grid: tuple[int, int]) -> Tensor:
        """A before the threshold, ``(B, N, N)``; ``last`` is DINO's ``look``."""
        if last is None:
            assert self.heads is not None
            return self.heads.affinity(inner, grid)
        unit = F.normalize({"dino_q": last.q, "dino_k": last.k, "dino_v": last.v}[self.options.pooling], dim=-1)
        return unit @ unit.transpose(1, 2)

    def salient(self, inner: Tensor, rgb: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Patches that belong to an object, ``(B, N)`` bool."""
        if self.found is None:
            assert self.heads is not None
            return self.heads.saliency_logit(inner) > 0
        assert rgb is not None
        saliency = F.interpolate(self.found.saliency(rgb), grid, mode="bilinear", align_corners=False)
        return saliency.flatten(1) > 0.5

    def _with_background(self, probabilities: Tensor, salient: Tensor, vocabulary: Vocabulary) -> Tensor:
        """p_0 = 1, in place, for patches that are not salient and, with delta, unsure; other classes stay."""
        assert vocabulary.background is not None  # see encode_text
        unsure = probabilities.amax(dim=1) < self.options.delta
        lost = ~salient if self.options.background == "found" else ~salient & unsure
        probabilities[:, vocabulary.query_to_class.index(vocabulary.background)].masked_fill_(lost, 1.0)
        return probabilities


class DINOPoolOptions(CLIPDINOiserOptions):
    """Options of ``DINOPool``."""

    pooling: Literal["none", "clip_keys", "dino_q", "dino_k", "dino_v", "trained"] = Field(
        "dino_v", description="A, as for CLIP-DINOiser"
    )


class DINOPool(CLIPDINOiser):
    """MaskCLIP's features pooled by the values of DINO itself (the paper's step before training)."""

    info = MethodInfo(
        name="dino-pool",
        title="MaskCLIP with DINO pooling",
        paper="Wysoczanska et al., ECCV 2024, arXiv:2312.12359",
        trained_on="nothing; DINO ViT-B/16 is self-supervised",
        backbone="ViT-B-16/laion2b_s34b_b88k",
        offline=False,
    )
    options: DINOPoolOptions


def pool(features: Tensor, affinity: Tensor, gamma: float) -> Tensor:
    """Weighted mean over similar patches: ``(B, N, dim)`` and ``(B, N, N)`` -> ``(B, N, dim)``.

    Affinities below ``gamma`` count as 0; with gamma 0 negative ones do.
    """
    affinity = torch.where(affinity < gamma, 0.0, affinity)
    return affinity @ features / (affinity.sum(dim=-1, keepdim=True) + 1e-6)
