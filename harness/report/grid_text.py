"""Grids of the leaderboard as text: Markdown, and a table that fits the terminal."""

from collections.abc import Callable, Sequence

from ..metrics.bootstrap import MIN_UNITS
from ..show.escaping import markdown_code, markdown_text
from ..show.tables import Fitted, fitted, with_interval
from .grid import Grid, Line
from .rows import Row

KINDS = {True: "Training-free", False: "Trained"}
Notes = dict[str, int]
"""Note -> its number; 0 for one that holds for every run that is shown."""


def numbered(rows: Sequence[Row]) -> Notes:
    """Every note once, numbered as the rows come."""
    told = [{n for n in r.note.split("; ") if n} for r in rows]
    every = set.intersection(*told) if told else set()
    some = sorted({n for notes in told for n in notes} - every)
    return dict.fromkeys(sorted(every), 0) | {note: k for k, note in enumerate(some, start=1)}


def footnotes(notes: Notes) -> list[str]:
    """The notes as Markdown."""
    return [line for note, k in notes.items() for line in ("", f"{_above(k)}*{markdown_text(note)}.*")]


def reference(row: Row, notes: Notes) -> str:
    """Numbers of the notes of a run, raised."""
    found = note_numbers(row, notes)
    return " <sup>" + ",".join(map(str, found)) + "</sup>" if found else ""


def note_numbers(row: Row, notes: Notes) -> list[int]:
    """Of the notes of a run, those that not every run has."""
    return sorted({notes[n] for n in row.note.split("; ") if n in notes} - {0})


def _above(number: int) -> str:
    return f"<sup>{number}</sup> " if number else ""


def head(grid: Grid, what: str = "Mean, rank, speed and memory") -> str:
    """What mean, rank and the like are over."""
    count, shown = len(grid.common), len(grid.columns)
    if not count:
        return f"No mean and no rank: none of {shown} data sets has a complete run of every method."
    units = min(
        (r.units for x in grid.lines if x.rank is not None for c in grid.common if (r := x.cells[c])), default=0
    )
    sure = "" if units >= MIN_UNITS else f"  No interval of the rank: a data set has fewer than {MIN_UNITS} units."
    return f"{what} over {count} of {shown} data set{'' if shown == 1 else 's'}: those that all methods have.{sure}"


def grid_markdown(grid: Grid, notes: Notes) -> list[str]:
    """One grid; the head of a column says data set and split."""
    names = [f"{markdown_text(c[1])} {markdown_text(c[2])}" for c in grid.columns]
    first = ["rank [95 %]", "method", *names, "mean", "images/s", "peak MB", "backbone"]
    align = ["---", "---", *["---:"] * (len(names) + 3), "---"]
    lines = [f"**{KINDS[grid.training_free]}**", "", "| " + " | ".join(first) + " |", "|" + "|".join(align) + "|"]
    for line in grid.lines:
        weights = markdown_code(line.row.weights.partition(":")[2][:8], in_table=True)
        cells = [
            _rank(line),
            markdown_text(line.row.method),
            *(_cell(grid, line, k, notes) for k in range(len(names))),
            _marked(grid, line, -1, "" if line.mean is None else f"{line.mean:.2f}"),
            *_speed(line),
            f"{markdown_text(line.row.backbone)} {weights} {markdown_text(line.row.precision)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _rank(line: Line) -> str:
    if line.rank is None:
        return ""
    return f"{line.rank}" + (f" [{line.interval[0]}, {line.interval[1]}]" if line.interval else "")


def _speed(line: Line) -> tuple[str, str]:
    if line.images_per_second is None or line.peak_mb is None:
        return ("", "")
    return (f"{line.images_per_second:.1f}", f"{line.peak_mb:.0f}")


def _cell(grid: Grid, line: Line, column: int, notes: Notes) -> str:
    row = line.cells[column]
    if row is None:
        return ""
    text = _marked(grid, line, column, with_interval(row.miou, None))
    return text + ("" if row.complete else " (partial)") + reference(row, notes)


def _marked(grid: Grid, line: Line, column: int, text: str) -> str:
    """Best bold, second underlined; ``ins`` is what code hosts let through for that."""
    return {1: f"**{text}**", 2: f"<ins>{text}</ins>"}.get(grid.mark(line, column), text)


def grid_table(grid: Grid, width: int | None) -> Fitted:
    """What of a grid fits ``width`` characters; best values have a ``*``, second ones a ``+``."""
    columns: list[tuple[str, Callable[[Line], str]]] = [("rank", _rank), ("method", lambda x: x.row.method)]
    for k, column in enumerate(grid.columns):
        columns.append((f"{column[1]} {column[2]}", lambda x, k=k: _plain(grid, x, k)))  # type: ignore[misc]
    columns += [
        ("mean", lambda x: "" if x.mean is None else f"{x.mean:.2f}{_sign(grid, x, -1)}"),
        ("images/s", lambda x: _speed(x)[0]),
        ("peak MB", lambda x: _speed(x)[1]),
        ("backbone", lambda x: f"{x.row.backbone} {x.row.precision}"),
    ]
    last = len(columns) - 1
    datasets = range(last - 4, 2, -1)
    rows = [[make(x) for _, make in columns] for x in grid.lines]
    return fitted([name for name, _ in columns], rows, width, (last, last - 1, last - 2, *datasets), wraps=1)


def _plain(grid: Grid, line: Line, column: int) -> str:
    row = line.cells[column]
    if row is None:
        return ""
    return with_interval(row.miou, None) + _sign(grid, line, column) + ("" if row.complete else " (partial)")


def _sign(grid: Grid, line: Line, column: int) -> str:
    return {1: "*", 2: "+"}.get(grid.mark(line, column), " ")
