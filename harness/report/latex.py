r"""The leaderboard as LaTeX: a float for every grid, then one for every data set; needs ``booktabs``."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from ...methods import UserError
from ...methods.core.errors import did_you_mean
from ..metrics.bootstrap import why_no_interval
from ..show.escaping import latex_text, plain_text
from .grid import Grid, Line
from .grid_text import KINDS, Notes, head, note_numbers, numbered
from .leaderboard_text import counted, title_of
from .references import cite, papers_of_dataset, papers_of_method
from .rows import Row, best_first, line_names, newest_runs

Interval = Literal["pm", "brackets", "none"]
"""How intervals are set: ``41.23 ± 1.10`` (the larger side of it), ``41.23 [40.13, 42.31]``, or not at all."""
_SAID = {
    "pm": r" ($\pm$: the larger side of the 95\,\% bootstrap interval over images)",
    "brackets": r" (in brackets: 95\,\% bootstrap interval over images)",
    "none": "",
}
_MARKS = r"Best \textbf{bold}, second \underline{underlined}."
Names = dict[tuple[str, ...], str]
_MAX_COLUMNS = 3
"""Data sets that fit the width of one column of a page."""


def interval_of(name: str) -> Interval:
    """The way to set intervals that is called so.  Raises ``UserError`` for an unknown name."""
    for known in get_args(Interval):
        if name == known:
            return known
    raise UserError(f"--interval cannot be {name!r}{did_you_mean(name, get_args(Interval))}")


def latex(rows: Sequence[Row], grids: Sequence[Grid], interval: Interval) -> str:
    """Tables of the newest runs, each a float with its caption, to be taken one by one."""
    newest = newest_runs(rows)
    notes = numbered(newest)
    floats = [_grid_float(grid, notes, interval) for grid in grids]
    for column in sorted({r.column for r in newest}):
        floats.append(_column_float([r for r in newest if r.column == column], notes, interval))
    first = [
        "% Written by `bench leaderboard`; the papers that it cites are in the .bib file beside it.",
        r"% Needs \usepackage{booktabs}.",
    ]
    return "\n".join(line for lines in (first, *floats) for line in lines) + "\n"


def _float(kind: str, caption: Iterable[str], label: str, columns: str, lines: Iterable[str]) -> list[str]:
    return [
        "",
        rf"\begin{{{kind}}}",
        rf"\caption{{{' '.join(filter(None, caption))}}}",
        rf"\label{{{label}}}",
        r"\smallskip",
        r"\centering",
        r"% \resizebox would set every table in type of another size.",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{2pt}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{kind}}}",
    ]


def _without_empty(grid: Grid) -> Grid:
    """Without the columns that only the other kind of methods has; to be set, not to be counted over."""
    kept = [k for k in range(len(grid.columns)) if any(line.cells[k] for line in grid.lines)]
    lines = tuple(replace(line, cells=tuple(line.cells[k] for k in kept)) for line in grid.lines)
    return replace(grid, columns=tuple(grid.columns[k] for k in kept), common=(), lines=lines)


def _grid_float(whole: Grid, notes: Notes, interval: Interval) -> list[str]:
    grid = _without_empty(whole)
    shown = [r for line in grid.lines for r in line.cells if r is not None]
    first = [next(r for r in shown if r.column == c) for c in grid.columns]
    heads = [
        ["", *(_centred(c[1]) for c in grid.columns), _centred("mean"), _centred("rank")],
        ["", *(_centred(c[2]) for c in grid.columns), "", ""],
    ]
    caption = [
        f"{KINDS[grid.training_free]} methods, {_under(shown[0], interval)} {_MARKS}",
        latex_text(head(whole, "Mean and rank").replace("  ", " ")),
        f"Data sets: {'; '.join(_dataset(r) for r in first)}.",
        *_provenance([line.row for line in grid.lines], shown),
        "" if all(r.complete for r in shown) else r"$^\dagger$\,Partial run: no mean and no rank.",
        *_footnotes(shown, notes),
    ]
    names = line_names(line.row for line in grid.lines)
    lines = [_joined(cells) for cells in heads]
    lines += [r"\midrule", *(_joined(_grid_cells(grid, line, names, notes, interval)) for line in grid.lines)]
    kind = "table" if len(grid.columns) <= _MAX_COLUMNS else "table*"
    label = f"tab:{_slug(grid.columns[0][0])}-{grid.columns[0][3][:8]}-{_slug(KINDS[grid.training_free])}"
    return _float(kind, caption, label, "l" + "r" * (len(grid.columns) + 2), lines)


def _grid_cells(grid: Grid, line: Line, names: Names, notes: Notes, interval: Interval) -> list[str]:
    rank = "" if line.rank is None else str(line.rank)
    if line.interval and interval != "none":
        rank += rf" {{\scriptsize [{line.interval[0]}, {line.interval[1]}]}}"
    return [
        _method(line.row, names),
        *(_cell(row, grid.mark(line, k), notes, interval) for k, row in enumerate(line.cells)),
        "" if line.mean is None else _marked(line.mean, grid.mark(line, -1)),
        rank,
    ]


def _cell(row: Row | None, mark: int, notes: Notes, interval: Interval) -> str:
    if row is None:
        return ""
    numbers = ",".join(map(str, note_numbers(row, notes)))
    raised = ("" if row.complete else r"\dagger") + numbers
    return _number(row.miou, row.bounds, mark, interval) + (f"$^{{{raised}}}$" if raised else "")


def _column_float(rows: list[Row], notes: Notes, interval: Interval) -> list[str]:
    rows = sorted(rows, key=best_first)
    first, names = rows[0], line_names(rows)
    lines = [_joined(["", *map(_centred, ("mIoU", "to the best", "group", "img/s", "MB"))])]
    for free, kind in KINDS.items():
        here = [r for r in rows if r.training_free == free]
        if here:
            lines += [r"\midrule", rf"\multicolumn{{6}}{{l}}{{\emph{{{kind}}}}} \\"]
        best = sorted({round(r.miou, 2) for r in here if r.miou is not None and r.complete}, reverse=True)[:2]
        lines += [_joined(_column_cells(r, names, best, notes, interval)) for r in here]
    caption = [
        f"{_dataset(first)}: {_under(first, interval)} {_MARKS}",
        "" if first.complete else "Partial runs.",
        f"{why_no_interval(first.units).capitalize()}." if why_no_interval(first.units) else "",
        r"\emph{To the best}: paired difference on the same images, over both kinds. Methods of one \emph{group} "
        r"cannot be told apart from its best (paired bootstrap, Holm-corrected).",
        *_provenance(rows, rows),
        *_footnotes(rows, notes),
    ]
    digest = hashlib.sha256("\0".join(first.column).encode()).hexdigest()[:6]
    label = f"tab:{_slug(first.protocol)}-{first.protocol_hash[:8]}-{_slug(first.dataset)}-{digest}"
    return _float("table", caption, label, "lrrrrr", lines)


def _column_cells(row: Row, names: Names, best: Sequence[float], notes: Notes, interval: Interval) -> list[str]:
    mark = best.index(round(row.miou, 2)) + 1 if row.miou is not None and round(row.miou, 2) in best else 0
    numbers = ",".join(map(str, note_numbers(row, notes)))
    low, high = row.behind_low, row.behind_high
    bounds = None if low is None or high is None else (low, high)
    return [
        _method(row, names),
        _number(row.miou, row.bounds, mark, interval) + (f"$^{{{numbers}}}$" if numbers else ""),
        _number(row.behind, bounds, 0, interval) if row.behind else "",
        "" if row.group is None else str(row.group),
        f"{row.images_per_second:.1f}",
        f"{row.peak_mb:.0f}",
    ]


def _method(row: Row, names: Names) -> str:
    return latex_text(names[row.line]) + cite(papers_of_method(row))


def _number(value: float | None, bounds: tuple[float, float] | None, mark: int, interval: Interval) -> str:
    if value is None:
        return "none"
    text = _marked(value, mark)
    if bounds is None or interval == "none":
        return text
    low, high = bounds
    if interval == "pm":
        return rf"{text}\,{{\scriptsize$\pm${max(value - low, high - value):.2f}}}"
    return rf"{text} {{\scriptsize [{_signed(low)}, {_signed(high)}]}}"


def _marked(value: float, mark: int) -> str:
    return {1: rf"\textbf{{{value:.2f}}}", 2: rf"\underline{{{value:.2f}}}"}.get(mark, _signed(value))


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "$-$")


def _under(row: Row, interval: Interval) -> str:
    changed = f", changed by hand: {latex_text(row.changed)}" if row.changed else ""
    protocol = f"protocol {latex_text(row.protocol)} (hash {row.protocol_hash[:8]}{changed})"
    return rf"mIoU in percent{_SAID[interval]} under {protocol}."


def _dataset(row: Row) -> str:
    name = latex_text(f"{row.dataset} {row.split}")
    return f"{name}, {latex_text(title_of(row.dataset))}{cite(papers_of_dataset(row))} ({counted(row)})"


def _provenance(lines: Sequence[Row], shown: Sequence[Row]) -> list[str]:
    """Weights, device and code, each with the methods that it is of where they differ."""
    return [
        f"Weights: {_shared(lines, lambda r: r.loaded)}.",
        f"Device: {_shared(shown, lambda r: r.device)}.",
        f"Code: {_shared(shown, lambda r: r.code)}.",
    ]


def _shared(rows: Sequence[Row], of: Callable[[Row], str]) -> str:
    values = {of(r): list(dict.fromkeys(x.method for x in rows if of(x) == of(r))) for r in rows}
    if len(values) == 1:
        return latex_text(next(iter(values)))
    return "; ".join(f"{latex_text(value)} ({latex_text(', '.join(methods))})" for value, methods in values.items())


def _footnotes(rows: Iterable[Row], notes: Notes) -> list[str]:
    told = {n for r in rows for n in r.note.split("; ") if n}
    shown = {n: f"{latex_text(n[:1].upper() + n[1:])}." for n in notes if n in told}
    return [(rf"$^{{{notes[n]}}}$\," if notes[n] else "") + text for n, text in shown.items()]


def _centred(text: str) -> str:
    return rf"\multicolumn{{1}}{{c}}{{{latex_text(text)}}}"


def _joined(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _slug(text: str) -> str:
    """What a label may hold, from any text."""
    return re.sub(r"[^a-z0-9]+", "-", plain_text(text).lower()).strip("-")
