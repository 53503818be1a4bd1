"""Files of data sets: finding, reading and encoding them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import text
from ..errors import DataError, Problem
from ..files import UNREADABLE, opened_image, read_content

_JPEG_QUALITY = 75  # Pillow's default, which the preparation scripts of the field use: parity of pixels
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_IGNORED = "TrainIds"  # files that other converters leave beside the sources


def find_stems(folder: Path, suffix: str) -> list[str]:
    """Paths below ``folder``, without ``suffix``, of all files that end with it, sorted.

    Hidden files and what other converters left there are skipped.  Raises ``DataError`` if there is none.
    """
    found = (p.relative_to(folder).as_posix().removesuffix(suffix) for p in folder.rglob(f"*{suffix}"))
    stems = sorted(s for s in found if _IGNORED not in s and not s.rpartition("/")[2].startswith("."))
    if not stems:
        what = f"there is no *{suffix} in this folder" if folder.is_dir() else "this folder does not exist"
        fix = f"It should hold the files *{suffix} as downloaded: check the data root, and that the archive is unpacked"
        raise DataError("the files to convert are not there:", [Problem(folder, what, fix)])
    return stems


def listed_stems(path: Path) -> list[str]:
    """Stems that a list file names, one per line: of a path only the file's stem counts; blank lines are skipped."""
    lines = [line.split() for line in read_text(path).splitlines()]
    return [Path(words[0]).stem for words in lines if words]


def read_text(path: Path) -> str:
    """Content of a text file.  Raises ``DataError`` that names it."""
    try:
        return text.read_text(path, "the file")
    except DataError as error:
        problem = Problem(path, str(error), "Copy or download it again")
        raise DataError("a file of the data set is not usable:", [problem]) from error


def read_pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    """Pixels as stored (no EXIF rotation), in ``mode`` "RGB" (H, W, 3) or "L" (H, W).

    Raises ``DataError`` for a file that is missing, damaged or has more than 8 bits per channel.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"mode {image.mode} has more than 8 bits per channel")
        return np.asarray(image.convert(mode))


def read_index(path: Path) -> NDArray[np.uint16]:
    """Indices (H, W) of a grey or palette image; raises ``DataError`` for a colour image or a damaged file."""
    with _opened(path) as image:
        if image.mode not in _INDEX_MODES:
            raise ValueError(f"mode {image.mode} is not one channel of indices")
        return checked_index(np.asarray(image))


def checked_index(values: NDArray[np.generic]) -> NDArray[np.uint16]:
    """``values`` as (H, W) uint16; raises ``ValueError`` where that would change them."""
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise ValueError(f"an array of shape {values.shape} and type {values.dtype} is no label")
    out = values.astype(np.uint16)
    if not np.array_equal(out, values):
        raise ValueError(f"values from {values.min()} to {values.max()} are not all whole numbers of 0 to 65535")
    return out


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with opened_image(read_content(path)) as image:
            yield image
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    problem = Problem(path, f"the file cannot be read ({error})", "Copy or download it again")
    return DataError("a file of the data set is not usable:", [problem])


def same_size(image: Path, label: Path, sizes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Raise ``DataError`` unless image and label have the same (height, width)."""
    (h, w), (label_h, label_w) = sizes[0][:2], sizes[1][:2]
    if (h, w) != (label_h, label_w):
        what = f"the label is {label_w}x{label_h}, its image {image.name} {w}x{h}"
        raise DataError("a label does not fit its image:", [Problem(label, what, "Download both again")])


def encode_label(path: Path, values: NDArray[np.uint16], suffix: str) -> bytes:
    """Label (H, W) as 8-bit PNG, or as 16-bit TIFF if ``suffix`` ends with ``.tif``.

    Raises ``DataError`` that names the source ``path`` if a value needs more than 8 bits.
    """
    buffer = io.BytesIO()
    if suffix.endswith(".tif"):
        Image.fromarray(values).save(buffer, "TIFF", compression="tiff_adobe_deflate")
        return buffer.getvalue()
    if values.size and values.max() > 255:
        problem = Problem(path, f"class {values.max()} does not fit 8 bits", 'Use target_suffix = ".tif"')
        raise DataError("a label cannot be written:", [problem])
    Image.fromarray(values.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def encode_image(pixels: NDArray[np.uint8], suffix: str) -> bytes:
    """Image (H, W, 3) as JPEG, or as PNG if ``suffix`` ends with ``.png``."""
    buffer = io.BytesIO()
    if suffix.endswith(".png"):
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
