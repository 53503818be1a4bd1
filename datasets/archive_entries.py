"""Reading archives: their entries as they are declared, and the limits they must keep.

Zip and tar look the same from here; ``archives`` judges and writes.
"""

import bz2
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from .errors import DataError, Problem

T = TypeVar("T")
CHUNK = 1 << 20
# What the readers of the standard library raise for damaged input, besides ``OSError`` without a number.
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error,
    EOFError, ValueError, IndexError, OverflowError, NotImplementedError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One entry as the archive declares it.  ``kind`` is "file", "folder" or what else it is, in words."""

    name: str
    kind: str
    size: int
    packed: int  # bytes of the archive that it can come from
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Limits:
    """What an archive may declare; writing holds it to what it declared."""

    archive: Path
    total_bytes: int
    entries: int
    ratio: float
    floor_bytes: int

    def check(self, what: str, size: int, packed: int) -> None:
        """Refuse ``size`` bytes that come from ``packed`` bytes."""
        if size > self.total_bytes:
            self.refuse(f"{what} unpacks to more than {self.total_bytes} bytes")
        if size > self.floor_bytes and size > self.ratio * packed:
            self.refuse(f"{what} unpacks to more than {self.ratio:g} times the bytes it takes in the archive")

    def refuse(self, what: str) -> None:
        fix = "Compare the checksum of the archive with its source; unpack it by hand if you trust it"
        raise DataError("an archive looks like a bomb and was not unpacked:", [Problem(self.archive, what, fix)])


def reading(archive: Path, call: Callable[..., T], *arguments: object) -> T:
    """``call(*arguments)``; what a reader of the standard library raises becomes a ``DataError`` about ``archive``."""
    try:
        return call(*arguments)
    except FileNotFoundError as error:
        raise DataError(f"{archive} does not exist; download it first") from error
    except _DAMAGED as error:
        raise damaged(archive, str(error)) from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 speak so of damaged data
            raise damaged(archive, str(error)) from error
        raise DataError(f"{archive} cannot be read: {error.strerror}; check that it is a file you may read") from error


def damaged(archive: Path, why: str) -> DataError:
    with archive.open("rb") as file:
        page = file.read(512).lstrip().startswith(b"<")
    what = "it is a web page (a login or a warning), not an archive" if page else f"it is damaged or cut short ({why})"
    return DataError("an archive cannot be unpacked:", [Problem(archive, what, "Delete it and download it again")])


def reader_of(archive: Path) -> Any:
    """An open zip, or the stream of an uncompressed tar."""
    name = archive.name.lower()
    opener = next((opener for suffix, opener in _FORMATS.items() if name.endswith(suffix)), None)
    if opener is None:
        fix = f"It must be one of {', '.join(_FORMATS)}; unpack anything else by hand"
        raise DataError("an archive cannot be unpacked:", [Problem(archive, "its format is not known", fix)])
    return opener(archive)


_FORMATS: dict[str, Callable[[Path], Any]] = {
    ".zip": zipfile.ZipFile,
    ".tar": partial(Path.open, mode="rb"),
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}


def zip_entries(file: zipfile.ZipFile) -> Iterator[Entry]:
    for info in file.infolist():
        unix_kind = (info.external_attr >> 16) & 0o170000
        kind = "folder" if info.orig_filename.endswith("/") else "file"
        if unix_kind not in (0, 0o040000, 0o100000):
            kind = "a link or device"
        elif info.flag_bits & 1:
            kind = "encrypted"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            kind = f"packed by zip method {info.compress_type}"  # Python unpacks the others without bounded memory
        yield Entry(info.orig_filename, kind, info.file_size, info.compress_size, partial(file.open, info))


def tar_entries(stream: IO[bytes], limits: Limits) -> Iterator[Entry]:
    """The entries; then the end marker and, by reading on, the checksum of the compression are checked."""
    packed = limits.archive.stat().st_size
    reader = _ShortReads(stream)
    tar = tarfile.open(fileobj=cast(IO[bytes], reader), mode="r:")  # noqa: SIM115 - needed until ``stream`` is closed
    for member in tar:
        kind = "folder" if member.isdir() else "file" if member.isreg() else "a link or device"
        if member.issparse():
            kind = "a sparse file"
        if member.size < 0:
            raise tarfile.ReadError("an entry has a negative size")
        content = cast(Callable[[], IO[bytes]], partial(tar.extractfile, member))  # None only for what is no file
        yield Entry(member.name, kind, member.size, packed, content)
    reader.seek(tar.offset)
    if reader.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a broken header for the end
        raise tarfile.ReadError("a header is broken, or the end marker is missing")
    padding = 0
    while chunk := reader.read(CHUNK):
        padding += len(chunk)
        limits.check("what follows the last entry", padding, packed)


class _ShortReads:
    """A stream that refuses long reads: ``tarfile`` reads extended headers whole, whatever length they declare."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= CHUNK:
            raise tarfile.ReadError(f"a header declares {size} bytes")
        return self._read(size)
