"""Colours that tell classes apart."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
GREY: Colour = (128, 128, 128)
"""Pixels of no class, and ignored ones."""

_LEVELS = 20
"""Values per channel among which colours are looked for."""
_AVOIDED = ((0, 0, 0), (255, 255, 255), GREY)
"""Frames and text, borders and paper, ignored pixels."""
_LIGHTNESS, _CHROMA = (30.0, 88.0), 25.0
"""Darker, lighter and greyer colours are hard to tell apart over a photo."""


@cache
def class_colours(count: int) -> tuple[Colour, ...]:
    """``count`` colours as RGB, each as far from all before it as can be (CIELAB, D65); the first few are the same for
    any ``count``.

    They repeat after some thousands.
    """
    levels = np.linspace(0, 255, _LEVELS).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(colours)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1]) & (chroma > _CHROMA)
    colours, lab = colours[usable], lab[usable]
    nearest = np.min([_distance(lab, one) for one in _lab(np.array(_AVOIDED, np.uint8))], axis=0)
    chosen: list[int] = []
    for _ in range(min(count, len(colours))):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _distance(lab, lab[chosen[-1]]))
    found = [(int(r), int(g), int(b)) for r, g, b in colours[chosen]]
    return tuple(found[k % len(found)] for k in range(count))


def _distance(lab: NDArray[np.float64], one: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(lab - one, axis=1))


def _lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB ``(N, 3)`` -> CIE L*a*b* of 1976 with white D65."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear @ np.array(matrix).T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)
