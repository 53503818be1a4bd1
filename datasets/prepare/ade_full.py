"""ADE20K in full, release 2021_17_01: labels are coded in the colours of ``*_seg.png``; its pickled index is not used.

The object number of a pixel is ``red // 10 * 256 + green``.  It counts from 1 (0 is unlabelled), while the lists of
names in the release's index are usually read from 0: number 165 is "bed", entry 164 of the list (issue 15 of
CSAILVision/ADE20K).  The table of the 847 classes uses the numbers of the pixels: 165 is bed, 2978 is wall.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, Problem
from .driver import Step, carry_out
from .files import encode_image, encode_label, read_pixels, same_size
from .job import Job, Options, read_options
from .tables import Table, relabel


class AdeOptions(Options):
    """Images are the files of ``pattern`` below the folder ``images``, in folders of scenes.

    Objects that ``table`` does not hold become ``other``.  Larger images are shrunk to ``short_side_px``.
    """

    images: str = "images/ADE/validation"
    pattern: str = "ADE_val_*.jpg"
    table: Table
    other: int = 65535
    short_side_px: int = 512


def ade_full(job: Job) -> None:
    """Write ``images/<stem>.jpg`` and ``labels/<stem>.tif`` (16 bits), both shrunk where they are larger.

    Images that are not larger are compressed anew as well: so do the published scripts, and scores should compare.
    """
    options = read_options(job, AdeOptions)
    folder = job.home / options.images
    found = sorted(folder.rglob(options.pattern))
    if not found:
        what = "there is no such file below this folder" if folder.is_dir() else "this folder does not exist"
        fix = "It comes with the archive ADE20K_2021_17_01 (the full data set, not ADEChallengeData2016)"
        raise DataError(f"the images {options.pattern} are not there:", [Problem(folder, what, fix)])
    mapping = options.table.mapping()
    steps = []
    for image in found:
        label = image.with_name(f"{image.stem}_seg.png")
        steps.append(Step(image.stem, (image, label), partial(_convert, image, label, options, mapping)))
    carry_out(job, "ade_full", options, steps, options.table.files())


def _convert(image: Path, label: Path, options: AdeOptions, mapping: dict[int, int]) -> dict[str, bytes]:
    pixels, coded = read_pixels(image, "RGB"), read_pixels(label, "RGB").astype(np.uint16)
    same_size(image, label, (pixels.shape, coded.shape))
    values = relabel(label, coded[..., 0] // 10 * 256 + coded[..., 1], mapping, options.other)
    pixels, values = _shrink(pixels, values, options.short_side_px)
    return {
        f"images/{image.stem}.jpg": encode_image(pixels, ".jpg"),
        f"labels/{image.stem}.tif": encode_label(label, values, ".tif"),
    }


def _shrink(
    pixels: NDArray[np.uint8], values: NDArray[np.uint16], short_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Both to the short side ``short_px`` if it is longer: bilinear without antialiasing, and nearest."""
    h, w = values.shape
    if min(h, w) <= short_px:
        return pixels, values
    size = (round(w / h * short_px), short_px) if w >= h else (short_px, round(h / w * short_px))
    smaller = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return smaller, np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST), np.uint16)
