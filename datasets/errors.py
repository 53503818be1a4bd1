"""What can be wrong with data, reported together and with the fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """One finding: the file, what is wrong with it, and what to do."""

    file: Path
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}. {self.fix}"


class DataError(Exception):
    """Data cannot be used.  ``problems`` lists every finding (may be empty when a whole data set is absent)."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        self.problems = tuple(problems)
        lines = [f"  {p}" for p in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  ... and {len(self.problems) - _SHOWN} more")
        super().__init__("\n".join([message, *lines]))
