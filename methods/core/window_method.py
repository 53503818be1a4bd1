"""WindowMethod: a method that scores windows, which the protocol cuts out of the image."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from .method import Method, Said
from .picture import Picture, Windows
from .score_field import ScoreField
from .windows import Box, WindowGeometry, cut

SeenIn = TypeVar("SeenIn", default=Any)


@dataclass(frozen=True)
class SeenWindows(Generic[SeenIn]):
    """What a method saw in the windows of an image.

    ``batches`` are what ``encode_windows`` returned, one for each batch; ``size`` is the height and width of windows,
    ``frame`` that of the image.
    """

    batches: tuple[SeenIn, ...]
    boxes: tuple[Box, ...]
    size: tuple[int, int]
    frame: tuple[int, int]


class WindowMethod(Method[SeenWindows[SeenIn], Said]):
    """A method that writes ``encode_windows`` and ``score_windows``; cutting, batches and the field are done here."""

    batch_size = 8
    """How many windows go through the method in one call, at most."""

    @abstractmethod
    def encode_windows(self, windows: Windows) -> SeenIn:
        """What of the windows' scores does not depend on the words."""

    @abstractmethod
    def score_windows(self, seen: SeenIn, words: Said) -> Tensor:
        """Scores ``(B, Q, h, w)`` float32, higher is better, of what ``encode_windows`` saw in B windows."""

    @property
    def activated(self) -> bool:
        """Whether scores are probabilities (or masks) already, which no softmax must touch again."""
        return False

    def cover(self, height: int, width: int) -> Box:
        """Rectangle, relative to a window of this size, that the grid of scores stretches over."""
        return Box(0, 0, height, width)

    @torch.inference_mode()
    def encode_image(self, picture: Picture, geometry: WindowGeometry) -> SeenWindows[SeenIn]:
        """See ``Method.encode_image``."""
        boxes = geometry.boxes(*picture.size)
        parts = [boxes[first : first + self.batch_size] for first in range(0, len(boxes), self.batch_size)]
        batches = tuple(
            self.encode_windows(Windows(cut(picture.pixels, part), picture, (geometry, self.batch_size, number), part))
            for number, part in enumerate(parts)
        )
        first = boxes[0]
        return SeenWindows(batches, boxes, (first.bottom - first.top, first.right - first.left), picture.size)

    @torch.inference_mode()
    def score(self, seen: SeenWindows[SeenIn], words: Said) -> ScoreField:
        """See ``Method.score``.

        The product with the texts is computed for each vocabulary by itself: its shape decides how it rounds.
        """
        scores = torch.cat([self.score_windows(batch, words) for batch in seen.batches])
        shape = self.cover(*seen.size)
        covers = tuple(
            Box(b.top + shape.top, b.left + shape.left, b.top + shape.bottom, b.left + shape.right) for b in seen.boxes
        )
        return ScoreField(scores, seen.boxes, covers, seen.frame, words.query_to_class, activated=self.activated)
