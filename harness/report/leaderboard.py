"""Leaderboard: all runs as tables, one per protocol, methods by data sets.

Runs stand in one column only if protocol hash, images, labels and vocabulary are equal; anything else gets a column of
its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ...methods import UserError
from ...methods.models.weights import licences
from ..metrics.groups import indistinct_groups
from ..metrics.result import replicates_of_results
from ..protocol.differences import changes_of
from ..runs.plan import Plan
from ..runs.run import Finished, list_runs
from ..runs.storing import store
from .grid import Grid, grids
from .latex import Interval, latex
from .leaderboard_text import markdown
from .origin import read_origin
from .published import reported
from .references import bibtex
from .rows import Only, Row, newest_runs


@dataclass(frozen=True)
class Leaderboard:
    """``rows``: one per finished run, newest first.  ``skipped``: why a run folder could not be read, each.

    ``grids``: methods by data sets, see ``Grid``.  ``runs``: the runs of the rows, by name.
    """

    rows: tuple[Row, ...]
    skipped: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    runs: Mapping[str, Finished] = field(default_factory=dict)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a table, a column for each field: what is behind every export."""
        return pd.DataFrame([row.model_dump() for row in self.rows]).astype({"group": "Int64"})

    @cached_property
    def markdown(self) -> str:
        """The tables as Markdown; of several runs of one line and column the newest is shown."""
        return markdown(self.rows, self.grids)

    def write(self, output: Path, interval: Interval = "pm") -> None:
        """Write ``output`` (Markdown), and beside it the rows as .csv and .json, the tables as .tex with their .bib."""
        store(output, self.markdown.encode())
        store(output.with_suffix(".csv"), self.frame.to_csv(index=False).encode())
        store(output.with_suffix(".json"), (self.frame.to_json(orient="records", indent=2) + "\n").encode())
        store(output.with_suffix(".tex"), latex(self.rows, self.grids, interval).encode())
        store(output.with_suffix(".bib"), bibtex(newest_runs(self.rows)).encode())


def leaderboard(
    results: Path = Path("results"),
    output: Path | None = None,
    only: Only = Only(),
    sort: str = "rank",
    interval: Interval = "pm",
) -> Leaderboard:
    """Every finished run below ``results``, its metrics computed now from its counts; written where ``output`` says.

    Of several runs that differ in code or device only, all stay: the tables show the newest one, exports show all.
    A run that is damaged or of an older version is skipped, and said so.  ``only`` leaves runs out before anything is
    compared; ``sort`` is the order of the grids, one of ``grid.SORTS`` or a data set; ``interval`` is how LaTeX sets
    intervals.

    Raises ``UserError`` when there is no finished run, none that was asked for, or a name in ``only`` that none has.
    """
    runs, skipped = _readable(results)
    if not runs:
        why = "".join(f"\n  {reason}" for reason in skipped)
        raise UserError(f"there are no finished runs in {results / 'runs'}: start one with `bench run`{why}")
    rows = sorted((_row(run) for run in runs), key=lambda row: (row.finished, row.run), reverse=True)
    only.check(rows)
    rows = only.of(rows)
    if not rows:
        raise UserError(
            f"none of {len(runs)} finished runs is all of what was asked for: `bench leaderboard` shows them all"
        )
    by_name = {run.name: run for run in runs}
    compared = _with_comparisons(rows, by_name)
    found = Leaderboard(compared, tuple(skipped), grids(compared, lambda row: by_name[row.run].result, sort), by_name)
    if output is not None:
        found.write(output, interval)
    return found


def _readable(results: Path) -> tuple[list[Finished], list[str]]:
    found, skipped = [], []
    for run in list_runs(results):
        try:
            read_origin(run.folder)
            found.append(run.finished())
        except UserError as error:
            skipped.append(str(error))
    return found, skipped


def _row(run: Finished) -> Row:
    """A run as a row, before it is compared with others."""
    manifest, result = run.manifest, run.result
    weights, described = manifest.weights, manifest.described
    setting, guide = manifest.setting, manifest.guide or {}
    origin = read_origin(run.folder)
    return Row(
        method=_label(run.plan),
        training_free=described["training_free"],
        trained_on=described["trained_on"],
        licences="; ".join(f"{k}: {v}" for k, v in _licences(described, setting).items()),
        dataset=manifest.dataset["key"],
        split=manifest.dataset["split"],
        protocol=manifest.protocol["name"],
        protocol_hash=manifest.protocol["hash"],
        changed=changes_of(run.plan.spec.protocol, manifest.dataset["key"]),
        miou=None if math.isnan(result.miou) else result.miou,
        low=result.interval.low if result.interval else None,
        high=result.interval.high if result.interval else None,
        images=manifest.images,
        units=result.units,
        complete=result.complete,
        images_per_second=1 / manifest.seconds_per_image,
        peak_mb=manifest.peak_bytes / 1e6,
        **reported(
            described["published"],
            manifest.dataset["key"],
            str(weights.get("source", "")),
            setting,
        ),
        backbone=weights.get("name", "none"),
        weights=weights.get("sha256", "none"),
        unchecked=manifest.unchecked,
        precision=setting["precision"],
        guide=" ".join(str(guide[k]) for k in ("name", "sha256", "precision")) if guide else "",
        regions=manifest.voted_by,
        device=manifest.environment["device"],
        code=manifest.code_version,
        vocabulary=manifest.vocabulary_hash,
        images_sha256=manifest.images_sha256,
        dataset_hash=manifest.dataset["hash"],
        finished=manifest.finished,
        note="; ".join(filter(None, [manifest.note, result.note])),
        run=run.name,
        origin=origin.name if origin else "",
    )


def _label(plan: Plan) -> str:
    """Name of the method with the options that the user gave it."""
    options = ", ".join(f"{k}={v}" for k, v in sorted(plan.spec.options.items()))
    return f"{plan.spec.method} ({options})" if options else plan.spec.method


def _licences(described: dict[str, Any], setting: dict[str, Any]) -> dict[str, str]:
    """Those of what the run loaded; a guide's name stands for one checkpoint."""
    return described.get("licences", {}) | licences(setting["refine"])


def _with_comparisons(rows: list[Row], runs: dict[str, Finished]) -> tuple[Row, ...]:
    """Fill ``group`` and ``behind`` (mIoU minus that of the best, paired) for the newest runs."""
    columns: dict[tuple[str, ...], list[Row]] = {}
    for row in newest_runs(row for row in rows if row.miou is not None):
        columns.setdefault(row.column, []).append(row)
    compared = {}
    for column in columns.values():
        best = max(column, key=lambda row: row.miou or 0.0).run
        drawn = replicates_of_results({row.run: runs[row.run].result for row in column})
        groups = indistinct_groups(drawn)
        for name in drawn.estimates:
            found = drawn.difference(name, best)
            interval = found.interval
            compared[name] = {
                "group": groups.get(name),
                "behind": 100 * found.estimate,
                "behind_low": 100 * interval.low if interval else None,
                "behind_high": 100 * interval.high if interval else None,
            }
    return tuple(row.model_copy(update=compared.get(row.run, {})) for row in rows)
