"""Opening files that others wrote: only regular ones, only up to a size, and pictures only up to a number of pixels."""

import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded, in pixels (13 377 squared): the bound at which Pillow suspects a decompression bomb.
An RGB image of that size takes 512 MiB."""
MAX_PICTURE_BYTES = 1 << 30
"""Largest file of an image or label that is read."""
MAX_TEXT_BYTES = 64 << 20
"""Largest list, table or TOML file that is read."""
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""What is decoded; Pillow would hand some others to programs of the machine."""
LARGE_PIXELS = 16_000_000
"""Pictures with more pixels are decoded one at a time, however many threads read."""


class RefusedError(ValueError):
    """A file that is not read, with what to do about it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are absent, damaged or made to break it."""
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "jpeg2000", "lerc")
_header, _large = threading.Lock(), threading.Lock()


def read_content(path: Path, most: int = MAX_PICTURE_BYTES) -> bytes:
    """The bytes of a regular file.  Raises ``RefusedError`` for a pipe, device or folder and above ``most`` bytes."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError(f"it is {_kind(status.st_mode)}, not a file", "Put the file there")
        if status.st_size > most:
            what = f"the file has {status.st_size >> 20} MiB, more than the {most >> 20} MiB that are read"
            raise RefusedError(what, "Check that it is the right file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(status.st_size)
    finally:
        os.close(handle)


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


@contextmanager
def opened_image(content: bytes) -> Iterator[Image.Image]:
    """A picture whose header was read.  Raises ``RefusedError`` above ``MAX_PIXELS``, and what Pillow raises."""
    with _header, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures below our bound, and of odd but harmless headers
        try:
            image = Image.open(io.BytesIO(content), formats=_formats())
        except UnidentifiedImageError as error:
            what = f"the file cannot be decoded (it begins as none of {', '.join(FORMATS)})"
            raise RefusedError(what, "Copy or download it again, or save it as PNG") from error
        except Image.DecompressionBombError as error:
            raise _too_large("more than twice what Pillow allows") from error
    with image:
        pixels = image.width * image.height
        if pixels > MAX_PIXELS:
            raise _too_large(f"{image.width}x{image.height} pixels")
        if pixels <= LARGE_PIXELS:
            yield image
            return
        with _large:
            yield image


def lossy_form(content: bytes) -> str:
    """Name of the lossy compression that a picture file has, whatever its suffix; "" if it has none."""
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WebP" if b"VP8 " in _webp_chunks(content) else ""
    if content[4:12] == b"ftypavif" or content[4:12] == b"ftypavis":
        return "AVIF"
    if content.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):
        return "JPEG 2000"  # with or without loss: its header does not tell
    return _tiff_form(content) if content[:4] in (b"II*\0", b"MM\0*") else ""


def _webp_chunks(content: bytes) -> set[bytes]:
    """Names of the chunks of a WebP file, those inside the frames of an animation included."""
    names, at = set(), 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        names.add(name)
        at += 24 if name == b"ANMF" else 8 + size + size % 2  # a frame holds chunks after 16 bytes of its own
    return names


def _tiff_form(content: bytes) -> str:
    """A TIFF may hold JPEG or WebP data."""
    with opened_image(content) as image:
        compression = str(image.info.get("compression", ""))
    return f"TIFF with {compression}" if compression in _LOSSY_TIFF else ""


@cache
def _formats() -> list[str]:
    """Those of ``FORMATS`` that this Pillow has; it fails on the name of another."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _too_large(size: str) -> RefusedError:
    what = f"the picture has {size}; at most {MAX_PIXELS / 1e6:.0f} million are decoded"
    return RefusedError(what, "Cut it into tiles, or check that it is what it should be")
