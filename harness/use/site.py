"""``report_site``: the results folder as pages that open from disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..report.leaderboard import leaderboard
from ..report.rows import Only, Row
from ..runs.run import Finished
from ..show.escaping import plain_text
from ..show.telling import Progress, Say, unsaid, unseen
from ..site.board import Column
from ..site.gallery import Gallery
from ..site.pages import Contents, columns_of, write_pages
from ..site.writing import check_place, new_report

OURS = "shapes"
"""The data set whose pictures are ours: computed, and free to be copied."""


@dataclass(frozen=True)
class Site:
    """What was written: ``left_out`` says why pictures are not there, ``skipped`` why run folders could not be read."""

    index: Path
    runs: int
    pictures: int
    left_out: tuple[str, ...]
    skipped: tuple[str, ...]


def report_site(
    results: Path,
    output: Path,
    with_images: bool = False,
    labels: Path | None = None,
    only: Only = Only(),
    progress: Progress = unseen,
    say: Say = unsaid,
) -> Site:
    """Write a report of every finished run below ``results`` to the folder ``output``.

    Pictures of the embedded data set are always in, others ``with_images`` alone: their licences may forbid copies.
    Label maps are read below ``labels`` where ``save_labels`` has written them, else predicted again.

    ``say`` is told why pictures of a run could not be made.

    Raises ``UserError`` when there is no finished run, or when ``output`` holds anything but an earlier report.
    """
    check_place(output)
    board = leaderboard(results, only=only)
    with new_report(output) as folder:
        galleries = {
            column.name: _gallery(folder, column, rows, board.runs, with_images, labels, progress, say)
            for column, rows in columns_of(board.rows).items()
        }
        write_pages(folder, Contents(board.rows, board.grids, board.runs, galleries, board.skipped), progress)
    return Site(
        output / "index.html",
        len(board.rows),
        sum(len(gallery.images) for gallery in galleries.values()),
        tuple(dict.fromkeys(reason for gallery in galleries.values() for reason in gallery.left_out)),
        board.skipped,
    )


def _gallery(
    folder: Path,
    column: Column,
    rows: Sequence[Row],
    runs: Mapping[str, Finished],
    with_images: bool,
    labels: Path | None,
    progress: Progress,
    say: Say,
) -> Gallery:
    best = sorted(rows, key=lambda row: (-(row.miou or 0), row.line))
    record = runs[best[0].run].plan.record
    if record.key != OURS and not with_images:
        why = (
            f"No pictures of {record.key}: they are not ours to copy (licence: {plain_text(record.licence)}).  "
            "`bench report --with-images` puts them in"
        )
        return Gallery(record.licence, left_out=(why,))
    from .gallery import RUNS_MOST, draw_gallery  # tables need no torch

    left_out = [f"Pictures of {column.key} are of the best {RUNS_MOST} of {len(best)} runs."] * (len(best) > RUNS_MOST)
    shown = [(row.method, runs[row.run]) for row in best[:RUNS_MOST]]
    return draw_gallery(folder, column.name, shown, labels, left_out, progress, say)
