"""``bench leaderboard`` and ``bench regress``."""

import json
import sys
from pathlib import Path

from ..metrics.bootstrap import why_no_interval
from ..report.leaderboard import Leaderboard, leaderboard
from ..show.progress import progress
from ..show.tables import images_and_units, print_json, print_line, print_table, with_interval


def leaderboard_command(results: Path, output: Path, as_json: bool) -> None:
    """Write the leaderboard and say where; exit code 1 if a run had to be left out."""
    found = leaderboard(results, output)
    if as_json:
        print_json(json.loads(found.frame.to_json(orient="records")))
    else:
        _print_rows(found, output)
    for reason in found.skipped:
        sys.stderr.write(f"left out: {reason}\n")
    if found.skipped:
        raise SystemExit(1)


def _print_rows(found: Leaderboard, output: Path) -> None:
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
    for note in sorted({r.note for r in ordered if r.note}):
        print_line(f"note: {note}")
    print_line(f"wrote {output} and {output.stem}.csv, .json, .tex beside it")


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
