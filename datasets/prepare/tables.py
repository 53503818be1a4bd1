"""Tables: what a stored value becomes."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..errors import DataError, Problem
from .job import Options

_CLASSES = Path(__file__).parent.parent / "classes"
_ORIGINAL = "Check that this is the file as downloaded, not a converted or damaged one"


class Table(Options):
    """Stored value -> written value.

    Either two columns (``from``, ``to``) of ``file``, a TSV file in ``datasets/classes`` or given by an absolute path,
    or consecutive values: ``first`` becomes 0, and so on for ``count`` values.  ``also`` adds single pairs.
    """

    file: str | None = None
    source: str | None = Field(default=None, alias="from")
    target: str | None = Field(default=None, alias="to")
    first: int | None = None
    count: int | None = None
    also: dict[int, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> "Table":
        columns, run = (self.file, self.source, self.target), (self.first, self.count)
        by_file = None not in columns and run == (None, None)
        by_count = None not in run and columns == (None, None, None)
        if not by_file and not by_count:
            raise ValueError("a table is either file, from and to, or first and count")
        return self

    def files(self) -> list[Path]:
        """The file, if there is one."""
        return [] if self.file is None else [_CLASSES / self.file]

    def mapping(self) -> dict[int, int]:
        """Stored value -> written value.  Raises ``DataError`` that names the file."""
        if self.file is None:
            assert self.first is not None and self.count is not None
            return {self.first + i: i for i in range(self.count)} | self.also
        rows = read_columns(_CLASSES / self.file, (str(self.source), str(self.target)))
        return {row[0]: row[1] for row in rows} | self.also


def colour_table(file: str) -> tuple[Path, dict[int, int]]:
    """Colour as ``red << 16 | green << 8 | blue`` -> index, from the columns red, green, blue and to."""
    path = _CLASSES / file
    rows = read_columns(path, ("red", "green", "blue", "to"))
    return path, {r << 16 | g << 8 | b: to for r, g, b, to in rows}


def read_columns(path: Path, columns: Iterable[str]) -> list[tuple[int, ...]]:
    """Whole numbers of columns of a TSV file with a header; lines before it that start with ``#`` are comments.

    Rows with an empty cell among the columns are left out.

    Raises ``DataError`` for an absent file or column, and for a cell that is no number.
    """
    if not path.is_file():
        raise DataError(f"table {path} does not exist: name a file of datasets/classes, or an absolute path")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows: list[dict[str, Any]] = list(csv.DictReader(lines, delimiter="\t"))
    wanted = tuple(columns)
    absent = [c for c in wanted if not rows or c not in rows[0]]
    if absent:
        raise DataError(f"table {path} has no column {', '.join(absent)}")
    try:
        return [tuple(int(row[c]) for c in wanted) for row in rows if all(row[c] for c in wanted)]
    except ValueError as error:
        raise DataError(
            f"table {path} has something else than whole numbers in {', '.join(wanted)}: {error}"
        ) from error


def relabel(
    path: Path, values: NDArray[np.uint16], mapping: Mapping[int, int], other: int | None = None
) -> NDArray[np.uint16]:
    """``values`` (H, W) through ``mapping``; values that it does not hold become ``other``.

    Without ``other`` they are an error: raises ``DataError`` that names ``path`` and the values.
    """
    table = np.full(65536, -1 if other is None else other, np.int32)
    pairs = {k: v for k, v in mapping.items() if 0 <= k <= 65535}  # Cityscapes numbers what is not in the files by -1
    table[list(pairs)] = list(pairs.values())
    out = table[values]
    if out.size and out.min() < 0:
        unknown = np.unique(values[out < 0]).tolist()
        raise unknown_values(path, [str(v) for v in unknown])
    return out.astype(np.uint16)


def recolour(path: Path, pixels: NDArray[np.uint8], colours: Mapping[int, int]) -> NDArray[np.uint16]:
    """Indices (H, W) of the colours ``pixels`` (H, W, 3); raises ``DataError`` that names an unknown colour."""
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found, inverse = np.unique(codes, return_inverse=True)
    unknown = [f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in found.tolist() if c not in colours]
    if unknown:
        raise unknown_values(path, unknown)
    return np.array([colours[c] for c in found.tolist()], np.uint16)[inverse.reshape(codes.shape)]


def unknown_values(path: Path, shown: list[str]) -> DataError:
    """Values (or colours) of a file that its table does not hold."""
    more = " ..." if len(shown) > 8 else ""
    what = f"{', '.join(shown[:8])}{more} (value or colour) is not in the table of the data set"
    return DataError("a label holds unknown values:", [Problem(path, what, _ORIGINAL)])
