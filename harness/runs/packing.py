"""Packing: few parts of many, since opening them costs more than their rows."""

from pathlib import Path

import pyarrow as pa

from .parts import Part, part_files, read_part, rows_of, store_part
from .plan import Plan

PACKED_FROM = 500
"""From more small parts than this a run is packed when it is begun."""
_ROWS = 1 << 14
"""Rows of a packed part, about; a part of half as many is not small."""
_PENDING = 1 << 15
"""Rows that are held in memory."""


def pack(folder: Path, plan: Plan, more_than: int = PACKED_FROM) -> None:
    """Make few parts of many small ones, each of one maker.

    The new part is there before those that it replaces go; whatever ends this in between leaves equal rows twice, and
    they collapse.
    """
    small = [path for path in part_files(folder) if rows_of(path) < _ROWS // 2]
    if len(small) <= more_than:
        return
    made: dict[str, list[Part]] = {}
    for path in small:
        part = read_part(path, plan)
        made.setdefault(part.stamp.maker, []).append(part)
        largest = max(made, key=lambda maker: _rows(made[maker]))
        if _rows(made[largest]) >= _ROWS or sum(map(_rows, made.values())) >= _PENDING:
            _replace(folder, made.pop(largest))
    for same in made.values():
        _replace(folder, same)


def _rows(same: list[Part]) -> int:
    return sum(len(part.table) for part in same)


def _replace(folder: Path, same: list[Part]) -> None:
    if len(same) > 1:
        table = pa.concat_tables([part.table for part in same], promote_options="permissive")
        store_part(folder, table, max((part.stamp for part in same), key=lambda stamp: stamp.written))
        for part in same:
            part.path.unlink()
