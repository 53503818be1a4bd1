"""Reading TOML that others wrote."""

import re
import sys
from pathlib import Path
from typing import Any

from .errors import DataError
from .text import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_TOML_BYTES = 4 << 20
"""Largest TOML file that is read."""
_DEEP = re.compile(r"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){100}")
"""A key of a hundred parts.  The parser takes quadratic time for it: minutes for 100 kB."""


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Content of a TOML file.  Raises ``DataError``, which begins with ``what``, as ``read_text`` does."""
    text = read_text(path, what, MAX_TOML_BYTES)
    if _DEEP.search(text):
        raise DataError(f"{what} cannot be read: a key of it is nested too deeply")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{what} is no valid TOML: {error}") from error
    except RecursionError as error:
        raise DataError(f"{what} cannot be read: it is nested too deeply") from error
