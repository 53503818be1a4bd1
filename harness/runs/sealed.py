"""JSON files that know whether they are whole: one key holds the checksum of all others.

A flipped bit, a cut tail or an edit by hand is found when the file is read.  This protects against accidents; who
means to forge a number can forge its checksum too.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ...methods import UserError

CHECKSUM = "checksum"


def seal(value: dict[str, Any]) -> bytes:
    """``value`` as readable JSON with its checksum as the last key."""
    whole = {**value, CHECKSUM: _checksum(value)}
    return (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode()


def unseal(content: bytes, path: Path) -> dict[str, Any]:
    """What ``seal`` was given.  Raises ``UserError`` that names ``path`` when the content is not whole."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}.  `bench run` with the same words makes it again") from error
    if not isinstance(value, dict) or CHECKSUM not in value:
        raise UserError(
            f"{path} has no checksum: it was written by an older version of ovss-bench, or by hand.  `bench run` with "
            "the same words makes it again"
        )
    stated = value.pop(CHECKSUM)
    if stated != _checksum(value):
        raise UserError(
            f"{path} is damaged or was edited: its content does not fit its checksum.  `bench run` with the same words "
            "makes it again"
        )
    return value


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a sealed file.  Raises ``UserError`` when it is absent, unreadable or not whole."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.  Finish it with `bench run`") from error
    return unseal(content, path)


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form (sorted keys, no blanks)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _checksum(value: dict[str, Any]) -> str:
    return f"sha256:{digest_of(value)}"
