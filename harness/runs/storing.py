"""Files that a user asked for, and the cache folder."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ...datasets.writing import atomic_file, clean_temporaries
from ...methods import UserError
from ...methods.core.files import cache_folder


@contextmanager
def stored_file(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """``atomic_file`` for files that a user asked for: what goes wrong becomes a ``UserError`` with the fix."""
    try:
        with atomic_file(path, sync) as file:
            yield file
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}.  Nothing that was written before is lost: make "
            "room and run the same command again"
        ) from error


def store(path: Path, content: bytes) -> None:
    """``stored_file`` with all of its content.  Raises ``UserError``."""
    with stored_file(path) as file:
        file.write(content)


def sha256_of(file: BinaryIO) -> str:
    """Hash of the bytes of an open file from where it stands; ``hashlib.file_digest`` needs Python 3.11."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def made_folder(path: Path) -> Path:
    """``path``, a folder that is there from now on.  Raises ``UserError`` if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {path} cannot be written: {error.strerror}") from error
    return path


def clean_cache() -> None:
    """``clean_temporaries`` for the cache folder and the folders in it."""
    folder = cache_folder()
    with suppress(OSError):
        for below in [folder, *(p for p in folder.iterdir() if p.is_dir())]:
            clean_temporaries(below)
