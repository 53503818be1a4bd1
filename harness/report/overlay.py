"""Label maps as pictures: painted, or over a photo."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ...datasets.loader import Pixels
from ..show.colours import GREY, Colour

_STRIP_ROWS = 256
_HEAT = ((10, 5, 40), (95, 20, 110), (185, 55, 85), (245, 125, 20), (250, 245, 165))
"""Dark to light, so that the order is seen in grey and by colour-blind people too."""


def paint(labels: NDArray[np.integer], colours: Sequence[Colour]) -> Pixels:
    """Label map ``(H, W)`` -> colours ``(H, W, 3)`` uint8; values without a colour (ignored pixels) are grey."""
    table = np.array([*colours, GREY], np.uint8)
    return table[np.minimum(labels.astype(np.int64), len(colours))]


def overlay(image: Pixels, labels: NDArray[np.integer], colours: Sequence[Colour]) -> Pixels:
    """The photo with classes mixed in at 55 % and their borders drawn in white, ``(H, W, 3)`` uint8."""
    return np.concatenate([strip for _, strip in overlay_strips(image, labels, colours)])


def overlay_strips(
    image: Pixels, labels: NDArray[np.integer], colours: Sequence[Colour]
) -> Iterator[tuple[int, Pixels]]:
    """``overlay`` a few rows at a time, each with its first row: a large photo needs no second and third copy."""
    for top in range(0, len(image), _STRIP_ROWS):
        above = max(0, top - 1)  # borders need the row before
        rows = labels[above : top + _STRIP_ROWS]
        mixed = (0.45 * image[above : top + _STRIP_ROWS] + 0.55 * paint(rows, colours)).astype(np.uint8)
        border = np.zeros(rows.shape, bool)
        border[:, 1:] |= rows[:, 1:] != rows[:, :-1]
        border[1:] |= rows[1:] != rows[:-1]
        mixed[border] = 255
        yield top, mixed[top - above :]


def heat_overlay(image: Pixels, heat: NDArray[np.floating]) -> Pixels:
    """A map ``(H, W)`` over the photo in grey, from its lowest value (dark) to its highest, ``(H, W, 3)`` uint8."""
    low, high = float(heat.min()), float(heat.max())
    level = (heat - low) / (high - low) if high > low else np.zeros(heat.shape)
    steps = np.linspace(0, 1, len(_HEAT))
    colour = np.stack([np.interp(level, steps, channel) for channel in np.array(_HEAT).T], axis=-1)
    grey = image.mean(axis=-1, keepdims=True)
    return np.asarray(0.3 * grey + 0.7 * colour, np.uint8)
