"""Decoded: images and labels kept as plain arrays, for formats that are slow to decode.

One file for each.  It is believed while the file that it was made of is the same by ``memory.mark``, was read by the
same rules of ours and by the same Pillow, and while its own bytes fit their sums.  Anything else is decoded again, and
kept again if the folder takes it.  Files are replaced by rename and never changed, so that any number of processes can
share a folder.
"""

import hashlib
import logging
import math
import mmap
import sys
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
import PIL
from pydantic import BaseModel, ConfigDict, ValidationError

from .dataset import Once
from .loader import FileKey, ImageFile, LabelFile, Labels, Pixels
from .memory import mark, rules
from .record import DatasetRecord
from .writing import atomic_file, clean_temporaries

T = TypeVar("T")
_FORMAT = "ovss-decoded 1"
_HEAD_BYTES = 4096
_BLOCK_BYTES = 4096
"""Head and blocks are pages, so that the pixels can be used where the system has them in memory."""
_POPULATE_READ = 22
"""Linux 5.14: one call maps all pages, instead of a fault for each few."""
_FAST = (".jpg", ".jpeg")
_LARGE_PIXELS = 2_000_000
"""JPEG and labels with fewer pixels are not kept: they are decoded in a few milliseconds."""


class _Head(BaseModel):
    """What a file says of itself.  ``made_of`` stands for the file that was decoded and the rules for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    made_of: str
    sha256: str
    orientation: int
    dtype: Literal["uint8", "uint16"]
    shape: tuple[int, ...]
    sums: str


class Decoded:
    """The folder; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._writing = folder is not None
        self._telling = threading.Lock()
        if folder is not None:
            clean_temporaries(folder)

    def through(self, once: Once, record: DatasetRecord) -> Once:
        """``once``, which now looks here before it reads an image or a label of a data set with this ``record``."""
        folder = self.folder
        if folder is None:
            return once

        def look(key: Hashable, read: Callable[[], T]) -> T:
            if not isinstance(key, FileKey):
                return once(key, read)
            place = folder / _name(key, record)
            return once(key, lambda: cast(T, self._get(place, key, cast(Callable[[], ImageFile | LabelFile], read))))

        return look

    def _get(self, place: Path, key: FileKey, read: Callable[[], ImageFile | LabelFile]) -> ImageFile | LabelFile:
        made_of = _made_of(key.path)
        known = _stored(place, made_of)
        if known is not None:
            return known
        value = read()
        if self._writing and _is_slow(key, value) and _made_of(key.path) == made_of:
            self._keep(place, made_of, value)
        return value

    def _keep(self, place: Path, made_of: str, value: ImageFile | LabelFile) -> None:
        """Write a file.  Where that fails it is said once, and no other is written."""
        try:
            with atomic_file(place, sync=False) as file:
                file.write(_content(made_of, value).data)
        except OSError as error:
            with self._telling:
                told, self._writing = not self._writing, False
            if not told:
                why = error.strerror or error
                logging.getLogger(__name__).warning(
                    "decoded images cannot be kept in %s: %s.  What is missing there is decoded each time",
                    self.folder,
                    why,
                )


def _name(key: FileKey, record: DatasetRecord) -> str:
    """File of an image, or of a label as a record reads it."""
    rules_of_labels = record.model_dump_json() if key.kind == "label" else ""
    asked = f"{key.kind} {key.path.absolute()} {rules_of_labels}"
    return hashlib.sha256(asked.encode(errors="surrogateescape")).hexdigest()[:32] + ".decoded"


def _made_of(path: Path) -> str:
    text = f"{mark(path)} {rules()} {PIL.__version__}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _array(value: ImageFile | LabelFile) -> Pixels | Labels:
    if isinstance(value, LabelFile):
        return value.values
    assert value.pixels is not None
    return value.pixels


def _is_slow(key: FileKey, value: ImageFile | LabelFile) -> bool:
    height, width = _array(value).shape[:2]
    fast = key.kind == "label" or key.path.suffix.lower() in _FAST
    return not fast or height * width > _LARGE_PIXELS


def _content(made_of: str, value: ImageFile | LabelFile) -> Pixels:
    """The bytes of a file: a head, the array, and zeros up to a whole block."""
    array = np.ascontiguousarray(_array(value))
    blocks = -(-array.nbytes // _BLOCK_BYTES)
    content = np.zeros(_HEAD_BYTES + blocks * _BLOCK_BYTES, np.uint8)
    content[_HEAD_BYTES : _HEAD_BYTES + array.nbytes] = array.reshape(-1).view(np.uint8)
    head = _Head(
        made_of=made_of,
        sha256=value.sha256,
        orientation=value.orientation if isinstance(value, ImageFile) else 1,
        dtype="uint8" if array.dtype == np.uint8 else "uint16",
        shape=array.shape,
        sums=_sums(content[_HEAD_BYTES:]),
    )
    body = head.model_dump_json().encode()
    line = _first_line(body) + b"\n" + body
    content[: len(line)] = np.frombuffer(line, np.uint8)
    return content


def _first_line(body: bytes) -> bytes:
    return f"{_FORMAT} {hashlib.sha256(body).hexdigest()}".encode()


def _sums(blocks: Pixels) -> str:
    """Of the sums of every block's 64-bit words: a damaged byte, a missing, moved or doubled block changes it.

    A hash of all bytes would take as long as decoding some pictures.
    """
    words = blocks.view("<u8").reshape(-1, _BLOCK_BYTES // 8)
    return hashlib.sha256(words.sum(axis=1, dtype=np.uint64).astype("<u8").tobytes()).hexdigest()


def _stored(place: Path, made_of: str) -> ImageFile | LabelFile | None:
    """What a file holds, if it is whole and made of that; pixels are the file's own, copied where somebody writes."""
    try:
        with place.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):  # absent, or empty
        return None
    head = _head(mapped[:_HEAD_BYTES])
    if head is None or head.made_of != made_of:
        return None
    dtype = np.dtype(head.dtype).newbyteorder("<")
    count = math.prod(head.shape)
    if len(mapped) != _HEAD_BYTES - (-count * dtype.itemsize // _BLOCK_BYTES) * _BLOCK_BYTES:
        return None
    blocks = np.frombuffer(mapped, np.uint8, offset=_HEAD_BYTES)
    if sys.platform == "linux":
        with suppress(OSError):  # an older kernel: pages are mapped as they are read
            mapped.madvise(_POPULATE_READ)
    if _sums(blocks) != head.sums:
        return None
    array = np.frombuffer(mapped, dtype, count, _HEAD_BYTES).reshape(head.shape)
    if array.ndim == 2:
        return LabelFile(head.sha256, array)
    return ImageFile(head.sha256, array.shape[0], array.shape[1], head.orientation, array)


def _head(content: bytes) -> _Head | None:
    line, _, body = content.rstrip(b"\0").partition(b"\n")
    if line != _first_line(body):
        return None
    try:
        return _Head.model_validate_json(body)
    except ValidationError:
        return None
