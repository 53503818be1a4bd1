"""``bench export`` and ``bench import``: runs as one file, for others and from others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runs.run import Finished
from ..show.tables import bytes_text, print_json, print_line, print_table, with_interval
from ..use.bring_in import import_runs
from ..use.export import export_runs


def export_command(runs: Sequence[str], output: Path, results: Path, as_json: bool) -> None:
    """Write the bundle and say what is in it."""
    made = export_runs(runs, output, results)
    if as_json:
        found = [_value(one) for one in made.runs]
        print_json({"bundle": str(output), "size_bytes": made.size_bytes, "sha256": made.sha256, "runs": found})
        return
    _print_runs(made.runs, ["exported"] * len(made.runs))
    print_line(f"wrote {output}, {bytes_text(made.size_bytes)}, sha256 {made.sha256}")
    print_line(
        "places of data and weights and names of user and machine are not in it; processor, GPU and versions are"
    )


def import_command(bundle: Path, name: str, results: Path, as_json: bool) -> None:
    """Put the runs beside the others and say which."""
    found = import_runs(bundle, results, name)
    if as_json:
        print_json([{**_value(one.finished), "state": one.state, "run_dir": str(one.finished.folder)} for one in found])
        return
    _print_runs([one.finished for one in found], [one.state for one in found])
    print_line(f"`bench leaderboard` shows them as from {name or bundle.stem}")


def _print_runs(runs: Sequence[Finished], states: Sequence[str]) -> None:
    columns = ("run", "state", "mIoU [95 %]", "images", "protocol", "device", "code")
    rows = [
        (
            one.name,
            state,
            with_interval(one.summary["miou"], one.summary["interval"]),
            f"{one.manifest.images} of {one.manifest.planned}",
            f"{one.manifest.protocol['name']} {one.manifest.protocol['hash'][:8]}",
            one.manifest.environment["device"],
            one.manifest.code_version,
        )
        for one, state in zip(runs, states, strict=True)
    ]
    print_table("", columns, rows)


def _value(one: Finished) -> dict[str, Any]:
    return {
        "run": one.name,
        "miou": one.summary["miou"],
        "images": one.manifest.images,
        "planned": one.manifest.planned,
        "protocol_hash": one.manifest.protocol["hash"],
        "weights": one.manifest.weights or None,
        "device": one.manifest.environment["device"],
        "code_version": one.manifest.code_version,
    }
