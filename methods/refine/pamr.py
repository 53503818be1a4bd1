"""PAMR: pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020, arXiv:2005.08104).

    a_nb = softmax over nb of  mean over RGB of  -|I_p - I_nb| / (1e-8 + 0.1 * std)
    L   <- sum over nb of a_nb * L_nb,   ``steps`` times

The neighbours of a pixel are the eight around it at each dilation, itself not included.  ``std`` is the unbiased
standard deviation, per channel, over the 3x3 patches of all dilations together, centres included (18 samples for two
dilations).  Beyond the border the nearest pixel is repeated.  Everything is float32.  As in
wangf3014/SCLIP, pamr.py.

The affinities depend on the image only and are made once.  Maps then pass through a few planes at a time in two padded
buffers, as multiply-adds of shifted views: no stack of neighbours ever exists, and the planes are independent, so that
the caller may stream over queries in chunks of any size.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_PLANES = 8  # planes that share one pass over the affinities
_STRIP_PX = 20_000  # on a CPU: pixels of a strip, so that affinities and planes of a strip stay in the L2 cache


class Pamr:
    """PAMR with the affinities of one image.

    ``image`` is ``(3, h, w)`` uint8 RGB, the resized input of the method; it is normalised with ``mean`` and ``std``
    (of RGB in [0, 1]), padded with zeros by ``padding`` (left, right, top, bottom) px, and resized bilinearly to
    ``size``, (height, width) of the output.  The affinities take ``8 * len(dilations)`` float32 maps of ``size`` on the
    image's device.
    """

    def __init__(
        self,
        image: Tensor,
        size: tuple[int, int],
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        steps: int = 10,
        dilations: tuple[int, ...] = (8, 16),
        align_corners: bool = False,
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> None:
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(f"Pamr takes (3, h, w) uint8, not {tuple(image.shape)} {image.dtype}")
        if steps < 0 or not dilations or min(dilations) < 1:
            raise ValueError(f"Pamr needs steps >= 0 and dilations >= 1, not {steps} and {dilations}")
        self.size, self.steps, self.dilations = size, steps, dilations
        centre, spread = (torch.tensor(tuple(v), device=image.device).view(3, 1, 1) for v in (mean, std))
        pixels = F.pad((image.float() / 255 - centre) / spread, padding)
        for axis, side in enumerate(size, start=1):
            pixels = _resize_axis(pixels, axis, side, align_corners)
        self.affinity = affinity(pixels, dilations)

    @torch.no_grad()
    def __call__(self, maps: Tensor) -> Tensor:
        """Refined maps: ``(k, H', W')`` float32 -> ``(k, H, W)`` float32.

        Maps of another size are resized first, bilinearly with align_corners True.  The argument is left as it is.
        """
        if maps.ndim != 3 or maps.dtype != torch.float32:
            raise ValueError(f"Pamr refines (k, H, W) float32, not {tuple(maps.shape)} {maps.dtype}")
        refined = torch.empty(len(maps), *self.size, device=maps.device)
        for chunk, out in zip(torch.split(maps, _PLANES), torch.split(refined, _PLANES), strict=True):
            out.copy_(self._refine(chunk))
        return refined

    def _refine(self, maps: Tensor) -> Tensor:
        if maps.shape[1:] != self.size:
            maps = F.interpolate(maps[None], self.size, mode="bilinear", align_corners=True)[0]
        (height, width), reach = self.size, max(self.dilations)
        source = maps.new_empty(len(maps), height + 2 * reach, width + 2 * reach)
        target = torch.empty_like(source)
        inside = (slice(None), slice(reach, reach + height), slice(reach, reach + width))
        source[inside] = maps
        for _ in range(self.steps):
            _repeat_border(source, reach)
            self._step(source, target, reach)
            source, target = target, source
        return source[inside]

    def _step(self, source: Tensor, target: Tensor, reach: int) -> None:
        """One iteration, from the padded ``source`` into the inside of the padded ``target``."""
        height, width = self.size
        rows = max(1, _STRIP_PX // width) if source.device.type == "cpu" else height
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            weights = self.affinity[:, top:bottom]
            out = target[:, reach + top : reach + bottom, reach : reach + width].zero_()
            for weight, (dy, dx) in zip(weights, offsets(self.dilations), strict=True):
                y, x = reach + dy, reach + dx
                out.addcmul_(source[:, y + top : y + bottom, x : x + width], weight)


@torch.no_grad()
def affinity(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Weights of the neighbours: ``(3, H, W)`` float32 -> ``(8 * len(dilations), H, W)`` float32, sum 1 over the first.

    Order: by dilation, then row by row.  The deviation is computed from differences to the centre: shifting samples
    leaves it as it is, and in flat regions nothing cancels.
    """
    height, width = image.shape[1:]
    reach, samples = max(dilations), 9 * len(dilations)
    padded = F.pad(image[None], (reach, reach, reach, reach), mode="replicate")[0]

    def differences() -> Iterator[Tensor]:
        for dy, dx in offsets(dilations):
            y, x = reach + dy, reach + dx
            yield padded[:, y : y + height, x : x + width] - image

    mean = torch.zeros_like(image)
    for difference in differences():
        mean += difference
    mean /= samples  # the centres differ from themselves by 0, once per dilation
    squares = len(dilations) * mean**2
    for difference in differences():
        squares += (difference - mean) ** 2
    scale = 1e-8 + 0.1 * (squares / (samples - 1)).sqrt()
    return torch.stack([-(d.abs() / scale).mean(dim=0) for d in differences()]).softmax(dim=0)


def _resize_axis(x: Tensor, axis: int, size: int, align_corners: bool) -> Tensor:
    """Bilinear along one axis, as ``a + (b - a) * t``.

    In this form flat regions stay exactly flat.  The weights of ``F.interpolate`` leave noise of one rounding there,
    different for each number of threads, which the deviation of about 1e-7 in the denominator blows up to a difference
    of 0.7 in the affinities.
    """
    source = x.shape[axis]
    position = torch.arange(size, dtype=torch.float64)
    if align_corners:
        position *= (source - 1) / max(size - 1, 1)
    else:
        position = ((position + 0.5) * source / size - 0.5).clamp(min=0)
    low = position.floor().long().clamp(max=source - 1)
    share = (position - low).float().to(x.device).view([-1 if k == axis else 1 for k in range(x.ndim)])
    below = x.index_select(axis, low.to(x.device))
    above = x.index_select(axis, (low + 1).clamp(max=source - 1).to(x.device))
    return below + (above - below) * share


def offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    """How far down and right of a pixel its neighbours are, in the order of the affinities."""
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    return [(y * d, x * d) for d in dilations for y, x in around]


def _repeat_border(padded: Tensor, reach: int) -> None:
    """Fill the outer ``reach`` rows and columns with the nearest inner pixel, in place."""
    padded[:, :, :reach] = padded[:, :, reach : reach + 1]
    padded[:, :, -reach:] = padded[:, :, -reach - 1 : -reach]
    padded[:, :reach] = padded[:, reach : reach + 1]
    padded[:, -reach:] = padded[:, -reach - 1 : -reach]
