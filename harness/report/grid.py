"""The grid of the leaderboard: methods by data sets under one protocol hash, with mean, rank and speed."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...methods import UserError
from ..metrics.ranking import Scored, standings
from ..metrics.result import EvalResult
from .rows import Row, newest_runs

SORTS = ("rank", "mean", "method", "images/s")
"""What a grid can be sorted by, beside a data set."""


@dataclass(frozen=True)
class Line:
    """A method: its ``cells``, one per column, and what is over the common columns (None: left out of it)."""

    cells: tuple[Row | None, ...]
    mean: float | None = None
    rank: int | None = None
    interval: tuple[int, int] | None = None
    images_per_second: float | None = None
    peak_mb: float | None = None

    @property
    def row(self) -> Row:
        """Any of its runs: what they share is said by all."""
        return next(cell for cell in self.cells if cell is not None)


@dataclass(frozen=True)
class Grid:
    """Lines of one protocol hash and one kind of training.

    ``common``: the columns that every method with a complete run has, of this kind or the other: mean and rank are over
    these.  Ranks are among the lines of this grid.  Speed and memory are of ``device`` alone.
    """

    columns: tuple[tuple[str, ...], ...]
    common: tuple[int, ...]
    device: str
    training_free: bool
    lines: tuple[Line, ...]

    def mark(self, line: Line, column: int) -> int:
        """1 for the best value of a column (-1: the means), 2 for the second, else 0; equal as printed is equal."""
        values = {_value(other, column) for other in self.lines} - {None}
        order = sorted((v for v in values if v is not None), reverse=True)
        own = _value(line, column)
        return order.index(own) + 1 if own in order[:2] else 0


def _value(line: Line, column: int) -> float | None:
    if column < 0:
        return None if line.mean is None else round(line.mean, 2)
    cell = line.cells[column]
    return None if cell is None or cell.miou is None or not cell.complete else round(cell.miou, 2)


def grids(rows: Sequence[Row], result_of: Callable[[Row], EvalResult], sort: str = "rank") -> tuple[Grid, ...]:
    """Grids of the newest runs, two at most for every protocol hash: training-free methods, then trained ones."""
    found = []
    newest = newest_runs(rows)
    if sort not in (*SORTS, *{r.dataset for r in newest}):
        raise UserError(f"--sort is one of {', '.join(SORTS)} or a data set that is shown, not {sort!r}")
    for key in sorted({(r.protocol, r.protocol_hash) for r in newest}):
        here = [r for r in newest if (r.protocol, r.protocol_hash) == key]
        columns = tuple(sorted({r.column for r in here}))
        cells = {(r.line, r.training_free, r.column): r for r in here}
        lines = [
            Line(tuple(cells.get((*k, c)) for c in columns)) for k in sorted({(r.line, r.training_free) for r in here})
        ]
        common = _common(lines)
        device = _device(here)
        for free in (True, False):
            kind = _stand([x for x in lines if x.row.training_free == free], common, device, result_of)
            if kind:
                found.append(Grid(columns, common, device, free, tuple(sorted(kind, key=lambda x: _order(x, sort)))))
    return tuple(found)


def _scored(line: Line, column: int) -> bool:
    return _value(line, column) is not None


def _common(lines: Sequence[Line]) -> tuple[int, ...]:
    columns = range(len(lines[0].cells))
    counted = [x for x in lines if any(_scored(x, c) for c in columns)]
    return tuple(c for c in columns if counted and all(_scored(x, c) for x in counted))


def _device(rows: Sequence[Row]) -> str:
    """The device with the most runs, of equal ones the first by name."""
    return min(Counter(r.device for r in rows).items(), key=lambda item: (-item[1], item[0]))[0]


def _stand(
    lines: list[Line], common: tuple[int, ...], device: str, result_of: Callable[[Row], EvalResult]
) -> list[Line]:
    """Lines with mean, rank and speed, where they have complete runs in all common columns."""
    counted = [x for x in lines if common and all(_scored(x, c) for c in common)]
    if not counted:
        return lines
    datasets = []
    for column in common:
        results = [result_of(cell) for x in counted if (cell := x.cells[column]) is not None]
        datasets.append(Scored([r.counts for r in results], results[0].clusters, results[0].averaging))
    stood = []
    for line, standing in zip(counted, standings(datasets), strict=True):
        used = [cell for c in common if (cell := line.cells[c]) is not None]
        new = replace(line, mean=100 * standing.mean, rank=standing.rank, interval=standing.interval)
        if all(r.device == device for r in used):
            seconds = sum(1 / r.images_per_second for r in used) / len(used)
            new = replace(new, images_per_second=1 / seconds, peak_mb=max(r.peak_mb for r in used))
        stood.append(new)
    return stood + [x for x in lines if x not in counted]


def _order(line: Line, sort: str) -> tuple[float, float, tuple[str, ...]]:
    """Best first; lines without the value last."""
    last = float("inf")
    value: float | None = None
    match sort:
        case "rank":
            value = line.rank
        case "mean":
            value = None if line.mean is None else -line.mean
        case "method":
            value = 0
        case "images/s":
            value = None if line.images_per_second is None else -line.images_per_second
        case _:
            value = max((r.miou for r in line.cells if r and r.dataset == sort and r.miou is not None), default=None)
            value = None if value is None else -value
    tie = 0.0 if sort == "method" or line.mean is None else -line.mean
    return (last if value is None else value, tie, line.row.line)
