"""All pages of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..report.grid import Grid
from ..report.grid_text import numbered
from ..report.rows import Row, newest_runs
from ..runs.run import Finished
from ..show.telling import Progress, counting, unseen
from .board import Column, boards, columns_by
from .gallery import Gallery
from .heat import SHADES, heat_map
from .render import file_name, write_page
from .run_page import run_page, title_of
from .scatter import BOTTOM_PX, HEIGHT_PX, LEFT_PX, RIGHT_PX, TOP_PX, WIDTH_PX, plots
from .writing import copy_static

FRAME = {
    "width": WIDTH_PX,
    "height": HEIGHT_PX,
    "left": LEFT_PX,
    "right": WIDTH_PX - RIGHT_PX,
    "top": TOP_PX,
    "bottom": HEIGHT_PX - BOTTOM_PX,
}


@dataclass(frozen=True)
class Contents:
    """What a report is made of: the rows of all runs, newest first, their grids, and the runs by name.

    ``galleries`` are by the name of their column.  ``skipped`` says why run folders could not be read.
    """

    rows: tuple[Row, ...]
    grids: tuple[Grid, ...]
    runs: Mapping[str, Finished]
    galleries: Mapping[str, Gallery]
    skipped: tuple[str, ...] = ()


def columns_of(rows: Sequence[Row]) -> dict[Column, list[Row]]:
    """The newest runs by column, in the order of data sets and protocols."""
    known = columns_by(rows, _titles(rows))
    found: dict[Column, list[Row]] = {}
    for row in sorted(newest_runs(rows), key=lambda r: r.column):
        found.setdefault(known[row.column], []).append(row)
    return found


def _titles(rows: Sequence[Row]) -> dict[str, str]:
    return {row.dataset: title_of(row.dataset) for row in rows}


def write_pages(folder: Path, contents: Contents, progress: Progress = unseen) -> None:
    """Write every page below an empty folder."""
    copy_static(folder)
    for name in ("data", "runs"):
        (folder / name).mkdir()
    columns = columns_of(contents.rows)
    write_front(folder, contents.rows, contents.grids, contents.skipped)
    write_page(folder / "data.html", "data.html", here="data", columns=columns)
    write_page(folder / "runs.html", "runs.html", here="runs", rows=contents.rows, file_name=file_name)
    advance = counting(progress, "pages", len(columns) + len(contents.rows))
    for column, rows in columns.items():
        write_column(folder, column, rows, contents)
        advance(1)
    known = columns_by(contents.rows, _titles(contents.rows))
    shown = {row.run for row in newest_runs(contents.rows)}
    for row in contents.rows:
        run = contents.runs[row.run]
        path = folder / "runs" / f"{file_name(row.run)}.html"
        write_page(
            path,
            "run.html",
            root="../",
            here="runs",
            page=run_page(run),
            row=row,
            run=run,
            column=known[row.column],
            newest=row.run in shown,
        )
        advance(1)


def write_front(folder: Path, rows: Sequence[Row], grids: Sequence[Grid], skipped: Sequence[str]) -> None:
    """Write ``index.html``: the grids, with the notes of all runs that they show."""
    newest = newest_runs(rows)
    notes = numbered(newest)
    found = boards(grids, columns_by(rows, _titles(rows)), notes)
    keys = list(dict.fromkeys(column.key for board in found for column in board.columns))
    write_page(
        folder / "index.html",
        "index.html",
        here="index",
        boards=found,
        keys=keys,
        notes=notes,
        skipped=skipped,
        runs=len(rows),
    )


def write_column(folder: Path, column: Column, rows: Sequence[Row], contents: Contents) -> None:
    """Write the page of a data set under a protocol: plots, classes, pictures."""
    write_page(
        folder / "data" / f"{column.name}.html",
        "column.html",
        root="../",
        here="data",
        column=column,
        rows=rows,
        plots=plots(rows),
        frame=FRAME,
        heat=heat_map(rows, [contents.runs[row.run] for row in rows]),
        shades=range(SHADES),
        gallery=contents.galleries[column.name],
    )
