"""The keep-ratio resize of mmseg, with the kernels that protocols use.

Sizes are those of open-mmlab/mmcv, mmcv/image/geometric.py.  OpenCV's kernel looks at the nearest pixels only, also
when it shrinks; Pillow's kernels widen with the factor (antialias).  They differ most when an image shrinks a lot.
"""

from typing import Literal

import cv2
import numpy as np
from PIL import Image

from ...datasets.loader import Pixels

ResizeKind = Literal["opencv-linear", "pillow-linear", "pillow-bicubic"]
_PILLOW = {"pillow-linear": Image.Resampling.BILINEAR, "pillow-bicubic": Image.Resampling.BICUBIC}


def resized_size(
    height: int, width: int, short_side_px: int, long_side_px: int = 2048, multiple_px: int = 0
) -> tuple[int, int]:
    """New (height, width): scaled by ``min(long / max side, short / min side)`` and rounded half up.

    A short side of 0 keeps the size, unless the long side is too long.  With ``multiple_px`` each side is rounded half
    up to a multiple of it, and is at least one: the ratio of the sides changes a little (as
    in the released code of CLIPer, linsun449/cliper.code).

    >>> resized_size(375, 500, 336)
    (336, 448)
    >>> resized_size(333, 500, 336, multiple_px=14)
    (336, 504)
    """
    factor = long_side_px / max(height, width)
    factor = min(factor, short_side_px / min(height, width) if short_side_px else 1.0)
    step = multiple_px or 1
    new_height, new_width = (max(1, int(side * factor / step + 0.5)) * step for side in (height, width))
    return new_height, new_width


def resize_image(
    image: Pixels,
    short_side_px: int,
    long_side_px: int = 2048,
    kind: ResizeKind = "opencv-linear",
    multiple_px: int = 0,
) -> Pixels:
    """``(H, W, 3)`` uint8 -> ``(h, w, 3)`` uint8 of ``resized_size``; the image itself if that is its size."""
    height, width = resized_size(image.shape[0], image.shape[1], short_side_px, long_side_px, multiple_px)
    if (height, width) == image.shape[:2]:
        return image
    if kind == "opencv-linear":
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(Image.fromarray(image).resize((width, height), _PILLOW[kind]))
