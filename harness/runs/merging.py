"""Merging: the rows of all parts, sorted by image id, in memory that does not grow with counts.

Parts hold images in any order.  They are read once more, one after the other, and their rows are dealt out to a scratch
file by the block of the merged file that they belong to; then each block is read, sorted and written as a row group.
The scratch file has no name, so nothing of it stays, whatever ends this.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .part_rows import kept_columns
from .parts import read_table
from .plan import Plan
from .storing import stored_file
from .survey import Survey

ROWS = 1 << 13
"""Images of a row group of the merged file."""
_IN_MEMORY_BYTES = 1 << 24
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


def write_counts(path: Path, found: Survey, plan: Plan, before: Callable[[], None]) -> str:
    """Write the counts of all images of a survey as parquet, whole or not at all, and give their SHA-256.

    Equal rows are equal bytes.  ``before`` is called when all is written, before the file takes its name.
    """
    schema = _schema(plan)
    with stored_file(path) as file, tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(path.parent)) as scratch:
        hashed = _Hashed(file)
        with pq.ParquetWriter(pa.PythonFile(hashed, "w"), schema, compression="zstd") as writer:
            for table in _in_order(found, schema, _Blocks(scratch)):
                writer.write_table(table, row_group_size=ROWS)
        pa.default_memory_pool().release_unused()
        before()
        return hashed.sha256.hexdigest()


def _schema(plan: Plan) -> pa.Schema:
    """That of a frame with these columns: text, whole numbers, and lists of them."""
    text, number = {"image": "", "content": ""}, {"pixels": 0}
    row = {name: text.get(name, number.get(name, np.zeros(1, np.int64))) for name in kept_columns(plan)}
    return pa.Table.from_pandas(pd.DataFrame([row]), preserve_index=False).schema


def _in_order(found: Survey, schema: pa.Schema, blocks: "_Blocks") -> Iterator[pa.Table]:
    """Rows of all images by image id, ``ROWS`` at a time."""
    by_file = np.argsort(found.file, kind="stable")
    ends = np.searchsorted(found.file[by_file], np.arange(len(found.files) + 1))
    for number, path in enumerate(found.files):
        ranks = by_file[ends[number] : ends[number + 1]]
        table = read_table(path).select(schema.names).take(pa.array(found.row[ranks]))
        blocks.add(table.cast(schema).append_column("rank", pa.array(ranks)))
    yield from blocks.sorted()


@dataclass
class _Blocks:
    """Rows with their rank in the merged file, dealt out by block to a scratch file."""

    scratch: IO[bytes]
    pending: list[pa.Table] = field(default_factory=list)
    pieces: dict[int, list[int]] = field(default_factory=dict)

    def add(self, table: pa.Table) -> None:
        """Rows of any blocks."""
        self.pending.append(table)
        if sum(map(len, self.pending)) >= ROWS:
            self._deal()

    def sorted(self) -> Iterator[pa.Table]:
        """Each block, sorted."""
        self._deal()
        for block in sorted(self.pieces):
            read = []
            for start in self.pieces.pop(block):
                self.scratch.seek(start)
                read.append(pa.ipc.open_stream(self.scratch).read_all())
            yield pa.concat_tables(read).sort_by("rank").drop_columns("rank")

    def _deal(self) -> None:
        if not any(map(len, self.pending)):
            return
        table = pa.concat_tables(self.pending)
        self.pending.clear()
        table = table.sort_by("rank")
        table = table.combine_chunks()  # one copy after the other, not side by side
        block = table["rank"].to_numpy() // ROWS
        numbers, starts = np.unique(block, return_index=True)
        for number, start, end in zip(numbers.tolist(), starts, [*starts[1:], len(table)], strict=True):
            self.pieces.setdefault(number, []).append(self.scratch.seek(0, 2))
            with pa.ipc.new_stream(self.scratch, table.schema, options=_PACKED) as stream:
                stream.write_table(table.slice(start, end - start))


class _Hashed:
    """A file to write to that knows the SHA-256 of what was written."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return self.file.tell()
