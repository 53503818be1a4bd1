"""Reading text that others wrote: UTF-8, or UTF-16 and UTF-32 with the mark that editors write; nothing is guessed."""

import codecs
import unicodedata
from pathlib import Path

from .errors import DataError
from .files import MAX_TEXT_BYTES, RefusedError, read_content

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_INVISIBLE = frozenset("\u00ad\u200b\u200e\u200f\u2060\ufeff") | {
    chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Characters that nobody sees and that make two names differ: soft hyphen, zero-width and direction marks."""


def read_text(path: Path, what: str) -> str:
    """Content of a text file, without a byte order mark.

    Raises ``DataError``, which begins with ``what`` ("list file X"), for a file that is absent, no regular file, too
    large or in an encoding that it does not name: it says the line and the byte, and how to convert the file.
    """
    try:
        content = read_content(path, MAX_TEXT_BYTES)
    except FileNotFoundError:
        raise DataError(f"{what} does not exist") from None
    except RefusedError as error:
        raise DataError(f"{what} cannot be read: {error}.  {error.fix}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{what} cannot be read: {_undecodable(content, encoding, error)}") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(
            f"{what} cannot be read: there is a NUL character in line {line}, so it is no text, or UTF-16 without its "
            "mark.  Save it as UTF-8"
        )
    return text


def _undecodable(content: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    if encoding not in ("utf-8", "utf-8-sig"):
        return f"it begins as {encoding.upper()} and is damaged: {error.reason}.  Save it as UTF-8"
    line, byte = content[: error.start].count(b"\n") + 1, content[error.start]
    return (
        f"it is not UTF-8, see byte 0x{byte:02x} in line {line}; perhaps it is Latin-1 or Windows-1252.  Save "
        "it as UTF-8: `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`"
    )


def invisible(text: str) -> str:
    """Code points of ``text`` that cannot be seen, like "U+200B U+0007"; "" if there is none."""
    found = dict.fromkeys(c for c in text if c in _INVISIBLE or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp"))
    return " ".join(f"U+{ord(c):04X}" for c in found)
