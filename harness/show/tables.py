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


def rounded(value: float | None, interval: Sequence[float] | None, sign: bool = False) -> str:
    """A value with its interval, both to two digits of half the interval's width, and two decimals without one.

    >>> rounded(41.234, (40.104, 42.312)), rounded(0.0444, (0.001, 0.08), sign=True), rounded(-3.14159, None)
    ('41.2 [40.1, 42.3]', '+0.044 [+0.001, +0.080]', '-3.14')
    """
    if value is None or math.isnan(value):
        return "none"
    digits, form = decimals(interval), "+" if sign else ""
    shown = [f"{round(v, digits) + 0.0:{form}.{digits}f}" for v in (value, *(interval or ()))]  # + 0.0: no "-0"
    return shown[0] + (f" [{shown[1]}, {shown[2]}]" if interval else "")


def decimals(interval: Sequence[float] | None) -> int:
    """How many decimals are worth showing: two digits of half the interval's width, two without one."""
    half = (interval[1] - interval[0]) / 2 if interval else 0.0
    return min(max(1 - math.floor(math.log10(half)), 0), 4) if half > 0 else 2


def p_text(p_value: float | None) -> str:
    """``0.012``, ``< 0.001``, or nothing.

    >>> p_text(0.01234), p_text(0.0005), p_text(None)
    ('0.012', '< 0.001', '')
    """
    if p_value is None:
        return ""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def images_and_units(images: object, units: int) -> str:
    """``23, 2 units``: how many images a number is from, and how many units its interval."""
    return f"{images}, {units} unit{'' if units == 1 else 's'}"


def megabytes(size: int) -> str:
    """Bytes as MB."""
    return f"{size / 1e6:.0f}"


def bytes_text(size: float) -> str:
    """``812 B``, ``4.1 kB``, ``23 MB`` or ``1.2 GB``: two digits or all of those before the point.

    >>> bytes_text(812), bytes_text(4096), bytes_text(23_400_000), bytes_text(1_234_000_000)
    ('812 B', '4.1 kB', '23 MB', '1.2 GB')
    """
    if size < 1000:
        return f"{size:.0f} B"
    power = min(int(math.log10(size) / 3), 4)
    value = size / 1000**power
    return f"{value:.{1 if value < 10 else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def lasting(seconds: float) -> str:
    """``42 s``, ``35 min`` or ``2.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _is_number(text: str) -> bool:
    try:
        float(text.partition(" [")[0].removeprefix("< "))
    except ValueError:
        return text in ("", "absent", "none")
    return True
