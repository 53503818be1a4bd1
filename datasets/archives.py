"""Unpacking downloaded archives without trusting them.

The whole archive is judged before the first byte is written: names, kinds of entries, declared sizes, files in the way,
free space and, for a tar, its end marker and the checksum of its compression.  So a refused archive leaves the folder
as it was.  While writing, bytes are counted: an entry that has not the size it declares is damaged, and not kept.

Accepted trade-offs: a compressed tar is decompressed twice (once to judge, once to write); a file that is there already
is recognised by its size alone; files are not synced one by one (label archives have 160 000 of them), so after a power
cut a damaged file has another size and is reported by the next run, not mended; empty folders are not made.
"""

import errno
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from .archive_entries import CHUNK, Entry, Limits, damaged, reader_of, reading, tar_entries, zip_entries
from .errors import DataError, Problem
from .writing import atomic_file, clean_temporaries

# The largest archives of the field (COCO train 2017: 18 GB, 118 287 entries; its label maps: about 164 000 entries)
# stay more than ten times below the first two limits.
MAX_TOTAL_BYTES = 256 << 30
MAX_ENTRIES = 2_000_000
# Deflate cannot exceed 1032:1 and bombs come close to it.  Uncompressed label pictures with one colour per region reach
# 100:1 to 310:1 (measured on made-up ones of 6000 x 6000 pixels), but are small: below the floor no ratio is asked.
MAX_RATIO = 500
RATIO_FLOOR_BYTES = 256 << 20

_BLOCK = 4096  # even a small file takes a whole block of the disk


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
    limits = Limits(archive, max_total_bytes, max_entries, max_ratio, ratio_floor_bytes)
    with reading(archive, reader_of, archive) as reader:
        listing = zip_entries(reader) if isinstance(reader, zipfile.ZipFile) else tar_entries(reader, limits)
        plan = _plan(_select(listing, wanted, limits), folder, archive)
        todo = {target: entry for target, entry in plan.items() if not target.exists()}
        if not todo:
            logging.getLogger(__name__).info("%s: all %d files are in %s already", archive, len(plan), folder)
        _check_space(todo, folder, archive)
        _write_all(todo, sum(entry.size for entry in plan.values()), archive, advance)
    return list(todo)


# ---- judging


def _select(listing: Iterator[Entry], wanted: Callable[[str], bool] | None, limits: Limits) -> Iterator[Entry]:
    """The wanted files of ``listing``, within the limits; folders are left out, they are made for their files."""
    whole = limits.archive.stat().st_size
    names: list[str] = []
    number = chosen = total = 0
    while (entry := reading(limits.archive, next, listing, None)) is not None:
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


def _plan(entries: Iterator[Entry], folder: Path, archive: Path) -> dict[Path, Entry]:
    """Where each entry goes, in the order of the archive; one ``DataError`` names everything that must not."""
    root = folder.resolve()
    inside: dict[Path, bool] = {}  # folders of targets: resolving a path for each file would take most of the time
    plan: dict[Path, Entry] = {}
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


def _objection(entry: Entry) -> str:
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


def _check_space(todo: dict[Path, Entry], folder: Path, archive: Path) -> None:
    needed = sum(-(-entry.size // _BLOCK) * _BLOCK for entry in todo.values())
    place = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"{archive} needs {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free; nothing was "
            "unpacked. Make room, or choose a folder on another disk"
        )


# ---- writing


def _write_all(todo: dict[Path, Entry], total: int, archive: Path, advance: Callable[[int, int], None]) -> None:
    """Write every file of ``todo``; ``total`` also counts the files that were there."""
    done = total - sum(entry.size for entry in todo.values())

    def spend(count: int) -> None:
        nonlocal done
        done += count
        advance(done, total)

    for folder in {target.parent for target in todo}:
        clean_temporaries(folder)
    for target, entry in todo.items():
        _write(target, entry, archive, spend)


def _write(target: Path, entry: Entry, archive: Path, spend: Callable[[int], None]) -> None:
    """Write one file: whole, or not at all; never more bytes than were declared, and so judged."""
    count = 0
    try:
        with reading(archive, entry.open) as stream, atomic_file(target, sync=False) as file:
            while chunk := reading(archive, stream.read, CHUNK):
                count += len(chunk)
                if count > entry.size:
                    break
                file.write(chunk)
                spend(len(chunk))
            if count != entry.size:
                raise damaged(archive, f"{entry.name} does not have the {entry.size} bytes that it declares")
    except OSError as error:
        fix = "Make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Check the permissions and the name"
        fix += ", then run the same command again: files that were unpacked are kept"
        problem = Problem(target, f"it could not be written ({error.strerror or error})", fix)
        raise DataError("an archive was unpacked only in part:", [problem]) from error
