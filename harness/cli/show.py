"""``bench show``: one run, class by class, and where it comes from."""

from pathlib import Path

from ..report.of_run import class_rows, provenance_rows
from ..runs.run import find_run
from ..show.tables import percent, print_json, print_line, print_table


def show_command(name: str, results: Path, as_json: bool) -> None:
    """Per-class table and provenance."""
    run = find_run(name, results).finished()
    manifest, metrics = run.manifest, run.result.summary()
    if as_json:
        print_json({"manifest": manifest.model_dump(mode="json"), "metrics": metrics, "run_dir": str(run.run.folder)})
        return
    print_table(run.name, ("class", "IoU", "precision", "recall", "images"), class_rows(run))
    print_table("", ("metric", "value"), [(k, percent(v)) for k, v in metrics.items() if isinstance(v, float)])
    print_table("", ("provenance", ""), provenance_rows(run))
    if manifest.note:
        print_line(f"note: {manifest.note}")
