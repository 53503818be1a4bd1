"""Class files and list files: one entry per line, and nothing shifts without a word."""

import re
from pathlib import Path

from .errors import DataError
from .text import invisible, read_text

_NUMBERED = re.compile(r"(\d+)\s*[:;.,)=|\t]\s*\S")
_COUNTED = re.compile(r"(\d+)\s+\S")
MAX_CLASSES = 65_535
"""Labels have 16 bits, and one value is ignored."""


def class_lines(path: Path, what: str) -> list[str]:
    """Class names of a file, one per line, in the order of their indices; empty lines at the end do not count.

    Raises ``DataError`` that names file and line: an empty line between names, a comment, a numbered list, an invisible
    character.  Each of them would make a class of its own, shift all others or become part of a prompt.
    """
    lines = [line.strip() for line in read_text(path, what).split("\n")]  # splitlines() would also split at U+2028
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line:
            raise DataError(
                f"{what} line {number} is empty.  The line number decides the class of a label value: remove the line, "
                "or write the name of the class that belongs there"
            )
        if line.startswith("#"):
            raise DataError(
                f"{what} line {number} looks like a comment: {line!r}.  Every line is a class, and the line number "
                "decides its label value: remove the line"
            )
        hidden = invisible(line)
        if hidden:
            raise DataError(f"{what} line {number} holds an invisible character ({hidden}): {line!a}.  Remove it")
    _refuse_numbers(lines, what)
    if len(lines) > MAX_CLASSES:
        raise DataError(
            f"{what} has {len(lines)} lines, more than the {MAX_CLASSES} classes that labels can tell apart"
        )
    return lines


def _refuse_numbers(lines: list[str], what: str) -> None:
    """Numbers before all names would become words of the prompts."""
    marked = [_NUMBERED.match(line) for line in lines]
    counted = [m for m in map(_COUNTED.match, lines) if m]
    consecutive = len(counted) == len(lines) > 1 and [int(m[1]) - int(counted[0][1]) for m in counted] == [
        *range(len(lines))
    ]
    if lines and (all(marked) or consecutive):
        raise DataError(
            f"{what} numbers its lines ({lines[0]!r}): the numbers would be read as words.  Leave only the names, in "
            "the order of the label values: `sed -E 's/^[0-9]+[[:space:][:punct:]]*//' OLD > NEW`"
        )


def listed_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Number and content of every line of a list file that is neither blank nor a comment (``# ...``).

    Raises ``DataError`` that names file and line for what cannot be part of a file's name.
    """
    out = []
    for number, line in enumerate(read_text(path, what).splitlines(), 1):
        entry = line.strip()
        if not entry or entry == "#" or entry.startswith("# "):
            continue
        hidden = invisible(entry.replace("\t", " "))
        if hidden:
            raise DataError(f"{what} line {number} holds an invisible character ({hidden}): {entry!a}.  Remove it")
        out.append((number, entry))
    return out


def candidates(entry: str, suffix: str) -> list[str]:
    """Ids that a line may mean, the likeliest first.

    The whole line, for names with blanks; then its first column, which may be a path of another machine: leading
    folders go one by one.  The last is the bare stem.
    """
    out = []
    for text in dict.fromkeys((entry, entry.split()[0])):
        parts = [p for p in text.replace("\\", "/").split("/") if p not in ("", ".")]
        ways = (parts[k:] for k in range(len(parts)))
        out += ["/".join(way).removesuffix(suffix) for way in ways if ".." not in way]
    return out
