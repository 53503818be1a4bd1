"""The leaderboard as Markdown, from its rows."""

from collections.abc import Sequence
from functools import cache

from ...datasets import list_datasets
from ..metrics.bootstrap import MIN_UNITS, why_no_interval
from ..show.escaping import markdown_code, markdown_text
from ..show.tables import with_interval
from .claims import TOLERANCE, claim_of, judge
from .grid import Grid
from .grid_text import Notes, footnotes, grid_markdown, head, numbered, reference
from .rows import Row, best_first, newest_runs

_PROVENANCE = (
    "method",
    "backbone",
    "weights",
    "precision",
    "trained on",
    "licences",
    "device",
    "code",
    "vocabulary",
    "run",
)


def markdown(rows: Sequence[Row], grids: Sequence[Grid]) -> str:
    """The leaderboard as Markdown: for every protocol its grids, then a table for each data set; notes at the end."""
    parts = [
        "# Leaderboard",
        "",
        "Written by `bench leaderboard`; do not edit.  mIoU in percent; best **bold**, second <ins>underlined</ins>.  "
        "*Rank* is by Borda points (one for each method beaten on a data set, half for a tie; equal points share a "
        "rank), its 95 % interval from a paired bootstrap over the images of every data set.  Partial runs are marked "
        "and have no mean and no rank.  Training-free methods and trained ones stand apart.",
        "",
        "Below the grids, each data set: mIoU with its 95 % bootstrap interval over images.",
        "",
        "- *To the best*: the paired difference on the same images.",
        "- Methods of one *group* cannot be told apart from its best (paired bootstrap, Holm-corrected).",
        "- Groups and differences are over training-free methods and trained ones.",
        "- *Units* are what the bootstrap draws: images, or blocks of dependent ones; "
        f"below {MIN_UNITS} there is no interval and no group.",
        "- *Reported* values are those of the named source, under its own protocol, not ours; a run under that "
        f"protocol reproduces the value, or does not: within {TOLERANCE:g} mIoU, on all images.",
    ]
    newest = newest_runs(rows)
    notes = numbered(newest)
    for protocol in sorted({_section(r) for r in newest}):
        here = [r for r in newest if _section(r) == protocol]
        columns = sorted({r.column for r in here})
        changed = ["", f"Changed by hand: {markdown_code(here[0].changed)}."] if here[0].changed else []
        parts += ["", f"## Protocol {markdown_code(protocol)}", *changed]
        told = None
        for grid in (g for g in grids if g.columns[0] in columns):
            parts += ["", *([] if told == grid.columns else _over(grid)), *grid_markdown(grid, notes)]
            told = grid.columns  # once for both kinds
        for column in columns:
            parts += ["", *_markdown_column([r for r in here if r.column == column], notes)]
    return "\n".join([*parts, *footnotes(notes)]) + "\n"


def _over(grid: Grid) -> list[str]:
    where = f"Protocol hash `{grid.columns[0][3][:8]}`, speed and memory on {markdown_text(grid.device)}."
    return [f"{where}  {head(grid)}", ""]


def _section(row: Row) -> str:
    """Protocol, and the hash too if its values were changed by hand: two changes are two protocols."""
    return f"{row.protocol} {row.protocol_hash[:8]}" if row.protocol.endswith("*") else str(row.protocol)


def _behind(row: Row) -> str:
    if not row.behind:  # nothing to compare with, or the best itself
        return ""
    low, high = row.behind_low, row.behind_high
    return with_interval(row.behind, None if low is None or high is None else (low, high))


def _markdown_column(rows: list[Row], notes: Notes) -> list[str]:
    rows = sorted(rows, key=best_first)
    first = rows[0]
    partial = "" if first.complete else " **(partial)**"
    lines = [
        f"### {markdown_text(title_of(first.dataset))}, {markdown_text(first.split)}, {counted(first)}{partial}",
        "",
        *([f"{why_no_interval(first.units)}.".capitalize(), ""] if first.units < MIN_UNITS else []),
        f"Protocol hash `{first.protocol_hash}`.",
        "",
    ]
    for heading, free in (("Training-free", True), ("Trained", False)):
        lines += _table(heading, [r for r in rows if r.training_free == free], notes)
    imported = any(r.origin for r in rows)
    titles = [*_PROVENANCE, *["imported from"] * imported]
    lines += [
        "<details><summary>Provenance</summary>",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for r in rows:
        weights = f"{r.weights[:17]} ({r.unchecked})" if r.unchecked else r.weights[:17]
        loaded = (r.backbone, weights, r.precision, r.trained_on, r.licences)
        origin = (r.origin or "made here",) * imported
        provenance = (r.method, *loaded, r.device, r.code, r.vocabulary[:8], r.run, *origin)
        lines.append("| " + " | ".join(map(markdown_text, provenance)) + " |")
    return [*lines, "", "</details>"]


def counted(row: Row) -> str:
    """``23 images, 2 units``."""
    return f"{row.images} images, {row.units} unit{'' if row.units == 1 else 's'}"


def _table(heading: str, rows: list[Row], notes: Notes) -> list[str]:
    """Rows of one kind, best first; nothing if there are none."""
    if not rows:
        return []
    lines = [
        f"**{heading}**",
        "",
        "| method | mIoU [95 %] | to the best [95 %] | group | reported | images/s | peak MB |",
        "|---" + "|---:" * 6 + "|",
    ]
    for r in rows:
        cells = [
            markdown_text(r.method),
            with_interval(r.miou, r.bounds) + reference(r, notes),
            _behind(r),
            "" if r.group is None else str(r.group),
            _reported(r),
            f"{r.images_per_second:.1f}",
            f"{r.peak_mb:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _reported(row: Row) -> str:
    """The reported value with its source, and whether a run under the source's protocol reproduces it."""
    if row.reported is None:
        return ""
    source = str(row.reported_source)
    told = f"{row.reported:.1f} ({markdown_text(source)})"
    if row.miou is None or claim_of(row.method, row.dataset, row.protocol_hash, row.reported, source) is None:
        return told
    return f"{told}: {judge(row.reported, row.miou, row.complete)}"


@cache
def title_of(key: str) -> str:
    """Title of a data set of the catalogue; the key itself for others."""
    records = list_datasets()
    return records[key].title if key in records else key
