"""A graph between pixels that are near each other: those of about the same colour belong together."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_STRIP_PX = 20_000  # on a CPU: pixels of a strip, so that weights and planes of a strip stay in its cache
_D65 = (0.95047, 1.0, 1.08883)
_FROM_SRGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))


@dataclass(frozen=True)
class PixelGraph:
    """W of ``pixel_graph``.

    ``weights`` ``(K, H, W)`` float32 are between each pixel and the one at each of K ``steps`` (rows down, columns
    right; half of a box, the graph is symmetric), 0 where that lies outside.
    """

    weights: Tensor
    steps: tuple[tuple[int, int], ...]

    def product(self, maps: Tensor) -> Tensor:
        """W times each of ``maps`` ``(Q, H, W)`` float64."""
        height, width = maps.shape[1:]
        rows = max(1, _STRIP_PX // width) if maps.device.type == "cpu" else height
        out = torch.zeros_like(maps)
        for top in range(0, height, rows):
            for weight, step in zip(self.weights, self.steps, strict=True):
                here, there = _pairs(step, range(top, min(top + rows, height)), height, width)
                w = weight[here[1:]].double()
                out[here].addcmul_(w, maps[there])
                out[there].addcmul_(w, maps[here])
        return out


def pixel_graph(colours: Tensor, box_px: int, tau: float) -> PixelGraph:
    """W between each pixel of ``colours`` ``(3, H, W)`` float32 and the others of the box of ``box_px`` around it.

        W = S^-1/2 A S^-1/2,    A_ij = exp(-|c_i - c_j| / tau),   S the row sums

    It takes ``2 (box_px^2 - 1)`` bytes a pixel.
    """
    height, width = colours.shape[1:]
    steps = tuple(_half_box(box_px // 2))
    weights = colours.new_zeros(len(steps), height, width)
    sums = colours.new_zeros(height, width)
    for weight, step in zip(weights, steps, strict=True):
        here, there = _pairs(step, range(height), height, width)
        alike = torch.exp(((colours[here] - colours[there]) ** 2).sum(dim=0).sqrt() / -tau)
        weight[here[1:]] = alike
        sums[here[1:]] += alike
        sums[there[1:]] += alike
    root = torch.where(sums > 0, sums, 1).rsqrt()
    for weight, step in zip(weights, steps, strict=True):
        here, there = _pairs(step, range(height), height, width)
        weight[here[1:]] *= root[here[1:]] * root[there[1:]]
    return PixelGraph(weights, steps)


def lab(rgb: Tensor) -> Tensor:
    """sRGB ``(3, H, W)`` float32 in [0, 1] -> CIE Lab under D65, L / 100, a / 128 and b / 128."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix, white = linear.new_tensor(_FROM_SRGB), linear.new_tensor(_D65).view(3, 1, 1)
    xyz = torch.einsum("ij,jhw->ihw", matrix, linear) / white
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 4 / 29)
    return torch.stack([(116 * y - 16) / 100, 500 * (x - y) / 128, 200 * (y - z) / 128])


def _half_box(reach: int) -> Iterator[tuple[int, int]]:
    for dy in range(reach + 1):
        for dx in range(-reach, reach + 1):
            if (dy, dx) > (0, 0):
                yield dy, dx


def _pairs(step: tuple[int, int], rows: range, height: int, width: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where pixels of these rows are that have one at ``step``, and where those are, in ``(Q, H, W)``."""
    dy, dx = step
    count, size = max(min(rows.stop, height - dy) - rows.start, 0), max(width - abs(dx), 0)
    left, right = max(-dx, 0), max(dx, 0)
    here = (slice(None), slice(rows.start, rows.start + count), slice(left, left + size))
    return here, (slice(None), slice(rows.start + dy, rows.start + dy + count), slice(right, right + size))
