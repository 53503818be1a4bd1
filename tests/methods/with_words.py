"""A method together with one vocabulary, for tests that need no second one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovss.methods import ScoreField, Vocabulary, WindowGeometry
from ovss.methods.core.method import Method
from ovss.methods.core.picture import Picture, Windows
from ovss.methods.core.window_method import WindowMethod


@dataclass(frozen=True)
class WithWords:
    """``method`` and the words of ``vocabulary``."""

    method: Any
    words: Any

    @classmethod
    def of(cls, method: Method, vocabulary: Vocabulary) -> "WithWords":
        """Encode the words."""
        return cls(method, method.encode_text(vocabulary))

    def __getattr__(self, name: str) -> Any:
        """Everything else is the method's."""
        return getattr(self.method, name)

    @property
    def text(self) -> Tensor:
        """Embeddings of the queries."""
        text: Tensor = self.words.text
        return text

    @torch.inference_mode()
    def segment(self, image: Tensor, geometry: WindowGeometry = WindowGeometry()) -> ScoreField:
        """The field of an image, ``(3, H, W)`` uint8."""
        return self.method.score(self.method.encode_image(Picture.of(image), geometry), self.words)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def score_windows(self, windows: Tensor) -> Tensor:
        """Scores of windows ``(B, 3, H, W)`` uint8: together, or one by one if the method cuts images itself."""
        if isinstance(self.method, WindowMethod):
            scores: Tensor = self.method.score_windows(self.method.encode_windows(Windows.of(windows)), self.words)
            return scores
        return torch.cat([self.segment(window).dense().scores for window in windows])
