"""Writing files so that a reader, or a killed process, never leaves half of one behind."""

import os
import tempfile
from pathlib import Path

from .errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: whole or not at all.

    The bytes go to a temporary file in the same folder, reach the disk, and take the name by rename.  When the disk is
    full the temporary file is removed, whatever was at ``path`` stays, and the ``OSError`` is passed on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def store(path: Path, content: bytes) -> None:
    """``write_atomically`` for files that a user asked for: what goes wrong becomes a ``UserError`` with the fix."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}.  Nothing that was written before is lost: make "
            "room and run the same command again"
        ) from error


def cache_folder() -> Path:
    """Where things that can be made again are kept: ``$OVSS_CACHE``, else ``~/.cache/ovss``."""
    return Path(os.environ.get("OVSS_CACHE") or Path.home() / ".cache" / "ovss")
