"""``bench list runs``: the run folders below ``results``, whatever their state."""

from pathlib import Path
from typing import Any

from ..show.tables import bytes_text, fitted, percent, print_json, print_line, print_table, terminal_width
from ..use.run_list import ListedRun, all_runs

_COLUMNS = ("run", "state", "method", "data set", "protocol", "images", "mIoU", "date", "size")
_SPARED = (2, 3, 4, 7, 8)
"""Columns that a narrow terminal does without, first to last; the name holds the first three."""


def list_runs_command(results: Path, as_json: bool) -> None:
    """A row for each run; what is damaged is said below."""
    runs = all_runs(results)
    if as_json:
        print_json([_value(run) for run in runs])
        return
    if not runs:
        print_line(f"there are no runs in {results / 'runs'}: start one with `bench run`")
        return
    table = fitted(_COLUMNS, [_row(run) for run in runs], terminal_width(), _SPARED, wraps=0)
    print_table("", table.columns, table.rows)
    if any(run.older_code for run in runs):
        print_line(
            "older code: `bench run` with the same words begins another run; `bench clean` removes superseded ones"
        )
    for run in runs:
        if run.problem:
            print_line(f"{run.name}: {run.problem}")
    count, size = f"{len(runs)} run{'' if len(runs) == 1 else 's'}", bytes_text(sum(run.size_bytes for run in runs))
    print_line(f"{count}, {size}; weights, device, code: --json")


def _row(run: ListedRun) -> tuple[str, ...]:
    state = run.state + (", older code" if run.older_code else "") + (f", from {run.origin}" if run.origin else "")
    if run.plan is None:
        return (run.name, state, "", "", "", "", "", run.date[:10], bytes_text(run.size_bytes))
    identity = run.plan.identity
    return (
        run.name,
        state,
        run.plan.spec.method,
        f"{identity['dataset']['key']} {identity['dataset']['split']}",
        f"{identity['protocol']['name']} {identity['protocol']['hash'][:8]}",
        f"{run.done} of {run.plan.planned}",
        "" if run.miou is None else percent(run.miou),
        run.date[:10],
        bytes_text(run.size_bytes),
    )


def _value(run: ListedRun) -> dict[str, Any]:
    identity: dict[str, Any] = run.plan.identity if run.plan else {}
    manifest = run.finished.manifest if run.finished else None
    dataset, protocol = identity.get("dataset", {}), identity.get("protocol", {})
    return {
        "run": run.name,
        "state": run.state,
        "older_code": run.older_code,
        "method": run.plan.spec.method if run.plan else None,
        "options": run.plan.spec.options if run.plan else None,
        "dataset": dataset.get("key"),
        "split": dataset.get("split"),
        "protocol": protocol.get("name"),
        "protocol_hash": protocol.get("hash"),
        "images": run.done,
        "planned": run.plan.planned if run.plan else None,
        "miou": run.miou,
        "weights": identity.get("method", {}).get("weights"),
        "device": manifest.environment["device"] if manifest else None,
        "code_version": manifest.code_version if manifest else None,
        "date": run.date,
        "size_bytes": run.size_bytes,
        "origin": run.origin or None,
        "problem": run.problem or None,
        "run_dir": str(run.folder),
    }
