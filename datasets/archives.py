"""Unpacking downloaded archives without trusting them.

The whole archive is judged before the first byte is written: names, kinds of entries, declared sizes, files in the way,
free space and, for a tar, its end marker and the checksum of its compression.  So a refused archive leaves the folder
as it was.  While writing, bytes are counted: an entry that has not the size it declares is damaged, and not kept.

Accepted trade-offs: a compressed tar is decompressed twice (once to judge, once to write); a file that is there already
is recognised by its size alone; files are not synced one by one (label archives have 160 000 of them), so after a power
cut a damaged file has another size and is reported by the next run, not mended; empty folders are not made.
"""

import bz2
import errno
import gzip
import logging
import lzma
import shutil
import struct
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, TypeVar, cast

from .errors import DataError, Problem

# The largest archives of the field (COCO train 2017: 18 GB, 118 287 entries; its label maps: about 164 000 entries)
# stay more than ten times below the first two limits.
MAX_TOTAL_BYTES = 256 << 30
MAX_ENTRIES = 2_000_000
# Deflate cannot exceed 1032:1 and bombs come close to it.  Uncompressed label pictures with one colour per region reach
# 100:1 to 310:1 (measured on made-up ones of 6000 x 6000 pixels), but are small: below the floor no ratio is asked.
MAX_RATIO = 500
RATIO_FLOOR_BYTES = 256 << 20

T = TypeVar("T")
_CHUNK = 1 << 20
_BLOCK = 4096  # even a small file takes a whole block of the disk
# What the readers of the standard library raise for damaged input, besides ``OSError`` without a number.
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error,
    EOFError, ValueError, IndexError, OverflowError, NotImplementedError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """One entry as the archive declares it.  ``kind`` is "file", "folder" or what else it is, in words."""

    name: str
    kind: str
    size: int
    packed: int  # bytes of the archive that it can come from
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class _Limits:
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


def extract(
    archive: Path,
    folder: Path,
    wanted: Callable[[str], bool] | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
    *,
    max_total_bytes: int = MAX_TOTAL_BYTES,
    max_entries: int = MAX_ENTRIES,
    max_ratio: float = MAX_RATIO,
    ratio_floor_bytes: int = RATIO_FLOOR_BYTES,
) -> list[Path]:
    """Unpack ``archive`` (.zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz) below ``folder``; the files this call wrote.

    ``wanted`` is asked for the name of each file (``/`` between its parts, no leading ``./``); other files are neither
    judged nor written.  Files that are there with the right size are left alone: a second call writes nothing and
    returns an empty list.  Each file appears whole or not at all.  Of two entries with one name the later counts.
    ``advance`` is told the bytes done and the bytes in total, of the wanted files, including those that were there.

    Raises ``DataError`` for an archive that is missing, damaged, of another format, hostile (a name outside the
    folder, a link or device, a bomb by the limits), without any wanted file, or that does not fit the disk; and when a
    file of another size is in the way.
    """
    limits = _Limits(archive, max_total_bytes, max_entries, max_ratio, ratio_floor_bytes)
    with _reading(archive, _reader, archive) as reader:
        listing = _zip_entries(reader) if isinstance(reader, zipfile.ZipFile) else _tar_entries(reader, limits)
        plan = _plan(_select(listing, wanted, limits), folder, archive)
        todo = {target: entry for target, entry in plan.items() if not target.exists()}
        if not todo:
            logging.getLogger(__name__).info("%s: all %d files are in %s already", archive, len(plan), folder)
        _check_space(todo, folder, archive)
        _write_all(todo, sum(entry.size for entry in plan.values()), archive, advance)
    return list(todo)


# ---- reading


def _reading(archive: Path, call: Callable[..., T], *arguments: object) -> T:
    """``call(*arguments)``; what a reader of the standard library raises becomes a ``DataError`` about ``archive``."""
    try:
        return call(*arguments)
    except FileNotFoundError as error:
        raise DataError(f"{archive} does not exist; download it first") from error
    except _DAMAGED as error:
        raise _damaged(archive, str(error)) from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 speak so of damaged data
            raise _damaged(archive, str(error)) from error
        raise DataError(f"{archive} cannot be read: {error.strerror}; check that it is a file you may read") from error


def _damaged(archive: Path, why: str) -> DataError:
    with archive.open("rb") as file:
        page = file.read(512).lstrip().startswith(b"<")
    what = "it is a web page (a login or a warning), not an archive" if page else f"it is damaged or cut short ({why})"
    return DataError("an archive cannot be unpacked:", [Problem(archive, what, "Delete it and download it again")])


def _reader(archive: Path) -> Any:
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


