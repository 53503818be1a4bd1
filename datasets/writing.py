"""Writing files so that a reader, or a killed process, never leaves half of one behind."""

import errno
import hashlib
import os
import platform
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..*\.(?P<pid>\d+)-(?P<host>[0-9a-f]{8})[0-9a-f]{12}\.tmp", re.DOTALL)
_LEFT_SECONDS = 3600


@contextmanager
def atomic_file(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """A binary file to write to, which becomes ``path`` when the block ends without an exception: whole or not at all.

    The bytes go to a new file in the same folder (made if need be), reach the disk, and take the name by rename.  On an
    exception the new file is removed and whatever was at ``path`` stays.  ``sync`` False leaves out waiting for the
    disk: for very many files that can be made again.

    Raises ``OSError``, also when something that is no plain file has the name: a device must not be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "what has this name is no plain file", str(path))
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}-{_host()}{uuid.uuid4().hex[:12]}.tmp")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        put_in_place(temporary, path, sync)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_in_place(temporary: Path, path: Path, sync: bool = True) -> None:
    """Give a complete file its name, replacing what has it; with ``sync`` both have reached the disk afterwards."""
    if sync:
        _sync(temporary)
    os.replace(temporary, path)  # noqa: PTH105  # one function that a test can let fail
    if sync:
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; where the system cannot do that for a folder, go on."""
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM):
            raise


def write_atomically(path: Path, content: bytes, sync: bool = True) -> None:
    """``atomic_file`` with all of its content.  Raises ``OSError``."""
    with atomic_file(path, sync) as file:
        file.write(content)


def clean_temporaries(folder: Path) -> None:
    """Remove ``left_temporaries``.  What cannot be removed stays: it does no harm."""
    for path in left_temporaries(folder):
        with suppress(OSError):
            path.unlink()


def left_temporaries(folder: Path) -> list[Path]:
    """What killed processes left of ``atomic_file`` directly in ``folder``.

    Ours are told by their name, and left by someone who is gone by this: the process that the name holds does not run
    on this machine, or nothing was written for an hour.  What cannot be looked at is left out.
    """
    left = []
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(e.path) for e in entries if _TEMPORARY.fullmatch(e.name)]:
            with suppress(OSError):
                if _is_left(path):
                    left.append(path)
    return left


def _is_left(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    assert match is not None
    if match["host"] == _host():
        try:
            os.kill(int(match["pid"]), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:  # it runs, for another user
            pass
    return time.time() - path.stat().st_mtime > _LEFT_SECONDS


def _host() -> str:
    """Eight digits for this machine: a process number says nothing about another one that shares the folder."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]
