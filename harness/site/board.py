"""The first page: the grids of the leaderboard, as data for its template."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..report.grid import Grid, Line
from ..report.grid_text import KINDS, Notes, head
from ..report.rows import Row
from .render import file_name


@dataclass(frozen=True)
class Column:
    """A data set under a protocol.  ``key`` is what a reader chooses, ``name`` the file of its own pages."""

    key: str
    title: str
    name: str
    protocol: str
    protocol_hash: str
    dataset_hash: str
    images_sha256: str
    vocabulary: str


@dataclass(frozen=True)
class Cell:
    """A value of a grid; ``seconds`` per image and ``peak_mb`` only where measured on the device of the grid."""

    miou: float | None
    text: str
    mark: int
    complete: bool
    run: str
    notes: tuple[int, ...]
    seconds: float | None
    peak_mb: float | None


@dataclass(frozen=True)
class BoardLine:
    """A line of a grid; an empty cell is None."""

    line: Line
    mark: int
    cells: tuple[Cell | None, ...]

    @property
    def weights(self) -> str:
        """The beginning of the hash of the weights."""
        return self.line.row.weights.partition(":")[2][:8]


@dataclass(frozen=True)
class Board:
    """A grid with what stands around it; ``first``: whether no grid before it has the same columns."""

    grid: Grid
    kind: str
    head: str
    columns: tuple[Column, ...]
    lines: tuple[BoardLine, ...]
    changed: str
    first: bool


def columns_by(rows: Iterable[Row], titles: Mapping[str, str]) -> dict[tuple[str, ...], Column]:
    """Columns by what makes them; ``titles`` of data sets by key.

    Under one protocol two columns of a data set, of all images and of some for example, are told apart by a mark.
    """
    found = {row.column: _column(row, titles) for row in rows}
    times = Counter((c.protocol_hash, c.key) for c in found.values())
    return {
        column: c if times[c.protocol_hash, c.key] == 1 else replace(c, key=f"{c.key} ({c.name[-4:]})")
        for column, c in found.items()
    }


def _column(row: Row, titles: Mapping[str, str]) -> Column:
    digest = hashlib.sha256(repr(row.column).encode()).hexdigest()[:8]
    return Column(
        key=f"{row.dataset} {row.split}",
        title=titles.get(row.dataset, row.dataset),
        name=file_name(f"{row.dataset}-{row.split}-{row.protocol.rstrip('*')}")[:90] + f"-{digest}",
        protocol=row.protocol,
        protocol_hash=row.protocol_hash,
        dataset_hash=row.dataset_hash,
        images_sha256=row.images_sha256,
        vocabulary=row.vocabulary,
    )


def boards(grids: Sequence[Grid], known: Mapping[tuple[str, ...], Column], notes: Notes) -> tuple[Board, ...]:
    """Every grid as its table shows it."""
    found: list[Board] = []
    for grid in grids:
        columns = tuple(known[column] for column in grid.columns)
        lines = tuple(_line(grid, x, notes) for x in grid.lines)
        first = not any(other.grid.columns == grid.columns for other in found)
        changed = grid.lines[0].row.changed
        found.append(Board(grid, KINDS[grid.training_free], head(grid), columns, lines, changed, first))
    return tuple(found)


def _line(grid: Grid, line: Line, notes: Notes) -> BoardLine:
    cells = tuple(_cell(grid, line, k, notes) for k in range(len(grid.columns)))
    return BoardLine(line, grid.mark(line, -1), cells)


def _cell(grid: Grid, line: Line, column: int, notes: Notes) -> Cell | None:
    row = line.cells[column]
    if row is None:
        return None
    here = row.device == grid.device
    return Cell(
        miou=row.miou,
        text="none" if row.miou is None else f"{row.miou:.2f}",
        mark=grid.mark(line, column),
        complete=row.complete and row.miou is not None,
        run=file_name(row.run),
        notes=tuple(sorted({notes[n] for n in row.note.split("; ") if n in notes} - {0})),
        seconds=1 / row.images_per_second if here else None,
        peak_mb=row.peak_mb if here else None,
    )
