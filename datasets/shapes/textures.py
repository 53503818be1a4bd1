"""Stuff of the tiny world: eight textures, drawn on any square size.

Every operation is one that IEEE 754 rounds exactly (+ - * / sqrt floor, comparisons), so pixels are the same on every
machine: no library sine, no matrix product whose order of summation depends on the processor.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .stream import Array, Stream

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.15, 0.12),
    "orange": (0.95, 0.55, 0.10),
    "yellow": (0.95, 0.87, 0.20),
    "green": (0.20, 0.65, 0.25),
    "blue": (0.15, 0.30, 0.85),
    "purple": (0.55, 0.20, 0.70),
    "pink": (0.95, 0.50, 0.70),
    "white": (0.95, 0.95, 0.95),
    "black": (0.10, 0.10, 0.10),
    "brown": (0.45, 0.27, 0.12),
    "gray": (0.50, 0.50, 0.50),
    "cyan": (0.20, 0.80, 0.85),
}


@lru_cache
def grid(size: int) -> tuple[Array, Array]:
    """Pixel centres ``(y, x)`` in [0, 1], each ``(size, size)``."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    return (y + 0.5) / size, (x + 0.5) / size


@lru_cache
def _knots(count: int, size: int) -> tuple[NDArray[np.int64], Array]:
    position = (np.arange(size) + 0.5) / size * (count - 1)
    index = np.minimum(position.astype(np.int64), count - 2)
    t = position - index
    return index, t * t * (3 - 2 * t)


def noise(stream: Stream, size: int, rows: int, columns: int | None = None) -> Array:
    """Smooth value noise in [-0.5, 0.5], ``(size, size)``, from a ``rows x columns`` lattice."""
    rows, columns = (max(2, min(n, size)) for n in (rows, columns or rows))
    values = stream.uniforms(rows, columns) - 0.5
    i, t = _knots(rows, size)
    values = values[i] * (1 - t)[:, None] + values[i + 1] * t[:, None]
    j, t = _knots(columns, size)
    return values[:, j] * (1 - t) + values[:, j + 1] * t


def wave(turns: Array) -> Array:
    """A sine-like wave of period 1 made of parabolas (maximum difference to sin(2 pi t): 0.06)."""
    p = turns - np.floor(turns)
    return np.where(p < 0.5, 16 * p * (0.5 - p), 16 * (p - 0.5) * (p - 1.0))


def shade(stream: Stream, colour: Sequence[float], amount: float) -> Array:
    """``colour`` moved at random by at most ``amount`` per channel, ``(3,)``."""
    return np.asarray(colour, np.float64) + (stream.uniforms(3) - 0.5) * 2 * amount


def random_colour(stream: Stream) -> str:
    """Name of a random colour."""
    return list(COLOURS)[stream.integer(0, len(COLOURS))]


def _mixed(a: Array, b: Array, t: Array) -> Array:
    return a + (b - a) * t[..., None]


def _grass(s: Stream, size: int) -> Array:
    blades = noise(s, size, 24, 64) * 0.55 + noise(s, size, 64, 96) * 0.35 + noise(s, size, 5) * 0.35
    return shade(s, (0.25, 0.52, 0.16), 0.1) * (1 + blades[..., None] * 1.1)


def _sky(s: Stream, size: int) -> Array:
    y, _ = grid(size)
    image = _mixed(shade(s, (0.3, 0.55, 0.9), 0.1), shade(s, (0.65, 0.8, 0.97), 0.08), y)
    clouds = noise(s, size, 5, 4) + 0.5 * noise(s, size, 10, 8) + 0.2 * noise(s, size, 20, 16)
    cover = np.clip((clouds + s.uniform(-0.15, 0.1)) * 4, 0, 1) * 0.9
    return _mixed(image, shade(s, (0.96, 0.96, 0.98), 0.03), cover)


def _sand(s: Stream, size: int) -> Array:
    y, _ = grid(size)
    grains = noise(s, size, 96) * 0.22 + noise(s, size, 4) * 0.12
    ripples = wave(y * s.uniform(7, 13) + noise(s, size, 5) * 1.6) * 0.05
    return shade(s, (0.83, 0.71, 0.48), 0.08) * (1 + (grains + ripples)[..., None])


