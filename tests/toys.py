"""A method that is one function of pixels and words, for tests that need to know every score."""

from typing import ClassVar

from torch import Tensor

from ovss.methods import MethodInfo, Vocabulary
from ovss.methods.core.method import Words
from ovss.methods.core.picture import Windows
from ovss.methods.core.window_method import WindowMethod


class Toy(WindowMethod[Tensor, Words]):
    """A test writes ``score_pixels``."""

    info: ClassVar[MethodInfo] = MethodInfo("toy", "Toy", "nobody, never")

    def encode_text(self, vocabulary: Vocabulary) -> Words:
        """The vocabulary as it is."""
        return Words(vocabulary)

    def encode_windows(self, windows: Windows) -> Tensor:
        """The pixels as they are."""
        return windows.pixels

    def score_windows(self, seen: Tensor, words: Words) -> Tensor:
        """See ``score_pixels``."""
        return self.score_pixels(seen, words.vocabulary)

    def score_pixels(self, pixels: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Scores of windows: ``(B, 3, H, W)`` uint8 -> ``(B, Q, h, w)`` float32."""
        raise NotImplementedError
