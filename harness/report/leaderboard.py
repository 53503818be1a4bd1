"""Leaderboard: all runs as tables, one per protocol, methods by data sets.

Runs stand in one column only if protocol hash, images, labels and vocabulary are equal; anything else gets a column of
its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ...methods import UserError
from ...methods.models.weights import licences
from ..metrics.bootstrap import indistinct_groups, paired_difference
from ..protocol.protocol import changes_of
from ..runs.plan import Plan
from ..runs.run import Finished, list_runs
from .published import reported


@dataclass(frozen=True)
class Leaderboard:
    """``frame``: one row per finished run, newest first.  ``skipped``: why a run folder could not be read, each."""

    frame: pd.DataFrame
    skipped: tuple[str, ...] = ()


def collect(results: Path) -> Leaderboard:
    """Every finished run, its metrics computed now from its counts; the frame is what is behind every export.

    Of several runs that differ in code or device only, all stay: the table shows the newest one, exports show all.
    A run that is damaged or of an older version is skipped, and said so.
    """
    runs, skipped = _readable(results)
    if not runs:
        why = "".join(f"\n  {reason}" for reason in skipped)
        raise UserError(f"there are no finished runs in {results / 'runs'}: start one with `bench run`{why}")
    frame = pd.DataFrame([_row(run) for run in runs])
    frame = frame.sort_values(["finished", "run"], ascending=False, ignore_index=True)
    return Leaderboard(_with_comparisons(frame, {run.name: run for run in runs}), tuple(skipped))


def _readable(results: Path) -> tuple[list[Finished], list[str]]:
    found, skipped = [], []
    for run in list_runs(results):
        try:
            found.append(run.finished())
        except UserError as error:
            skipped.append(str(error))
    return found, skipped


def _row(run: Finished) -> dict[str, Any]:
    """A run as a row, before it is compared with others."""
    manifest, result = run.manifest, run.result
    weights, described = manifest.weights, manifest.described
    setting, guide = manifest.setting, manifest.guide or {}
    return {
        "method": _label(run.plan),
        "training_free": described["training_free"],
        "trained_on": described["trained_on"],
        "licences": "; ".join(f"{k}: {v}" for k, v in _licences(described, setting).items()),
        "dataset": manifest.dataset["key"],
        "split": manifest.dataset["split"],
        "protocol": manifest.protocol["name"],
        "protocol_hash": manifest.protocol["hash"],
        "changed": changes_of(run.plan.spec.protocol, manifest.dataset["key"]),
        "miou": result.miou,
        "low": result.interval.low if result.interval else None,
        "high": result.interval.high if result.interval else None,
        "group": None,
        "behind": None,
        "behind_low": None,
        "behind_high": None,
        "images": manifest.images,
        "units": result.units,
        "complete": result.complete,
        "images_per_second": 1 / manifest.seconds_per_image,
        "peak_mb": manifest.peak_bytes / 1e6,
        **reported(
            described["published"],
            manifest.dataset["key"],
            str(weights.get("source", "")),
            setting,
        ),
        "backbone": weights.get("name", "none"),
        "weights": weights.get("sha256", "none"),
        "unchecked": manifest.unchecked,
        "precision": setting["precision"],
        "guide": " ".join(str(guide[k]) for k in ("name", "sha256", "precision")) if guide else "",
        "device": manifest.environment["device"],
        "code": manifest.code_version,
        "vocabulary": manifest.vocabulary_hash,
        "images_sha256": manifest.images_sha256,
        "dataset_hash": manifest.dataset["hash"],
        "finished": manifest.finished,
        "note": "; ".join(filter(None, [manifest.note, result.note])),
        "run": run.name,
    }


def _label(plan: Plan) -> str:
    """Name of the method with the options that the user gave it."""
    options = ", ".join(f"{k}={v}" for k, v in sorted(plan.spec.options.items()))
    return f"{plan.spec.method} ({options})" if options else plan.spec.method


def _licences(described: dict[str, Any], setting: dict[str, Any]) -> dict[str, str]:
    """Those of what the run loaded; a guide's name stands for one checkpoint."""
    return described.get("licences", {}) | licences(setting["refine"])


def column_of(row: Any) -> tuple[str, ...]:
    """What must be equal for two runs to stand in one column."""
    return (
        row.protocol,
        row.dataset,
        row.split,
        row.protocol_hash,
        row.dataset_hash,
        row.images_sha256,
        row.vocabulary,
    )


def entry_of(row: Any) -> tuple[str, ...]:
    """What makes a line of a table."""
    return (row.method, row.backbone, row.weights, row.precision, row.guide)


def newest_runs(rows: Iterable[Any]) -> list[Any]:
    """The newest run for every column and line; rows come newest first."""
    seen: dict[tuple[Any, ...], Any] = {}
    for row in rows:
        seen.setdefault((column_of(row), entry_of(row)), row)
    return list(seen.values())


def _with_comparisons(frame: pd.DataFrame, runs: dict[str, Finished]) -> pd.DataFrame:
    """Fill ``group`` and ``behind`` (mIoU minus that of the best, paired, in percent) for the newest runs."""
    columns: dict[tuple[Any, ...], list[Any]] = {}
    for row in newest_runs(frame[frame["miou"].notna()].itertuples()):
        columns.setdefault(column_of(row), []).append(row)
    for rows in columns.values():
        first = runs[rows[0].run].result
        counts = {str(row.Index): runs[row.run].result.counts for row in rows}
        best = str(max(rows, key=lambda row: row.miou).Index)
        groups = indistinct_groups(counts, first.clusters, first.averaging)
        for name in counts:
            found = paired_difference(counts[name], counts[best], first.clusters, first.averaging)
            frame.loc[int(name), "group"] = groups.get(name)
            frame.loc[int(name), "behind"] = 100 * found.estimate
            if found.interval is not None:
                frame.loc[int(name), ["behind_low", "behind_high"]] = (
                    100 * found.interval.low,
                    100 * found.interval.high,
                )
    return frame