def _water(s: Stream, size: int) -> Array:
    y, _ = grid(size)
    crests = wave(y * s.uniform(9, 16) + noise(s, size, 6, 7) * 2.2)
    image = shade(s, (0.1, 0.38, 0.6), 0.09) * (1 + 0.18 * crests + noise(s, size, 4) * 0.4)[..., None]
    glints = np.clip(crests - 0.75, 0, 1) * 1.2 * (noise(s, size, 12, 10) > 0)
    return image + glints[..., None] * np.array([0.8, 0.9, 0.9])


def _brick(s: Stream, size: int) -> Array:
    y, x = grid(size)
    height = 1 / s.integer(8, 14)
    width = height * s.uniform(1.8, 2.4)
    down = (y + s.uniform() * height) / height
    row = np.floor(down)
    along = (x + s.uniform()) / width + 0.5 * (row - 2 * np.floor(row / 2))
    column = np.floor(along)
    tone = s.uniforms(40, 40)[row.astype(np.int64) % 40, column.astype(np.int64) % 40]
    image = shade(s, (0.62, 0.25, 0.17), 0.09) * (0.75 + 0.5 * tone + noise(s, size, 64) * 0.2)[..., None]
    mortar = ((down - row) < 0.16) | ((along - column) < 0.08)
    return np.where(mortar[..., None], shade(s, (0.75, 0.72, 0.68), 0.06), image)


def _wood(s: Stream, size: int) -> Array:
    y, x = grid(size)
    upright = s.coin(0.5)
    across = x if upright else y
    grain = noise(s, size, 4, 40) if upright else noise(s, size, 40, 4)
    rings = wave(across * s.uniform(14, 24) + noise(s, size, 4) * 2) * 0.09
    planks = across * s.integer(3, 7)
    tone = s.uniforms(12)[np.floor(planks).astype(np.int64) % 12]
    image = shade(s, (0.55, 0.36, 0.18), 0.08) * (0.85 + 0.3 * tone + grain * 0.5 + rings)[..., None]
    gap = planks - np.floor(planks) < 0.06
    return np.where(gap[..., None], image * 0.45, image)


def _stone(s: Stream, size: int) -> Array:
    """Cells around jittered lattice points; the joint is where two points are equally near."""
    y, x = grid(size)
    n = s.integer(5, 8)
    gy, gx = np.mgrid[0 : n + 2, 0 : n + 2].astype(np.float64)
    py = (gy - 0.5 + (s.uniforms(n + 2, n + 2) - 0.5) * 0.8) / n
    px = (gx - 0.5 + (s.uniforms(n + 2, n + 2) - 0.5) * 0.8) / n
    cy, cx = (np.floor(a * n).astype(np.int64) + 1 for a in (y, x))
    nearest, second = np.full((2, size, size), 9.0)
    cell = np.zeros((size, size), np.int64)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            a, b = cy + dy, cx + dx
            distance = np.sqrt((py[a, b] - y) ** 2 + (px[a, b] - x) ** 2)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            cell = np.where(closer, a * (n + 2) + b, cell)
            nearest = np.where(closer, distance, nearest)
    tone = s.uniforms((n + 2) ** 2)[cell]
    joint = np.clip((second - nearest) * n * 5, 0, 1)
    light = (0.6 + 0.6 * tone + noise(s, size, 48) * 0.2) * (0.35 + 0.65 * joint)
    return shade(s, (0.52, 0.52, 0.54), 0.07) * light[..., None]


def _tiles(s: Stream, size: int) -> Array:
    y, x = grid(size)
    n = s.integer(5, 10)
    light = shade(s, (0.9, 0.9, 0.88), 0.08)
    dark = shade(s, COLOURS[random_colour(s)], 0.08) * 0.7 + 0.1
    down, right = y * n + s.uniform(), x * n + s.uniform()
    parity = np.floor(down) + np.floor(right)
    odd = parity - 2 * np.floor(parity / 2)
    image = _mixed(light, dark, odd) * (1 + noise(s, size, 6)[..., None] * 0.12)
    joint = (down - np.floor(down) < 0.07) | (right - np.floor(right) < 0.07)
    return np.where(joint[..., None], 0.4, image)


TEXTURES: dict[str, Callable[[Stream, int], Array]] = {
    "grass": _grass,
    "sky": _sky,
    "sand": _sand,
    "water": _water,
    "brick": _brick,
    "wood": _wood,
    "stone": _stone,
    "tiles": _tiles,
}
