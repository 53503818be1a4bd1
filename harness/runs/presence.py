"""Presence: one file per worker in a run's folder, touched while it works; who has stopped touching is gone.

No lock is held, so it works on network disks and across machines.  Ages are judged by the clock of the file server:
machines' clocks differ, and a file that was touched just now says what time it is there.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from .storing import made_folder

LEASE_SECONDS = 120.0
"""Who was silent for so long is gone.  Network disks may show the age of a file as it was a minute ago."""
_BEATS = 12
"""So often a worker is heard of within a lease."""
IMAGE_SECONDS = 3600.0
"""A worker that is at one image for longer hangs: it ends itself, and its images are done by others."""
HUNG = 70
"""Exit code of a worker that hung."""
WORKERS = "workers"


class Presence:
    """This process, as a worker of some runs, for as long as the context lasts."""

    def __init__(
        self, runs: Sequence[Path], lease_seconds: float = LEASE_SECONDS, image_seconds: float = IMAGE_SECONDS
    ) -> None:
        self.owner = f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._files = [run / WORKERS / self.owner for run in runs]
        self._lease_seconds, self._image_seconds = lease_seconds, image_seconds
        self._image: tuple[str, float] | None = None
        self._over = threading.Event()

    def __enter__(self) -> "Presence":
        for file in self._files:
            made_folder(file.parent)
            file.touch()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for file in self._files:
            file.unlink(missing_ok=True)

    def working_on(self, image: str | None) -> None:
        """Say which image is worked on from now; None between images."""
        self._image = None if image is None else (image, time.monotonic())

    def is_gone(self, owner: str) -> bool:
        """Whether a worker of the first run has left, or was silent for too long."""
        return owner not in living(self._files[0].parent.parent, self._lease_seconds)

    def _beat(self) -> None:
        while not self._over.wait(self._lease_seconds / _BEATS):
            at = self._image
            if at is not None and time.monotonic() - at[1] > self._image_seconds:
                sys.stderr.write(f"image {at[0]} took more than {self._image_seconds:.0f} s: this worker ends\n")
                sys.stderr.flush()
                os._exit(HUNG)
            for file in self._files:
                with contextlib.suppress(OSError):  # a disk that fails for a moment must not end the work
                    os.utime(file) if file.exists() else file.touch()


def living(run: Path, lease_seconds: float = LEASE_SECONDS) -> list[str]:
    """Workers of a run that were heard of within the lease; those of this machine only while their process runs."""
    folder = run / WORKERS
    now = server_time(folder) if folder.is_dir() else 0.0
    heard = [file.name for file, touched in _ages(folder) if now - touched <= lease_seconds]
    return [owner for owner in heard if not _ended_here(owner)]


def _ended_here(owner: str) -> bool:
    host, pid, _ = owner.rsplit("-", 2)
    if host != _host():
        return False
    try:
        os.kill(int(pid), 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except OSError:  # another user's process; or no /proc
        return False
    return state in "ZX"  # it has ended, and nobody has asked how


def forget(run: Path, pid: int) -> None:
    """Strike off a worker of this machine that is known to be dead, so that nobody waits for its lease to end."""
    for file in (run / WORKERS).glob(f"{_host()}-{pid}-*"):
        file.unlink(missing_ok=True)


def server_time(folder: Path) -> float:
    """Seconds since 1970 by the clock that stamps files in ``folder``."""
    probe = folder / f".clock-{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _ages(folder: Path) -> Iterator[tuple[Path, float]]:
    for file in folder.glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):
            yield file, file.stat().st_mtime


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40]
