"""Reading images and labels: one rule for every data set.

A label is one plane of indices with up to 16 bits, never colours, since classes may share one.  (The stock
loader of mmsegmentation 1.2.2, mmseg/datasets/transforms/loading.py, casts to 8 bits and wraps the rest.)
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .errors import DataError, Problem
from .files import UNREADABLE, RefusedError, lossy_form, opened_image, read_content
from .record import DatasetRecord

Pixels = NDArray[np.uint8]
Labels = NDArray[np.uint8] | NDArray[np.uint16]
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
"""Tag of EXIF; the orientations that exchange height and width."""
_STRIP_ROWS = 1024
_SMALL_PIXELS = 1 << 20
"""Copies of smaller pictures are no burden, and cutting strips out takes longer."""
_LOSSY = "Make it again from the original as PNG: saving this file as PNG does not bring the values back"
_ROWS = 256
"""Rows of a label that are hashed at a time, so that a large one needs no second copy."""


@dataclass(frozen=True)
class ImageFile:
    """What an image file holds: SHA-256 of its bytes, size after its EXIF orientation, and that orientation (1: none).

    ``pixels`` are there if they were asked for.
    """

    sha256: str
    height: int
    width: int
    orientation: int
    pixels: Pixels | None = None


@dataclass(frozen=True)
class LabelFile:
    """What a label file holds: ``label_digest`` of it, and class indices as scored."""

    sha256: str
    values: Labels


@dataclass(frozen=True)
class FileKey:
    """Which file's content is meant; ``reader`` tells apart who reads a label in a way of their own."""

    kind: Literal["image", "label"]
    path: Path
    reader: int = 0


def read_image(path: Path) -> Pixels:
    """RGB pixels ``(H, W, 3)`` uint8; grey images become three equal channels, EXIF orientation is applied.

    Raises ``DataError`` for a file that is missing, truncated, no image or larger than ``files.MAX_PIXELS``.
    """
    pixels = read_image_file(path).pixels
    assert pixels is not None
    return pixels


def read_image_file(path: Path, decode: bool = True) -> ImageFile:
    """The image file, read once; without ``decode`` only its bytes are hashed and its header is looked at.

    Raises ``DataError`` as ``read_image`` does; a file cut short is noticed by decoding only.
    """
    try:
        content = read_content(path)
        with opened_image(content) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode} has more than 8 bits per channel; convert it to 8 bits first")
            orientation = int(image.getexif().get(_ORIENTATION, 1))
            width, height = image.size if orientation not in _TURNED else image.size[::-1]
            pixels = _rgb(image) if decode else None
    except UNREADABLE as error:
        raise DataError("an image cannot be read:", [_unreadable(path, error)]) from error
    return ImageFile(hashlib.sha256(content).hexdigest(), height, width, orientation, pixels)


