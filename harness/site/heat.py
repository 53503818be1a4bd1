"""The map of methods and classes of one data set and protocol: IoU in every cell, and its shade."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..report.rows import Row
from ..runs.run import Finished
from .render import file_name

SHADES = 10
"""Shades of the scale, each for an equal part of 0 to 100 %."""


@dataclass(frozen=True)
class Shaded:
    """A cell: the IoU in percent, None for a class that is neither labelled nor predicted."""

    value: float | None

    @property
    def shade(self) -> int:
        """0 for the lowest tenth."""
        return 0 if self.value is None or math.isnan(self.value) else min(SHADES - 1, int(self.value * SHADES / 100))


@dataclass(frozen=True)
class ClassLine:
    """A class and its cells, one for each run."""

    name: str
    images: int
    cells: tuple[Shaded, ...]


@dataclass(frozen=True)
class HeatMap:
    """Runs of one column, best first, and a line for each class."""

    rows: tuple[Row, ...]
    lines: tuple[ClassLine, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the pages of the runs."""
        return tuple(file_name(row.run) for row in self.rows)


def heat_map(rows: Sequence[Row], runs: Sequence[Finished]) -> HeatMap:
    """The map of runs over the same images and classes."""
    pairs = sorted(zip(rows, runs, strict=True), key=lambda p: (-(p[0].miou or 0), p[0].line))
    columns = [run.result.per_class for _, run in pairs]
    images = pairs[0][1].result.counts.labelled()
    lines = tuple(
        ClassLine(name, int(count), tuple(Shaded(column[name]) for column in columns))
        for name, count in zip(columns[0], images, strict=True)
    )
    return HeatMap(tuple(row for row, _ in pairs), lines)
