"""Photo: an image while it is worked on, resized as each protocol asks."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...datasets.loader import Pixels
from ...methods.core.picture import Memo, Picture
from ..protocol.protocol import Setting
from ..protocol.resize import resize_image


@dataclass(frozen=True, eq=False)
class Photo:
    """An image ``(H, W, 3)`` uint8 RGB with its id, and what was computed of it already."""

    image: Pixels
    name: str = ""
    memo: Memo = field(default_factory=Memo, repr=False)

    def pictures(self, setting: Setting) -> list[Picture]:
        """What a method gets under a protocol: the resized image in its columns, left to right."""
        limits = (setting.short_side_px, setting.long_side_px, setting.resize, setting.size_multiple_px)
        small = self.memo.once(("resize", limits), lambda: resize_image(self.image, *limits))
        columns = [np.array_split(pixels, setting.columns, axis=1) for pixels in (small, self.image)]
        return [
            Picture(
                _tensor(pixels),
                _tensor(original),
                f"{self.name}#{number}" if number else self.name,
                self.memo,
                view=(limits, setting.columns, number),
                part=(setting.columns, number),
            )
            for number, (pixels, original) in enumerate(zip(*columns, strict=True))
        ]


def _tensor(pixels: Pixels) -> Tensor:
    """``(H, W, 3)`` -> ``(3, H, W)``; a view of the pixels where they can be one."""
    usable = pixels.flags.writeable and pixels.flags.c_contiguous
    return torch.from_numpy(pixels if usable else pixels.copy()).permute(2, 0, 1)
