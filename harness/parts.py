"""Parts: per-image counts on disk, immutable, written whole or not at all.

A part is a parquet file with one row per image: counts of every class, seconds of every stage, peak memory.  Parts of
a run may come from any number of processes in any order and crash history; merging them sorts by image id, so the
merged file has the same bytes every time.
"""

import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..methods import UserError
from ..methods.files import store
from .confusion_metrics import SparseConfusion
from .counting import Counts
from .pipeline import STAGES, Scored

_COUNTS = ("tp", "gt", "pred")
_CELLS = ("label", "prediction", "pixels")
_KEPT = {"image", *(f"{p}{n}" for p in ("", "boundary_") for n in _COUNTS), *(f"confusion_{n}" for n in _CELLS)}


@dataclass(frozen=True)
class ImageResult:
    """What is kept of one image.  ``warm``: the process had done images before, so its seconds are typical."""

    id: str
    scored: Scored
    seconds: dict[str, float]
    peak_bytes: int
    warm: bool


def write_part(folder: Path, results: Sequence[ImageResult]) -> Path:
    """Write one part.  Raises ``UserError`` when the disk is full or not writable; nothing half-written stays."""
    rows = [
        {
            "image": r.id,
            **_columns("", r.scored.counts, _COUNTS),
            **_columns("boundary_", r.scored.boundary, _COUNTS),
            **_columns("confusion_", r.scored.confusion, _CELLS),
            **{f"{stage}_seconds": r.seconds[stage] for stage in STAGES},
            "peak_bytes": r.peak_bytes,
            "warm": r.warm,
        }
        for r in results
    ]
    path = folder / f"part-{uuid.uuid4().hex}-{len(rows)}.parquet"
    write_parquet(path, pd.DataFrame(rows))
    return path


def _columns(prefix: str, value: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {} if value is None else {f"{prefix}{name}": getattr(value, name) for name in names}


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as parquet, atomically, with settings that make equal frames equal bytes."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, compression="zstd")
    store(path, sink.getvalue())


def images_in(folder: Path) -> int:
    """How many images the parts of a folder hold, from their names alone."""
    return sum(int(p.stem.rpartition("-")[2]) for p in folder.glob("part-*.parquet"))


def read_parts(folder: Path) -> pd.DataFrame:
    """All parts of a run as one frame, one row per image, sorted by image id.

    Raises ``UserError`` when a part is damaged or two parts disagree about an image.
    """
    frames = []
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            frames.append(pd.read_parquet(path))
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path} is damaged ({error}).  Delete it and run the same command again") from error
    if not frames:
        return pd.DataFrame({"image": []})
    frame = pd.concat(frames, ignore_index=True).sort_values("image", kind="stable", ignore_index=True)
    _refuse_contradictions(frame, folder)
    return frame.drop_duplicates("image", ignore_index=True)


def counts_of(frame: pd.DataFrame, num_classes: int, prefix: str = "") -> Counts:
    """Counts ``(N, C)`` of the rows of a frame; prefix ``boundary_`` for those of boundary bands."""
    shape = (len(frame), num_classes)
    return Counts(*(np.array([*frame[prefix + n]] if len(frame) else [], np.int64).reshape(shape) for n in _COUNTS))


def counts_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that are the same in every run of the same plan: image and counts."""
    return frame[[c for c in frame.columns if c in _KEPT]]


def confusion_of(frame: pd.DataFrame) -> SparseConfusion | None:
    """Confusion matrices of the rows of a frame; None if they were not asked for."""
    if "confusion_label" not in frame:
        return None
    cells = zip(*(frame[f"confusion_{n}"] for n in _CELLS), strict=True)
    return SparseConfusion.stack([SparseConfusion(np.zeros(len(c[0]), np.int64), *c) for c in cells])


def _refuse_contradictions(frame: pd.DataFrame, folder: Path) -> None:
    doubled = frame[frame.duplicated("image", keep=False)]
    for image, rows in doubled.groupby("image"):
        for name in _COUNTS:
            if any(not np.array_equal(rows[name].iloc[0], other) for other in rows[name]):
                raise UserError(
                    f"{folder} holds two different results for image {image}: two processes or machines that do not "
                    "agree wrote to one run.  Start over with --fresh"
                )
