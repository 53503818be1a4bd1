"""The plain way to merge, all rows in memory: what the merge by blocks must give, byte for byte."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ovss.harness.metrics.counts import Counts
from ovss.harness.metrics.of_confusion import SparseConfusion
from ovss.harness.runs.parts import Stamp

CELLS = ("label", "prediction", "pixels")
KEPT = {
    *("image", "content", "pixels", "tp", "gt", "pred", "boundary_tp", "boundary_gt", "boundary_pred"),
    *(f"confusion_{n}" for n in CELLS),
}


def rows_of(folder: Path) -> pd.DataFrame:
    """One row per image of all parts, sorted by image; of equal ones that of the oldest part."""
    read = [pq.read_table(path) for path in sorted(folder.glob("part-*"))]
    if not read:
        return pd.DataFrame({"image": []})
    read.sort(key=lambda table: Stamp.model_validate_json(table.schema.metadata[b"ovss"]).written)
    frame = pd.concat([table.to_pandas() for table in read], ignore_index=True)
    return frame.sort_values("image", kind="stable", ignore_index=True).drop_duplicates("image", ignore_index=True)


def counts_bytes(frame: pd.DataFrame) -> bytes:
    """The file ``counts.parquet``."""
    return parquet_bytes(frame[[c for c in frame.columns if c in KEPT]])


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as parquet, in one row group."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, compression="zstd")
    return sink.getvalue()


def counts_of(frame: pd.DataFrame, num_classes: int, prefix: str = "") -> Counts:
    """Counts ``(N, C)``."""
    shape = (len(frame), num_classes)
    return Counts(*(np.array([*frame[prefix + n]], np.int64).reshape(shape) for n in ("tp", "gt", "pred")))


def confusion_of(frame: pd.DataFrame) -> SparseConfusion:
    """Confusion matrices of every image."""
    cells = zip(*(frame[f"confusion_{n}"] for n in CELLS), strict=True)
    return SparseConfusion.stack([SparseConfusion(np.zeros(len(c[0]), np.int64), *c) for c in cells])
