"""What every method around a CLIP ViT has: the image tower, its input statistics, the encoded texts."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.method import Method, Seen, Words
from ..core.options import Options
from ..core.tokenizer import Tokenizer
from ..core.vocabulary import Vocabulary
from ..models.backbone import Backbone
from ..models.text import encode_queries


@dataclass(frozen=True)
class ClipWords(Words):
    """A vocabulary with the embeddings of its queries, ``text`` ``(Q, dim)`` float32, unit length."""

    text: Tensor

    @property
    def unit_texts(self) -> Tensor:
        """See ``Words.unit_texts``."""
        return self.text


class ClipMethod(Method[Seen, ClipWords]):
    """A method with an open_clip backbone, whose image tower runs on ``device`` in ``dtype``."""

    unit_prompts: ClassVar[bool] = True
    """Whether features of prompts are brought to unit length before the mean over templates."""

    def __init__(
        self,
        backbone: Backbone,
        options: Options | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(options)
        self.backbone, self.device, self.dtype = backbone, torch.device(device), dtype
        self.tower = backbone.tower(self.device, dtype)
        self.statistics = (tuple(backbone.mean), tuple(backbone.std))
        self.size_multiple_px = self.tower.patch_px

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        precision = str(self.dtype).removeprefix("torch.")
        return {**super().provenance, "weights": self.backbone.provenance, "precision": precision}

    @property
    def prompt_tokenizer(self) -> Tokenizer | None:
        """The backbone's."""
        return self.backbone.tokenizer

    @property
    def note(self) -> str:
        """The backbone's."""
        return self.backbone.note

    @property
    def licences(self) -> dict[str, str]:
        """See ``Method.licences``; the backbone's first."""
        return {**self.backbone.licences, **super().licences}

    def encode_text(self, vocabulary: Vocabulary) -> ClipWords:
        """The queries' embeddings (float32, cached on disk)."""
        return ClipWords(
            vocabulary, encode_queries(self.backbone, vocabulary, self.device, unit_prompts=self.unit_prompts)
        )

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels for the image tower: ``(B, 3, H, W)`` uint8 RGB -> the same shape in the working dtype.

        Raises ``UserError`` for windows that are smaller than a patch.
        """
        return self._whole_patches(self._normalise(pixels))

    def _normalise(self, pixels: Tensor) -> Tensor:
        mean, std = (torch.tensor(s, device=self.device).view(3, 1, 1) * 255 for s in self.statistics)
        return ((pixels.to(self.device).float() - mean) / std).to(self.dtype)

    def _whole_patches(self, pixels: Tensor) -> Tensor:
        """``pixels`` as they are, if at least one patch fits in."""
        if min(pixels.shape[2:]) < self.tower.patch_px:
            raise UserError(
                f"a window of {pixels.shape[3]}x{pixels.shape[2]} px is smaller than one patch of "
                f"{self.tower.patch_px} px: raise short_side_px of the protocol, or leave the image out"
            )
        return pixels
