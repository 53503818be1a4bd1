"""``bench leaderboard`` and ``bench regress``."""

import json
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from ..metrics.bootstrap import why_no_interval
from ..report.grid_text import KINDS, grid_table, head
from ..report.latex import interval_of
from ..report.leaderboard import Leaderboard, leaderboard
from ..report.leaderboard_text import counted
from ..report.plots import kind_of, write_plots
from ..report.rows import Only, Row, best_first
from ..show.escaping import plain_text
from ..show.progress import progress
from ..show.tables import Fitted, fitted, print_json, print_line, print_table, terminal_width, with_interval


def leaderboard_command(
    results: Path, output: Path | None, only: Only, sort: str, interval: str, plot: Path | None, as_json: bool
) -> None:
    """Write the leaderboard and say where; exit code 1 if a run had to be left out.

    A part of it is written only where ``output`` says: the file of all runs stays what it is.
    """
    if output is None and only == Only() and sort == "rank":
        output = results / "LEADERBOARD.md"
    if plot is not None:
        kind_of(plot)
    found = leaderboard(results, output, only, sort, interval_of(interval))
    plots = () if plot is None else write_plots(found.rows, found.grids, plot)
    if as_json:
        print_json(json.loads(found.frame.to_json(orient="records")))
    else:
        _print_grids(found)
        _print_rows(found)
        print_line(f"wrote {output} and {output.stem}.csv, .json, .tex, .bib beside it" if output else _UNWRITTEN)
        for path in plots:
            print_line(f"wrote {path}")
    for reason in found.skipped:
        sys.stderr.write(f"left out: {reason}\n")
    if found.skipped:
        raise SystemExit(1)


def only_of(methods: str, datasets: str, protocols: str, complete: bool) -> Only:
    """Filters as they are typed, names with commas between them."""
    split = [tuple(name.strip() for name in text.split(",") if name.strip()) for text in (methods, datasets, protocols)]
    return Only(methods=split[0], datasets=split[1], protocols=split[2], complete=complete)


_UNWRITTEN = "nothing written: a part or another order goes only where --output says"


def _print_grids(found: Leaderboard) -> None:
    for grid in found.grids:
        table = grid_table(grid, terminal_width())
        protocol = plain_text(f"{grid.columns[0][0]} {grid.columns[0][3][:8]}")
        print_line(f"{KINDS[grid.training_free]}, protocol {protocol}, mIoU in percent")
        print_table("", table.columns, table.rows)
        print_line(head(grid))
        print_line(f"images/s and peak MB on {plain_text(grid.device)}")
        print_line(f"{_left_out(table.dropped)}\n" if table.dropped else "")
    print_line("* best, + second of a column\n")


def _print_rows(found: Leaderboard) -> None:
    """Every run, also those that a newer one replaces: a table for each protocol and data set."""
    ordered = sorted(found.rows, key=lambda r: (r.column, not r.training_free, *best_first(r)))
    dropped: dict[str, None] = {}
    for _, group in groupby(ordered, key=lambda r: r.column):
        rows = list(group)
        table = _runs_table(rows)
        first, partial = rows[0], "" if rows[0].complete else " (partial)"
        changed = f" {first.changed}" if first.changed else ""
        protocol = f"{first.protocol} {first.protocol_hash[:8]}{changed}"
        print_line(plain_text(f"{first.dataset} {first.split}, protocol {protocol}, {counted(first)}{partial}"))
        print_table("", table.columns, table.rows)
        print_line("")
        dropped |= dict.fromkeys(table.dropped)
    if dropped:
        print_line(_left_out(dropped))
    for reason in sorted({why_no_interval(r.units) for r in ordered} - {""}):
        print_line(reason)
    for note in sorted({note for r in ordered for note in r.note.split("; ") if note}):
        print_line(f"note: {plain_text(note)}")


def _left_out(columns: Iterable[str]) -> str:
    return plain_text(f"too narrow for: {', '.join(columns)}")


def _runs_table(rows: Sequence[Row]) -> Fitted:
    imported = any(r.origin for r in rows)
    columns = ("method", "mIoU [95 %]", "trained", "images/s", "run", *("device", "imported from") * imported)
    cells = [
        (
            r.method,
            with_interval(r.miou, r.bounds),
            "no" if r.training_free else "yes",
            f"{r.images_per_second:.1f}",
            r.run,
            *(r.device, r.origin or "made here") * imported,
        )
        for r in rows
    ]
    return fitted(columns, cells, terminal_width(), (4, 3, 2), wraps=0)


def regress_command(baselines: Path, update: bool, as_json: bool) -> None:
    """Compare or refresh; exit code 1 if a method has changed."""
    from ..report.regress import offline_methods, read_cases, run_regression

    with progress("regression", len(read_cases(baselines)) * len(offline_methods())) as advance:
        outcomes = run_regression(baselines, update, advance)
    if as_json:
        print_json([{**o.__dict__, "passed": o.passed} for o in outcomes])
    else:
        rows = [
            (
                o.case,
                o.method,
                f"{o.miou:.2f}",
                "none" if o.baseline is None else f"{o.baseline:.2f}",
                o.different_pixels,
                "exact" if o.same_platform else "tolerance",
                "passed" if o.passed else "CHANGED",
            )
            for o in outcomes
        ]
        columns = ("case", "method", "mIoU", "baseline", "pixels off", "comparison", "result")
        print_table("", columns, rows)
        print_line("note: tiny in-house model on synthetic scenes: ranks do not transfer")
        print_line("baselines written" if update else "refresh on purpose with: bench regress --update")
    if not all(o.passed for o in outcomes):
        raise SystemExit(1)
