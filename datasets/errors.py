"""What can be wrong with data, reported together and with the fix."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 20


def shown(path: Path | str) -> str:
    """A path as it can be printed everywhere: bytes that are no UTF-8 and control characters are escaped."""
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


def printable(text: str) -> str:
    """Text of others for a terminal: what is no printable character is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Problem:
    """One finding: the file, what is wrong with it, and what to do."""

    file: Path
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{shown(self.file)}: {printable(self.what)}. {self.fix}"


class DataError(Exception):
    """Data cannot be used.  ``problems`` lists every finding (may be empty when a whole data set is absent)."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        self.problems = tuple(problems)
        lines = [f"  {p}" for p in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  ... and {len(self.problems) - _SHOWN} more")
        super().__init__("\n".join([message, *lines]))
