"""The merged counts of a run as they lie on disk: read whole when they are few, in blocks when they are many."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...methods import UserError
from ..metrics.counts import BLOCK, Counts, ImageCounts, Int64
from ..metrics.of_confusion import SparseConfusion
from .part_rows import CELLS, COUNTS, lists, stacked
from .storing import sha256_of

_FILE_BYTES = 1 << 25
_COUNTS_BYTES = 1 << 21
"""Files and counts up to these sizes are held in memory.  A leaderboard opens very many runs at a time."""


@dataclass(frozen=True)
class StoredCounts:
    """``ImageCounts`` that are read anew whenever they are asked for, ``(N, C)``; ``prefix`` as in the columns."""

    parquet: pq.ParquetFile
    classes: int
    prefix: str = ""

    @property
    def tp(self) -> Int64:
        return self._whole("tp")

    @property
    def gt(self) -> Int64:
        return self._whole("gt")

    @property
    def pred(self) -> Int64:
        return self._whole("pred")

    def __len__(self) -> int:
        return int(self.parquet.metadata.num_rows)

    def blocks(self) -> Iterator[Counts]:
        """Counts of ``BLOCK`` images at a time."""
        for batch in self.parquet.iter_batches(BLOCK, columns=[self.prefix + n for n in COUNTS]):
            yield Counts(*(stacked(batch, self.prefix + n, self.classes) for n in COUNTS))

    def total(self) -> Counts:
        """Sum over all images."""
        return Counts(*np.sum([(t.tp, t.gt, t.pred) for t in (b.total() for b in self.blocks())], axis=0))

    def labelled(self) -> Int64:
        """How many images are labelled with each class, ``(C,)``."""
        return np.asarray(np.sum([block.labelled() for block in self.blocks()], axis=0))

    def at(self, images: NDArray[np.bool_]) -> ImageCounts:
        """Counts of some images, chosen by a mask ``(N,)``: in memory, unless it is all."""
        if images.all():
            return self
        starts = range(0, len(self), BLOCK)
        kept = [b.at(images[s : s + BLOCK]) for s, b in zip(starts, self.blocks(), strict=True)]
        return Counts(*(np.concatenate([getattr(k, n) for k in kept]) for n in COUNTS))

    def _whole(self, name: str) -> Int64:
        table = self.parquet.read([self.prefix + name])
        return stacked(table, self.prefix + name, self.classes)


class CountsFile:
    """An open ``counts.parquet``.  Raises ``UserError`` when it is absent, or its bytes have not this SHA-256."""

    def __init__(self, path: Path, sha256: str, classes: int) -> None:
        self.classes = classes
        try:
            file = io.BytesIO(path.read_bytes()) if path.stat().st_size <= _FILE_BYTES else path.open("rb")
            found = sha256_of(file)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.  Finish it with `bench run`") from error
        if found != sha256:
            raise UserError(
                f"{path} is damaged, or does not belong to the manifest beside it.  `bench run` with the same words "
                "makes it again"
            )
        try:
            self.parquet = pq.ParquetFile(file)
        except pa.ArrowException as error:
            raise UserError(f"{path} cannot be read: {error}") from error

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Images, sorted."""
        return tuple(self.parquet.read(["image"])["image"].to_pylist())

    def frame(self) -> pd.DataFrame:
        """All rows, in memory."""
        return self.parquet.read().to_pandas()

    def counts(self, prefix: str = "") -> ImageCounts:
        """Counts per image; prefix ``boundary_`` for those of boundary bands."""
        stored = StoredCounts(self.parquet, self.classes, prefix)
        if len(stored) * self.classes * 8 * len(COUNTS) > _COUNTS_BYTES:
            return stored
        return Counts(stored.tp, stored.gt, stored.pred)

    def confusion(self, images: NDArray[np.bool_]) -> SparseConfusion:
        """The sum of the confusion matrices of some images, chosen by a mask ``(N,)``."""
        summed = pd.DataFrame({name: np.zeros(0, np.int64) for name in CELLS})
        start = 0
        for batch in self.parquet.iter_batches(BLOCK, columns=[f"confusion_{n}" for n in CELLS]):
            chosen = images[start : start + len(batch)]
            start += len(batch)
            found: dict[str, Any] = {}
            for name in CELLS:
                lengths, values = lists(batch, f"confusion_{name}")
                found[name] = values[np.repeat(chosen, lengths)].astype(np.int64)
            both = pd.concat([summed, pd.DataFrame(found)])
            summed = both.groupby(["label", "prediction"], as_index=False)["pixels"].sum()
        columns = (summed[name].to_numpy(np.int64) for name in CELLS)
        return SparseConfusion(np.zeros(len(summed), np.int64), *columns)
