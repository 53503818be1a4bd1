"""The keep-ratio resize of mmseg (spec: datasets and protocols, 6.1): OpenCV bilinear, no antialias."""

import cv2
import numpy as np

from ..datasets.loader import Pixels


def resized_size(height: int, width: int, short_side_px: int, long_side_px: int = 2048) -> tuple[int, int]:
    """New (height, width): scaled by ``min(long / max side, short / min side)`` and rounded half up.

    A short side of 0 keeps the size, unless the long side is too long.

    >>> resized_size(375, 500, 336)
    (336, 448)
    """
    factor = long_side_px / max(height, width)
    factor = min(factor, short_side_px / min(height, width) if short_side_px else 1.0)
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_image(image: Pixels, short_side_px: int, long_side_px: int = 2048) -> Pixels:
    """``(H, W, 3)`` uint8 -> ``(h, w, 3)`` uint8."""
    height, width = resized_size(image.shape[0], image.shape[1], short_side_px, long_side_px)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
