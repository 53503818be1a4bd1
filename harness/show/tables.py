"""Printing: a rich table for people, aligned plain lines for pipes, one JSON document for programs."""

import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .escaping import json_text, plain_text

LINES = "\n"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; columns whose every cell looks like a number are aligned right."""
    cells = [["" if c is None else plain_text(str(c)) for c in row] for row in rows]
    title, columns = plain_text(title), [plain_text(name) for name in columns]
    right = [bool(cells) and all(_is_number(row[k]) for row in cells) for k in range(len(columns))]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title or None, title_justify="left")
        for name, numeric in zip(columns, right, strict=True):
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*row)
        Console(highlight=False, markup=False).print(table)
        return
    widths = [max(len(columns[k]), *(len(row[k]) for row in cells), 0) for k in range(len(columns))]
    lines = [[*columns], *cells]
    if title:
        print_line(title)
    for line in lines:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        print_line("  ".join(padded).rstrip())


@dataclass(frozen=True)
class Fitted:
    """A table, and the names of the columns that it had to do without."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    dropped: tuple[str, ...]


def fitted(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, dropped: Sequence[int], wraps: int
) -> Fitted:
    """A table for a terminal of ``width`` characters (None: any), without as many of ``dropped`` as it takes.

    Text in the column ``wraps`` may go on in the next line, so 24 characters are enough for it.
    """
    shown, gone = list(range(len(columns))), []
    for k in dropped:
        widths = [max(len(columns[c]), *(len(row[c]) for row in rows)) for c in shown]
        widths = [min(w, 24) if c == wraps else w for w, c in zip(widths, shown, strict=True)]
        if width is None or sum(w + 3 for w in widths) + 1 <= width:
            break
        shown.remove(k)
        gone.append(columns[k])
    return Fitted(tuple(columns[c] for c in shown), tuple(tuple(row[c] for c in shown) for row in rows), tuple(gone))


def terminal_width() -> int | None:
    """Characters in a line of the terminal; None for a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_line(text: str) -> None:
    """Text of our own on stdout, foreign names in it: lines stay lines, other controls are shown as escapes."""
    sys.stdout.write(f"{plain_text(text, keep=LINES)}\n")


def print_warning(text: str) -> None:
    """One warning on stderr."""
    sys.stderr.write(f"warning: {plain_text(text, keep=LINES)}\n")


def print_json(value: Any) -> None:
    """One JSON document on stdout; NaN is not allowed."""
    sys.stdout.write(json_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)) + "\n")


def percent(value: float | None) -> str:
    """``41.23``, or ``absent`` for a class that is neither labelled nor predicted."""
    return "absent" if value is None else f"{value:.2f}"


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """``41.23 [40.10, 42.31]``."""
    if value is None or math.isnan(value):
        return "none"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def images_and_units(images: object, units: int) -> str:
    """``23, 2 units``: how many images a number is from, and how many units its interval."""
    return f"{images}, {units} unit{'' if units == 1 else 's'}"


def megabytes(size: int) -> str:
    """Bytes as MB."""
    return f"{size / 1e6:.0f}"


def _is_number(text: str) -> bool:
    try:
        float(text.partition(" [")[0])
    except ValueError:
        return text in ("", "absent", "none")
    return True
