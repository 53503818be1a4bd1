"""Photo: an image while it is worked on, resized as each protocol asks."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...datasets.loader import Pixels
from ...methods.core.picture import Memo, Picture
from ..protocol.protocol import Setting
from ..protocol.resize import ResizeKind, resize_image

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Photo:
    """An image ``(H, W, 3)`` uint8 RGB with its id, and what was computed of it already."""

    image: Pixels
    name: str = ""
    memo: Memo = field(default_factory=Memo, repr=False)

    def prepare(self, setting: Setting, device: str | torch.device = _CPU) -> None:
        """Do what ``pictures`` keeps in the memo."""
        if torch.device(device).type == "cuda":
            self.pictures(setting, device)
        else:
            self._resized(setting)

    def pictures(self, setting: Setting, device: str | torch.device = _CPU) -> list[Picture]:
        """What a method gets under a protocol: the resized image in its columns, left to right.

        On a GPU, when that is the ``device``, are the resized pixels alone.
        """
        limits = _limits(setting)
        columns = [np.array_split(pixels, setting.columns, axis=1) for pixels in (self._resized(setting), self.image)]
        return [
            Picture(
                self._on(device, _tensor(pixels), (limits, setting.columns, number)),
                _tensor(original),
                f"{self.name}#{number}" if number else self.name,
                self.memo,
                view=(limits, setting.columns, number),
                part=(setting.columns, number),
            )
            for number, (pixels, original) in enumerate(zip(*columns, strict=True))
        ]

    def _resized(self, setting: Setting) -> Pixels:
        limits = _limits(setting)
        return self.memo.once(("resize", limits), lambda: resize_image(self.image, *limits))

    def _on(self, device: str | torch.device, pixels: Tensor, view: Hashable) -> Tensor:
        place = torch.device(device)
        if place.type != "cuda":
            return pixels
        return self.memo.once(("moved", view, place), lambda: _moved(pixels, place))


def _limits(setting: Setting) -> tuple[int, int, ResizeKind, int]:
    return setting.short_side_px, setting.long_side_px, setting.resize, setting.size_multiple_px


def _moved(pixels: Tensor, device: torch.device) -> Tensor:
    """Pixels on a GPU.

    They go by pinned memory and a stream of their own: whoever calls waits for the copy, and not for the queue of the
    model, which goes on meanwhile.
    """
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        moved = pixels.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    moved.record_stream(torch.cuda.current_stream(device))  # its memory is not given away while the model reads it
    return moved


def _tensor(pixels: Pixels) -> Tensor:
    """``(H, W, 3)`` -> ``(3, H, W)``; a view of the pixels where they can be one."""
    usable = pixels.flags.writeable and pixels.flags.c_contiguous
    return torch.from_numpy(pixels if usable else pixels.copy()).permute(2, 0, 1)
