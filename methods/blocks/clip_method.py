"""What every method around a CLIP ViT has: the image tower's weights, its input statistics, the encoded texts."""

from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.method import Method
from ..core.tokenizer import Tokenizer
from ..core.vocabulary import Vocabulary
from ..models import vit
from ..models.backbone import Backbone
from ..models.text import encode_queries


class ClipMethod(Method):
    """A segmenter with an open_clip backbone, whose image tower runs on ``device`` in ``dtype``."""

    def __init__(
        self, backbone: Backbone, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.backbone, self.device, self.dtype = backbone, torch.device(device), dtype
        self.tower = vit.read_vision(backbone.model.visual, self.device, dtype)
        self._mean = torch.tensor(backbone.mean, device=self.device).view(3, 1, 1) * 255
        self._std = torch.tensor(backbone.std, device=self.device).view(3, 1, 1) * 255
        self._text: Tensor | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {
            "method": self.info.name,
            "weights": self.backbone.provenance,
            "precision": str(self.dtype).removeprefix("torch."),
        }

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

    def encode(self, vocabulary: Vocabulary) -> None:
        """Encode the queries once (float32, cached on disk)."""
        super().encode(vocabulary)
        self._text = encode_queries(self.backbone, vocabulary, self.device)

    @property
    def text(self) -> Tensor:
        """Embeddings of the queries, ``(Q, dim)`` float32, unit length.  Raises ``UserError`` before ``encode``."""
        _ = self.vocabulary  # the clear error
        assert self._text is not None
        return self._text

    def normalised(self, windows: Tensor) -> Tensor:
        """Pixels for the image tower: ``(B, 3, H, W)`` uint8 RGB -> the same shape in the working dtype.

        Raises ``UserError`` for windows that are smaller than a patch.
        """
        return self._whole_patches(self._normalise(windows))

    def _normalise(self, windows: Tensor) -> Tensor:
        return ((windows.to(self.device).float() - self._mean) / self._std).to(self.dtype)

    def _whole_patches(self, pixels: Tensor) -> Tensor:
        """``pixels`` as they are, if at least one patch fits in."""
        if min(pixels.shape[2:]) < self.tower.patch_px:
            raise UserError(
                f"a window of {pixels.shape[3]}x{pixels.shape[2]} px is smaller than one patch of "
                f"{self.tower.patch_px} px: raise short_side_px of the protocol, or leave the image out"
            )
        return pixels
