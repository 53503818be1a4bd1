"""Windows: where they lie, and cutting them out of an image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Box(NamedTuple):
    """A rectangle in pixels; ``bottom`` and ``right`` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class WindowGeometry:
    """Square windows of ``window_px`` every ``stride_px``; 0 means one window that is the whole image.

    The rule is mmseg's: windows start at multiples of the stride, and those that stick out are shifted back inside.
    An image smaller than the window is one window (no padding).
    """

    window_px: int = 0
    stride_px: int = 0

    def __post_init__(self) -> None:
        if self.window_px < 0 or (self.window_px and not 0 < self.stride_px <= self.window_px):
            raise ValueError(f"stride {self.stride_px} must lie between 1 and the window, {self.window_px}")

    def starts(self, length: int) -> list[int]:
        """First pixel of every window along a side of ``length`` px.

        >>> WindowGeometry(224, 112).starts(448)
        [0, 112, 224]
        """
        if not self.window_px or length <= self.window_px:
            return [0]
        count = -(-(length - self.window_px) // self.stride_px) + 1
        return [min(k * self.stride_px, length - self.window_px) for k in range(count)]

    def boxes(self, height: int, width: int) -> tuple[Box, ...]:
        """All windows, row by row."""
        side = self.window_px or max(height, width)
        return tuple(
            Box(top, left, min(top + side, height), min(left + side, width))
            for top in self.starts(height)
            for left in self.starts(width)
        )


def cut(image: "Tensor", boxes: tuple[Box, ...]) -> "Tensor":
    """Windows of an image: ``(C, H, W)`` -> ``(len(boxes), C, h, w)``, same dtype."""
    import torch  # here: protocols use the geometry without it

    return torch.stack([image[:, b.top : b.bottom, b.left : b.right] for b in boxes])
