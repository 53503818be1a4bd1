"""``bench report``: the results folder as pages that open from disk."""

import sys
from pathlib import Path

from ..report.rows import Only
from ..show.progress import bars
from ..show.tables import print_json, print_line, print_warning
from ..use.site import report_site


def report_command(
    results: Path, output: Path, with_images: bool, labels: Path | None, only: Only, as_json: bool
) -> None:
    """Write the report and say where; exit code 1 if a run had to be left out."""
    with bars() as progress:
        found = report_site(results, output, with_images, labels, only, progress, print_warning)
    if as_json:
        left_out = {"left_out": list(found.left_out), "skipped": list(found.skipped)}
        print_json({"index": str(found.index), "runs": found.runs, "pictures": found.pictures, **left_out})
    else:
        for reason in found.left_out:
            print_line(reason)
        print_line(f"wrote {found.index}: {found.runs} runs, {found.pictures} images")
    for reason in found.skipped:
        sys.stderr.write(f"left out: {reason}\n")
    if found.skipped:
        raise SystemExit(1)