def _rgb(image: Image.Image) -> Pixels:
    """Upright pixels ``(H, W, 3)``, without the copies that Pillow makes of what needs no change."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode != "RGB":
        image = image.convert("RGB")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    if image.width * image.height <= _SMALL_PIXELS:
        pixels[:] = np.asarray(image)
        return pixels
    for top in range(0, image.height, _STRIP_ROWS):  # an array of the whole would be made by way of two more copies
        bottom = min(top + _STRIP_ROWS, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def label_digest(label: Labels) -> str:
    """SHA-256 of the shape and the class indices as 16-bit little-endian numbers, whatever type holds them."""
    digest = hashlib.sha256(f"{label.shape[0]}x{label.shape[1]}\n".encode())
    for start in range(0, label.shape[0], _ROWS):
        digest.update(np.ascontiguousarray(label[start : start + _ROWS], "<u2").data)
    return digest.hexdigest()


def read_label_file(path: Path, record: DatasetRecord) -> LabelFile:
    """``read_label`` with its digest."""
    label = read_label(path, record)
    return LabelFile(label_digest(label), label)


def read_label(path: Path, record: DatasetRecord) -> Labels:
    """Class indices ``(H, W)``, uint8 or uint16, after ``label_map`` and ``first_label``; never wrapped modulo 256.

    Raises ``DataError`` for a file that is missing, truncated or encoded otherwise than the record says, and for any
    value that is neither a class nor ``ignore_index``.
    """
    try:
        content = read_content(path)
        lossy = lossy_form(content)
        if lossy:
            raise RefusedError(
                f"the label is compressed with loss ({lossy}), so its values are not those that were drawn", _LOSSY
            )
        with opened_image(content) as image:
            stored = _stored_values(path, image, record)
    except UNREADABLE as error:
        raise DataError("a label cannot be read:", [_unreadable(path, error)]) from error
    label = _shifted(_renamed(path, stored, record), record)
    wrong = (label >= len(record.classes)) & (label != record.ignore_index)
    if wrong.any():
        first = record.first_label
        allowed = f"a class ({first} to {first + len(record.classes) - 1}) nor {record.ignore_index}"
        values = [int(v) for v in np.unique(stored[wrong])]
        what = f"label values {_shown(values)} are neither {allowed}"
        fix = _likely_fix(values, stored, record) + record.out_of_range
        raise DataError("a label has values out of range:", [Problem(path, what, fix)])
    if max(len(record.classes) - 1, record.ignore_index) < 256:
        return label.astype(np.uint8, copy=False)
    return label.astype(np.uint16, copy=False)


def _likely_fix(wrong: list[int], stored: Labels, record: DatasetRecord) -> str:
    """Advice for the two usual cases: a mask of 0 and 255, and classes that are counted from 1."""
    last = len(record.classes) - 1
    if record.label_encoding != "index" or record.label_map or record.first_label:
        return ""
    if wrong == [255] and last == 1 and not (stored == 1).any():
        return "If 255 is the second class, set label_map = { 255 = 1 }. "
    if wrong == [last + 1] and stored.all():
        return "If values count from 1, set first_label = 1. "
    return ""


def _stored_values(path: Path, image: Image.Image, record: DatasetRecord) -> Labels:
    if record.label_encoding == "colour":
        return _indices_of_colours(path, np.asarray(image.convert("RGB")), record)
    if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        what = f"the label has mode {image.mode}, not one channel of indices"
        fix = 'If labels are colours, set label_encoding = "colour" and a palette'
        raise DataError("a label is encoded otherwise than its data set says:", [Problem(path, what, fix)])
    if len(record.classes) > 256 and image.mode in ("1", "L", "P"):
        what = f"the label has 8 bits, too few for {len(record.classes)} classes: higher values were cut off"
        problem = Problem(path, what, record.out_of_range)
        raise DataError("a label is encoded otherwise than its data set says:", [problem])
    values = np.asarray(image)
    if values.dtype in (np.bool_, np.uint8):
        return values.astype(np.uint8)
    if values.size and (int(values.min()) < 0 or int(values.max()) > 65535):
        raise ValueError(f"values from {values.min()} to {values.max()} do not fit 16 bits")
    return values.astype(np.uint16)


def _indices_of_colours(path: Path, pixels: Pixels, record: DatasetRecord) -> NDArray[np.uint16]:
    assert record.palette is not None
    weights = np.array([1 << 16, 1 << 8, 1], np.uint32)
    codes = pixels.astype(np.uint32) @ weights
    index = {int(np.array(c, np.uint32) @ weights): i for i, c in enumerate(record.palette)}
    index.setdefault(0, record.ignore_index)  # black is "unlabelled" wherever it is no class
    found, inverse = np.unique(codes, return_inverse=True)
    unknown = [int(c) for c in found if int(c) not in index]
    if unknown:
        shown = ", ".join(f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in unknown[:5])
        fix = "Add the colour to the palette, or check that labels were not saved as JPEG"
        raise DataError("a label has unknown colours:", [Problem(path, f"colours {shown} are not in the palette", fix)])
    return np.array([index[int(c)] for c in found], np.uint16)[inverse].reshape(codes.shape)


def _renamed(path: Path, stored: Labels, record: DatasetRecord) -> Labels:
    if not record.label_map:
        return stored
    if record.only_mapped:
        unknown = [int(v) for v in np.unique(stored) if int(v) not in record.label_map]
        if unknown:
            what = f"label values {_shown(unknown)} are not in the table of stored values"
            raise DataError("a label has values out of range:", [Problem(path, what, record.out_of_range)])
    table = np.arange(65536, dtype=np.uint16)
    table[list(record.label_map)] = list(record.label_map.values())
    return table[stored]


def _shifted(label: Labels, record: DatasetRecord) -> Labels:
    """Count classes from 0; what lies below the first class is ignored."""
    if not record.first_label:
        return label
    outside = (label < record.first_label) | (label == record.ignore_index)
    return np.where(outside, record.ignore_index, label.astype(np.uint16) - record.first_label).astype(np.uint16)


def _shown(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (" ..." if len(values) > 8 else "")


def _unreadable(path: Path, error: Exception) -> Problem:
    if isinstance(error, FileNotFoundError):
        return Problem(path, "the file does not exist", "Check the data root")
    if isinstance(error, RefusedError):
        return Problem(path, str(error), error.fix)
    return Problem(path, f"the file cannot be decoded ({error})", "Copy or download it again")
