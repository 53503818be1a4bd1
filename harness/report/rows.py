"""Rows of the leaderboard: one per finished run, as they are exported and read back."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ...datasets.invalid import explain
from ...methods import UserError
from ...methods.core.errors import did_you_mean

SCHEMA = 1
"""Version of a row.  Rows that were written before they said so are of version 1."""


class Row(BaseModel):
    """A run with its numbers, what they rest on, and how far it is ``behind`` the best of its column.

    mIoU, its bounds and differences are in percent.  None: ``miou`` where no class can be averaged, bounds for fewer
    than ten units, ``group`` and ``behind`` where a newer run is shown instead, ``reported`` where nothing fits.
    ``origin`` is the bundle that a run was imported from, "" for one that was made here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    training_free: bool
    trained_on: str
    licences: str
    dataset: str
    split: str
    protocol: str
    protocol_hash: str
    changed: str
    miou: float | None
    low: float | None
    high: float | None
    group: int | None = None
    behind: float | None = None
    behind_low: float | None = None
    behind_high: float | None = None
    images: int
    units: int
    complete: bool
    images_per_second: float
    peak_mb: float
    reported: float | None
    reported_source: str | None
    backbone: str
    weights: str
    unchecked: str
    precision: str
    guide: str
    regions: str = ""
    device: str
    code: str
    vocabulary: str
    images_sha256: str
    dataset_hash: str
    finished: str
    note: str
    run: str
    origin: str = ""
    schema_version: int = SCHEMA

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Interval of the mIoU, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def column(self) -> tuple[str, ...]:
        """What must be equal for two runs to stand in one column."""
        hashes = (self.protocol_hash, self.dataset_hash, self.images_sha256, self.vocabulary)
        return (self.protocol, self.dataset, self.split, *hashes)

    @property
    def loaded(self) -> str:
        """What the method ran on, in a few words."""
        digest = self.weights.rpartition(":")[2][:8]
        told = " ".join(filter(None, [self.backbone, digest, self.precision, self.unchecked and f"({self.unchecked})"]))
        told = f"{told}, refined by {self.guide}" if self.guide else told
        return f"{told}, regions of {self.regions} voted" if self.regions else told

    @property
    def line(self) -> tuple[str, ...]:
        """What makes a line of a table."""
        return (self.method, self.backbone, self.weights, self.precision, self.guide, self.regions)


def newest_runs(rows: Iterable[Row]) -> list[Row]:
    """The newest run for every column and line; rows come newest first."""
    seen: dict[tuple[tuple[str, ...], tuple[str, ...]], Row] = {}
    for row in rows:
        seen.setdefault((row.column, row.line), row)
    return list(seen.values())


def line_names(rows: Iterable[Row]) -> dict[tuple[str, ...], str]:
    """What to call every line: its method, and what it ran on where the method has several lines."""
    lines = {row.line: row for row in rows}
    often = Counter(row.method for row in lines.values())
    return {
        line: row.method if often[row.method] == 1 else f"{row.method}, {row.loaded}" for line, row in lines.items()
    }


def best_first(row: Row) -> tuple[float, str]:
    """Key to sort rows by mIoU; runs without a value last."""
    return (math.inf if row.miou is None else -row.miou, row.method)


class Only(BaseModel):
    """Which rows are shown: of these methods (with or without their options), data sets, and protocols (name or the
    beginning of a hash); empty means all.  ``complete``: runs over every image, of methods that have such runs on every
    data set of the protocol.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    complete: bool = False

    def of(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that are asked for, in their order."""
        found = [row for row in rows if self._wants(row)]
        if not self.complete:
            return found
        columns: dict[str, set[tuple[str, ...]]] = {}
        lines: dict[tuple[str, tuple[str, ...]], set[tuple[str, ...]]] = {}
        for row in found:
            columns.setdefault(row.protocol_hash, set()).add(row.column)
            lines.setdefault((row.protocol_hash, row.line), set()).add(row.column)
        return [r for r in found if lines[r.protocol_hash, r.line] == columns[r.protocol_hash]]

    def check(self, rows: Sequence[Row]) -> None:
        """Every name is one of these rows.  Raises ``UserError`` that says which are not."""
        methods = {name for r in rows for name in (r.method, _plain(r.method))}
        wrong = [f"--method {n!r}{did_you_mean(n, methods)}" for n in self.methods if n not in methods]
        datasets = {r.dataset for r in rows}
        wrong += [f"--dataset {n!r}{did_you_mean(n, datasets)}" for n in self.datasets if n not in datasets]
        protocols = {r.protocol for r in rows}
        wrong += [
            f"--protocol {n!r}{did_you_mean(n, protocols)}, or six characters or more of a hash"
            for n in self.protocols
            if not any(_is_protocol(r, n) for r in rows)
        ]
        if wrong:
            raise UserError(f"no finished run has {';  nor '.join(wrong)}")

    def _wants(self, row: Row) -> bool:
        return (
            (not self.methods or bool({row.method, _plain(row.method)} & set(self.methods)))
            and (not self.datasets or row.dataset in self.datasets)
            and (not self.protocols or any(_is_protocol(row, name) for name in self.protocols))
            and (row.complete or not self.complete)
        )


def _plain(method: str) -> str:
    """Without its options."""
    return method.partition(" (")[0]


def _is_protocol(row: Row, name: str) -> bool:
    return row.protocol == name or (len(name) >= 6 and row.protocol_hash.startswith(name))


def read_rows(path: Path) -> tuple[Row, ...]:
    """Rows of a ``LEADERBOARD.json``.  Raises ``UserError`` when it is absent, damaged or of another version."""
    fix = "`bench leaderboard` writes it again from the runs"
    try:
        rows = TypeAdapter(tuple[Row, ...]).validate_python(json.loads(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.  {fix}") from error
    except (ValueError, ValidationError, RecursionError) as error:
        raise UserError(
            f"{path} holds no rows that this version understands: {explain(error, 'rows', '; ', '')}.  {fix}"
        ) from error
    versions = sorted({row.schema_version for row in rows} - {SCHEMA})
    if versions:
        raise UserError(f"{path} has rows of version {versions[0]}, this version of ovss-bench reads {SCHEMA}.  {fix}")
    return rows
