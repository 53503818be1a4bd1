"""``bench leaderboard`` and ``bench regress``."""

import json
import shutil
import sys
from pathlib import Path

from ..metrics.bootstrap import why_no_interval
from ..report.grid_text import KINDS, grid_table, head
from ..report.latex import interval_of
from ..report.leaderboard import Leaderboard, leaderboard
from ..report.rows import Only
from ..show.progress import progress
from ..show.tables import images_and_units, print_json, print_line, print_table, with_interval


def leaderboard_command(
    results: Path, output: Path | None, only: Only, sort: str, interval: str, as_json: bool
) -> None:
    """Write the leaderboard and say where; exit code 1 if a run had to be left out.

    A part of it is written only where ``output`` says: the file of all runs stays what it is.
    """
    if output is None and only == Only() and sort == "rank":
        output = results / "LEADERBOARD.md"
    found = leaderboard(results, output, only, sort, interval_of(interval))
    if as_json:
        print_json(json.loads(found.frame.to_json(orient="records")))
    else:
        _print_grids(found)
        _print_rows(found)
        print_line(f"wrote {output} and {output.stem}.csv, .json, .tex, .bib beside it" if output else _UNWRITTEN)
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
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for grid in found.grids:
        names, rows, dropped = grid_table(grid, width)
        print_line(
            f"{KINDS[grid.training_free]}, protocol {grid.columns[0][0]} {grid.columns[0][3][:8]}, mIoU in percent"
        )
        print_table("", names, rows)
        print_line(head(grid))
        print_line(f"* best, + second; images/s and peak MB on {grid.device}")
        print_line(f"too narrow for: {', '.join(dropped)}\n" if dropped else "")


def _print_rows(found: Leaderboard) -> None:
    ordered = sorted(
        found.rows, key=lambda r: (r.protocol, r.changed, r.dataset, r.split, not r.training_free, -(r.miou or 0))
    )
    rows = [
        (
            f"{r.protocol} {r.changed}".strip(),
            f"{r.dataset} {r.split}",
            r.method,
            "no" if r.training_free else "yes",
            with_interval(r.miou, r.bounds),
            f"{r.images_per_second:.1f}",
            images_and_units(r.images, r.units),
        )
        for r in ordered
    ]
    print_table("", ("protocol", "data set", "method", "trained", "mIoU [95 %]", "images/s", "images"), rows)
    for reason in sorted({why_no_interval(r.units) for r in ordered} - {""}):
        print_line(reason)
    for note in sorted({note for r in ordered for note in r.note.split("; ") if note}):
        print_line(f"note: {note}")


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