def _zip_entries(file: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in file.infolist():
        unix_kind = (info.external_attr >> 16) & 0o170000
        kind = "folder" if info.orig_filename.endswith("/") else "file"
        if unix_kind not in (0, 0o040000, 0o100000):
            kind = "a link or device"
        elif info.flag_bits & 1:
            kind = "encrypted"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            kind = f"packed by zip method {info.compress_type}"  # Python unpacks the others without bounded memory
        yield _Entry(info.orig_filename, kind, info.file_size, info.compress_size, partial(file.open, info))


def _tar_entries(stream: IO[bytes], limits: _Limits) -> Iterator[_Entry]:
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
        yield _Entry(member.name, kind, member.size, packed, content)
    reader.seek(tar.offset)
    if reader.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a broken header for the end
        raise tarfile.ReadError("a header is broken, or the end marker is missing")
    padding = 0
    while chunk := reader.read(_CHUNK):
        padding += len(chunk)
        limits.check("what follows the last entry", padding, packed)


class _ShortReads:
    """A stream that refuses long reads: ``tarfile`` reads extended headers whole, whatever length they declare."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise tarfile.ReadError(f"a header declares {size} bytes")
        return self._read(size)


# ---- judging


def _select(listing: Iterator[_Entry], wanted: Callable[[str], bool] | None, limits: _Limits) -> Iterator[_Entry]:
    """The wanted files of ``listing``, within the limits; folders are left out, they are made for their files."""
    whole = limits.archive.stat().st_size
    names: list[str] = []
    number = chosen = total = 0
    while (entry := _reading(limits.archive, next, listing, None)) is not None:
        number += 1
        if number > limits.entries:
            limits.refuse(f"it has more than {limits.entries} entries")
        if entry.kind == "folder":
            continue
        name = str(PurePosixPath(entry.name))
        names += [name] if len(names) < 3 else []
        if wanted is None or wanted(name):
            chosen += 1
            total += entry.size
            limits.check(repr(entry.name), entry.size, entry.packed)
            limits.check("the archive", total, whole)
            yield entry
    if not chosen:
        what = f"it holds none of the wanted files, but {', '.join(names)} ..." if names else "it holds no files"
        problem = Problem(limits.archive, what, "Check that it is the right archive")
        raise DataError("an archive was not unpacked:", [problem])


def _plan(entries: Iterator[_Entry], folder: Path, archive: Path) -> dict[Path, _Entry]:
    """Where each entry goes, in the order of the archive; one ``DataError`` names everything that must not."""
    root = folder.resolve()
    inside: dict[Path, bool] = {}  # folders of targets: resolving a path for each file would take most of the time
    plan: dict[Path, _Entry] = {}
    problems: list[Problem] = []
    for entry in entries:
        what = _objection(entry)
        if what:
            problems.append(Problem(archive, f"entry {entry.name!r} {what}", "Use an archive from the official source"))
            continue
        target = folder / PurePosixPath(entry.name)
        if target.parent not in inside:
            inside[target.parent] = target.parent.resolve().is_relative_to(root)
        if not inside[target.parent] or (target.is_symlink() and not target.resolve().is_relative_to(root)):
            problems.append(Problem(target, f"a link leads out of {folder}", "Remove the link, or unpack elsewhere"))
            continue
        plan.pop(target, None)
        plan[target] = entry
    problems += [problem for target, entry in plan.items() for problem in _in_the_way(target, entry.size)]
    if problems:
        raise DataError(f"{archive} was not unpacked:", problems)
    return plan


def _objection(entry: _Entry) -> str:
    """Why ``entry`` is refused, or ""."""
    if entry.kind != "file":
        return f"is {entry.kind}; only plain files are unpacked"
    if "\\" in entry.name or any(ord(c) < 32 for c in entry.name):
        return "has a backslash or a control character in its name"
    path = PurePosixPath(entry.name)
    if path.is_absolute() or PureWindowsPath(entry.name).drive or ".." in path.parts or not path.parts:
        return "would be written outside the folder"
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in path.parts):
        return "has a name that is too long for a file system"
    return ""


def _in_the_way(target: Path, size: int) -> list[Problem]:
    if target.is_file() and target.stat().st_size != size:
        what = f"it has {target.stat().st_size} bytes, the file in the archive {size}"
        return [Problem(target, what, "It was not overwritten: move it away or delete it")]
    if target.is_dir():
        return [Problem(target, "a folder has the name of a file in the archive", "Move it away or delete it")]
    return []


def _check_space(todo: dict[Path, _Entry], folder: Path, archive: Path) -> None:
    needed = sum(-(-entry.size // _BLOCK) * _BLOCK for entry in todo.values())
    place = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"{archive} needs {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free; nothing was "
            "unpacked. Make room, or choose a folder on another disk"
        )


# ---- writing


def _write_all(todo: dict[Path, _Entry], total: int, archive: Path, advance: Callable[[int, int], None]) -> None:
    """Write every file of ``todo``; ``total`` also counts the files that were there."""
    done = total - sum(entry.size for entry in todo.values())

    def spend(count: int) -> None:
        nonlocal done
        done += count
        advance(done, total)

    for target, entry in todo.items():
        _write(target, entry, archive, spend)


def _write(target: Path, entry: _Entry, archive: Path, spend: Callable[[int], None]) -> None:
    """Write one file: whole, or not at all; never more bytes than were declared, and so judged."""
    temporary = target.with_name(f".unpacking-{uuid.uuid4().hex}")
    count = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _reading(archive, entry.open) as stream, temporary.open("xb") as file:
            while chunk := _reading(archive, stream.read, _CHUNK):
                count += len(chunk)
                if count > entry.size:
                    break
                file.write(chunk)
                spend(len(chunk))
        if count != entry.size:
            raise _damaged(archive, f"{entry.name} does not have the {entry.size} bytes that it declares")
        temporary.replace(target)
    except OSError as error:
        fix = "Make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Check the permissions and the name"
        fix += ", then run the same command again: files that were unpacked are kept"
        problem = Problem(target, f"it could not be written ({error.strerror or error})", fix)
        raise DataError("an archive was unpacked only in part:", [problem]) from error
    finally:
        if temporary.is_file():
            temporary.unlink()
