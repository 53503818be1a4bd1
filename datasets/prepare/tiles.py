"""Tiles: large images and labels, cut into squares that do not overlap (aerial sets of MESS)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .driver import Step, carry_out
from .files import encode_image, encode_label, find_stems, read_index, read_pixels, same_size
from .job import Job, Options, read_options

V = TypeVar("V", np.uint8, np.uint16)


class TileOptions(Options):
    """Folders and suffixes of images and index labels; ``size_px`` is the side of a tile.

    Tiles of images are written with ``target_suffix``, PNG or (compressed anew) JPEG.
    """

    images: str
    image_suffix: str = ".jpg"
    labels: str
    label_suffix: str = ".png"
    size_px: int = 1024
    target_suffix: str = ".png"


def tile(job: Job) -> None:
    """Write ``images/<stem>_<k>`` and ``labels/<stem>_<k>.png``, k = 0, 1 ... row by row.

    Tiles at the right and lower border are filled up: images with 0, labels with 255.
    """
    options = read_options(job, TileOptions)
    steps = []
    for stem in find_stems(job.home / options.images, options.image_suffix):
        image = job.home / options.images / f"{stem}{options.image_suffix}"
        label = job.home / options.labels / f"{stem}{options.label_suffix}"
        steps.append(Step(stem, (image, label), partial(_cut, stem, image, label, options)))
    carry_out(job, "tile", options, steps)


def _cut(stem: str, image: Path, label: Path, options: TileOptions) -> dict[str, bytes]:
    pixels, values = read_pixels(image, "RGB"), read_index(label)
    same_size(image, label, (pixels.shape, values.shape))
    parts = zip(_tiles(pixels, options.size_px, 0), _tiles(values, options.size_px, 255), strict=True)
    out = {}
    for k, (part, part_label) in enumerate(parts):
        out[f"images/{stem}_{k}{options.target_suffix}"] = encode_image(part, options.target_suffix)
        out[f"labels/{stem}_{k}.png"] = encode_label(label, part_label, ".png")
    return out


def _tiles(array: NDArray[V], size: int, fill: int) -> Iterator[NDArray[V]]:
    """Squares of an array (H, W) or (H, W, 3), row by row."""
    h, w = array.shape[:2]
    for top in range(0, h, size):
        for left in range(0, w, size):
            part = array[top : top + size, left : left + size]
            border = [(0, size - part.shape[0]), (0, size - part.shape[1])] + [(0, 0)] * (array.ndim - 2)
            yield np.pad(part, border, constant_values=fill)
