"""The first page: the grids of the leaderboard, as data for its template."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def column_of(row: Row, titles: Mapping[str, str]) -> Column:
    """The column that a run stands in."""
    digest = hashlib.sha256(repr(row.column).encode()).hexdigest()[:8]
    return Column(
        key=f"{row.dataset} {row.split}",
        title=titles.get(row.dataset, row.dataset),
        name=file_name(f"{row.dataset}-{row.split}-{row.protocol.rstrip('*')}-{digest}"),
        protocol=row.protocol,
        protocol_hash=row.protocol_hash,
        dataset_hash=row.dataset_hash,
        images_sha256=row.images_sha256,
        vocabulary=row.vocabulary,
    )


def boards(grids: Sequence[Grid], titles: Mapping[str, str], notes: Notes) -> tuple[Board, ...]:
    """Every grid as its table shows it; ``titles`` of data sets by key."""
    found: list[Board] = []
    for grid in grids:
        rows = [next(r for x in _all(grid, grids) if (r := x.cells[k])) for k in range(len(grid.columns))]
        lines = tuple(
            BoardLine(x, grid.mark(x, -1), tuple(_cell(grid, x, k, notes) for k in range(len(rows))))
            for x in grid.lines
        )
        first = not any(other.grid.columns == grid.columns for other in found)
        columns = tuple(column_of(row, titles) for row in rows)
        found.append(Board(grid, KINDS[grid.training_free], head(grid), columns, lines, rows[0].changed, first))
    return tuple(found)


def _all(grid: Grid, grids: Sequence[Grid]) -> list[Line]:
    """Lines of both kinds: a column may have runs of the other kind alone."""
    return [line for other in grids if other.columns == grid.columns for line in other.lines]


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
