"""Reading a TOML file that somebody else wrote: whatever it holds, values come back or one clear ``UserError``."""

import re
import stat
import sys
from pathlib import Path
from typing import Any

from ...methods import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_BYTES = 1_000_000
_DEEPEST = 16
"""Tables within tables; a protocol needs four."""


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Tables of a file.  ``what`` names it in messages.

    Raises ``UserError`` for what is no regular file (a pipe would wait forever), too large, not UTF-8, no TOML, or
    nested so deeply that no reader follows.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{what} is no regular file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"unknown protocol {str(path)!r}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > _MOST_BYTES:
        raise UserError(f"{what} has {len(data)} bytes, more than the {_MOST_BYTES} that a protocol may have")
    try:
        fields = tomllib.loads(_decoded(data, what))
    except RecursionError:
        raise UserError(
            f"{what} is nested too deeply: a protocol has tables of tables, at most {_DEEPEST} deep"
        ) from None
    except ValueError as error:  # also of a number with too many digits
        raise UserError(f"{what} is no valid TOML: {error}") from error
    if depth(fields) > _DEEPEST:
        raise UserError(
            f"{what} is nested too deeply: {depth(fields)} tables within tables, at most {_DEEPEST} are read"
        )
    return fields


def _decoded(data: bytes, what: str) -> str:
    """UTF-8, with or without the mark that some editors put first."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{what} is written in UTF-16, so it is no valid TOML: save it as UTF-8")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{what} is no valid TOML: line {line} holds the byte 0x{data[error.start]:02x}, which is not UTF-8.  Save "
            "it as UTF-8"
        ) from None


def depth(value: object) -> int:
    """How many tables and lists stand within one another; without recursion, which is what it guards."""
    deepest, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        deepest += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return deepest


def name_of(path: Path) -> str:
    """The name of a file without its suffix, as the name of a protocol: other characters become ``_``."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", path.stem).lstrip("._-")[:64] or "protocol"
