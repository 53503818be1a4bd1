"""Files of checkpoints against what is known of them: size, checksums, and what a hub told."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError

if TYPE_CHECKING:
    from .weights import WeightFile


@dataclass(frozen=True)
class FileCheck:
    """What a file turned out to be: ``checked`` and ``unknown`` name kinds of evidence, ``wrong`` are sentences."""

    path: Path
    sha256: str
    checked: tuple[str, ...]
    unknown: tuple[str, ...]
    wrong: tuple[str, ...]


def check_stored(path: Path, sha256: str) -> None:
    """Raise ``UserError`` when a file of the Hugging Face cache is not what the hub told when it was fetched."""
    stored = path.resolve()
    if stored.parent.name == "blobs" and len(stored.name) == 64 and stored.name != sha256:
        raise UserError(f"{path} is damaged: its sha256 is {sha256}, the hub told {stored.name}.  Delete {stored}")


def is_known(files: Iterable[tuple["WeightFile", Path]]) -> bool:
    """Whether checksums say that these are the catalogued files."""
    return all(_known(file) and not difference(file, path) for file, path in files)


def _known(file: "WeightFile") -> dict[str, str]:
    """The strongest checksum that is known of a file, by its kind; empty if none is."""
    kinds = {"sha256": file.sha256, "git_blob": file.git_blob, "md5": file.md5}
    return next(({kind: value} for kind, value in kinds.items() if value is not None), {})


def difference(file: "WeightFile", path: Path) -> str:
    """What the strongest known checksum says against a file; "" if nothing."""
    for kind, expected in _known(file).items():
        try:
            found = _digests(path, path.stat().st_size, lambda count: None, (kind,))[kind]
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        if not found.startswith(expected):
            return f"its {kind} is {found}, {expected} was expected"
    return ""


def check_file(file: "WeightFile", path: Path, advance: Callable[[int], None] = lambda count: None) -> FileCheck:
    """Compare a file with all that is known about it, reading it once.

    A file in the Hugging Face cache is compared with the checksum under which it is stored there, too: the one that the
    hub told when it was fetched.  ``advance`` is told newly read bytes.

    Raises ``UserError`` when the file cannot be read.
    """
    try:
        size = path.stat().st_size
        digests = _digests(path, size, advance)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    checked = ["size"] if file.size_bytes is not None else []
    wrong = [f"it has {size} bytes, {file.size_bytes} were expected"] if file.size_bytes not in (None, size) else []
    known = {"sha256": file.sha256, "md5": file.md5, "git_blob": file.git_blob}
    for kind, expected in known.items():
        if expected is not None:
            checked.append(kind)
            if not digests[kind].startswith(expected):
                wrong.append(f"its {kind} is {digests[kind]}, {expected} was expected")
    stored = path.resolve()
    if stored.parent.name == "blobs" and len(stored.name) in (40, 64):  # git blob or sha256
        checked.append("hub")
        if stored.name not in (digests["sha256"], digests["git_blob"]):
            wrong.append(f"the hub told the checksum {stored.name}, its sha256 is {digests['sha256']}")
    unknown = [kind for kind in ("size", *known) if kind not in checked]
    return FileCheck(path, digests["sha256"], tuple(checked), tuple(unknown), tuple(wrong))


def _digests(
    path: Path, size: int, advance: Callable[[int], None], kinds: tuple[str, ...] = ("sha256", "md5", "git_blob")
) -> dict[str, str]:
    """sha256, md5 and git's blob id: the SHA-1 over ``blob SIZE``, a zero byte and the content."""
    makers: dict[str, Callable[[], Any]] = {
        "sha256": hashlib.sha256,
        "md5": lambda: hashlib.md5(usedforsecurity=False),
        "git_blob": lambda: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False),
    }
    hashes = {kind: makers[kind]() for kind in kinds}
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            for value in hashes.values():
                value.update(chunk)
            advance(len(chunk))
    return {kind: value.hexdigest() for kind, value in hashes.items()}
