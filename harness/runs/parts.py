"""Parts: per-image counts on disk, immutable, written whole or not at all, and checked whenever they are read.

A part is a parquet file with one row per image: counts of every class, the digest of the image and label that were
scored, seconds of every stage, peak memory.  Its name holds the checksum of its bytes; its metadata, the *stamp*, says
which plan it belongs to and what made it.  Parts of a run may come from any number of processes in any order and crash
history; merging them sorts by image id, so the merged file has the same bytes every time.
"""

import contextlib
import hashlib
import io
import logging
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from ...datasets.invalid import explain
from ...methods import UserError
from ..metrics.counts import Counts
from ..metrics.of_confusion import SparseConfusion
from .part_rows import check_rows
from .plan import SCHEMA, Plan
from .provenance import code_version, environment
from .scored import STAGES, Scored
from .storing import store

_COUNTS = ("tp", "gt", "pred")
_CELLS = ("label", "prediction", "pixels")
KEPT = (
    *("image", "content", "pixels"),
    *(f"{p}{n}" for p in ("", "boundary_") for n in _COUNTS),
    *(f"confusion_{n}" for n in _CELLS),
)
"""Columns that are the same in every run of the same plan."""
PACKED_FROM = 500
"""From more parts than this a run is packed when it is begun or merged."""
_STAMP = b"ovss"
_NAME = re.compile(r"part-[0-9a-f]{32}-(?P<rows>[0-9]+)-(?P<checksum>[0-9a-f]{16})\.parquet")


class Stamp(BaseModel):
    """What a part says of itself: its run, and what made it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    plan: str
    written: str
    code_version: str
    environment: dict[str, Any]
    workers: int = 1
    loaders: int = 0
    encode_seconds: float = 0.0
    shared_with: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: Plan, device: str, **made_by: Any) -> "Stamp":
        """The stamp of this process, on ``device``, for a run; ``made_by`` are further fields."""
        return cls(
            plan=plan.digest,
            written="",
            code_version=" ".join(filter(None, [code_version(), plan.described.get("plugin")])),
            environment=environment(device),
            **made_by,
        )

    @property
    def maker(self) -> str:
        """What made the part, without when, and how long it took to start."""
        return self.model_dump_json(exclude={"written", "encode_seconds"})


@dataclass(frozen=True)
class ImageResult:
    """What is kept of one image.

    ``content`` is the digest of the image and label that were scored.  ``warm``: the process had done images before, so
    its seconds are typical.  ``wait_seconds``: how long the model stood still until the image was loaded.
    """

    id: str
    scored: Scored
    seconds: dict[str, float]
    peak_bytes: int
    warm: bool
    content: str = ""
    wait_seconds: float = 0.0


@dataclass(frozen=True)
class Parts:
    """All parts of a run: one row per image, sorted by image id, and the stamps, oldest first."""

    frame: pd.DataFrame
    stamps: tuple[Stamp, ...]


def write_part(folder: Path, results: Sequence[ImageResult], stamp: Stamp) -> Path:
    """Write one part.  Raises ``UserError`` when the disk is full or not writable; nothing half-written stays."""
    rows = [
        {
            "image": r.id,
            "content": r.content,
            "pixels": r.scored.pixels,
            **_columns("", r.scored.counts, _COUNTS),
            **_columns("boundary_", r.scored.boundary, _COUNTS),
            **_columns("confusion_", r.scored.confusion, _CELLS),
            **{f"{stage}_seconds": r.seconds[stage] for stage in STAGES},
            "wait_seconds": r.wait_seconds,
            "peak_bytes": r.peak_bytes,
            "warm": r.warm,
        }
        for r in results
    ]
    stamp = stamp.model_copy(update={"written": datetime.now(timezone.utc).isoformat(timespec="microseconds")})
    return _store_part(folder, pd.DataFrame(rows), stamp)


def _store_part(folder: Path, frame: pd.DataFrame, stamp: Stamp) -> Path:
    content = parquet_bytes(frame, stamp.model_dump_json().encode())
    path = folder / f"part-{uuid.uuid4().hex}-{len(frame)}-{_checksum(content)}.parquet"
    store(path, content)
    return path


def _columns(prefix: str, value: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {} if value is None else {f"{prefix}{name}": getattr(value, name) for name in names}


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def parquet_bytes(frame: pd.DataFrame, stamp: bytes = b"") -> bytes:
    """A frame as parquet, with settings that make equal frames equal bytes."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if stamp:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _STAMP: stamp})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def images_in(folder: Path) -> int:
    """How many images the parts of a folder hold, from their names alone."""
    names = (_NAME.fullmatch(p.name) for p in folder.glob("part-*.parquet"))
    return sum(int(name["rows"]) for name in names if name)


def pack(folder: Path, plan: Plan, more_than: int = PACKED_FROM) -> None:
    """Make few parts of many, since opening them costs more than their rows: one for each maker of some.

    The new part is there before those that it replaces go; whatever ends this in between leaves equal rows twice, and
    they collapse.
    """
    paths = _part_files(folder)
    if len(paths) <= more_than:
        return
    made: dict[str, list[tuple[Path, pd.DataFrame, Stamp]]] = {}
    for path in paths:
        frame, stamp = _read_part(path, plan)
        made.setdefault(stamp.maker, []).append((path, frame, stamp))
    for same in made.values():
        if len(same) > 1:
            frame = pd.concat([frame for _, frame, _ in same], ignore_index=True)
            _store_part(folder, frame, max((stamp for *_, stamp in same), key=lambda stamp: stamp.written))
            for path, *_ in same:
                path.unlink()


def images_done(folder: Path) -> set[str]:
    """Images that some part holds.  Only their names are read, and nothing is checked: merging does that."""
    done: set[str] = set()
    for path in folder.glob("part-*.parquet"):
        with contextlib.suppress(FileNotFoundError, pa.ArrowException):  # packed away meanwhile; or damaged: not done
            done.update(pq.read_table(path, columns=["image"]).column("image").to_pylist())
    return done


def read_parts(folder: Path, plan: Plan) -> Parts:
    """All parts of a run.

    Raises ``UserError`` when a part is damaged, belongs to another run, holds impossible rows, or when two parts
    disagree about an image in any column that decides a number.
    """
    read = sorted((_read_part(path, plan) for path in _part_files(folder)), key=lambda part: part[1].written)
    if not read:
        return Parts(pd.DataFrame({"image": []}), ())
    frame = pd.concat([rows for rows, _ in read], ignore_index=True)
    frame = frame.sort_values("image", kind="stable", ignore_index=True)
    _refuse_contradictions(frame, folder)
    return Parts(frame.drop_duplicates("image", ignore_index=True), tuple(stamp for _, stamp in read))


def _part_files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("part-*"))
    foreign = [p for p in found if not _NAME.fullmatch(p.name)]
    if foreign:
        raise UserError(
            f"{foreign[0]} is no part that ovss-bench wrote: a copy, a renamed file or another program's.  Move it out "
            "of the folder and run the same command again"
        )
    return found


def _read_part(path: Path, plan: Plan) -> tuple[pd.DataFrame, Stamp]:
    content = _read_bytes(path)
    if not _is_whole(path, content):
        raise UserError(f"{path} is damaged: its bytes do not fit its checksum.  Run the same command again")
    try:
        table = pq.read_table(io.BytesIO(content))
        stamp = Stamp.model_validate_json((table.schema.metadata or {})[_STAMP])
    except (pa.ArrowException, KeyError, ValidationError) as error:
        raise UserError(
            f"{path} is no part that ovss-bench wrote ({explain(error, 'stamp', '; ', '')}).  Move it out of the folder"
        ) from error
    if stamp.plan != plan.digest:
        raise UserError(f"{path} belongs to another run ({stamp.plan[:10]}): move it out of the folder")
    frame = table.to_pandas()
    check_rows(frame, plan, path)
    return frame, stamp


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _is_whole(path: Path, content: bytes) -> bool:
    name = _NAME.fullmatch(path.name)
    return name is not None and name["checksum"] == _checksum(content)


def set_aside_damaged(folder: Path) -> None:
    """Rename parts whose bytes do not fit their checksum, so that their images are done again, and say so."""
    for path in _part_files(folder):
        if not _is_whole(path, _read_bytes(path)):
            aside = path.with_name(f"damaged-{path.name}")
            path.rename(aside)
            logging.getLogger(__name__).warning("%s is damaged: its images are done again", aside)


def counts_of(frame: pd.DataFrame, num_classes: int, prefix: str = "") -> Counts:
    """Counts ``(N, C)`` of the rows of a frame; prefix ``boundary_`` for those of boundary bands."""
    shape = (len(frame), num_classes)
    return Counts(*(np.array([*frame[prefix + n]] if len(frame) else [], np.int64).reshape(shape) for n in _COUNTS))


def counts_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that are the same in every run of the same plan."""
    return frame[[c for c in frame.columns if c in KEPT]]


def confusion_of(frame: pd.DataFrame) -> SparseConfusion | None:
    """Confusion matrices of the rows of a frame; None if they were not asked for."""
    if "confusion_label" not in frame:
        return None
    cells = zip(*(frame[f"confusion_{n}"] for n in _CELLS), strict=True)
    return SparseConfusion.stack([SparseConfusion(np.zeros(len(c[0]), np.int64), *c) for c in cells])


def _refuse_contradictions(frame: pd.DataFrame, folder: Path) -> None:
    doubled = frame[frame.duplicated("image", keep=False)]
    for image, rows in doubled.groupby("image"):
        for name in (c for c in rows.columns if c in KEPT):
            if any(not np.array_equal(rows[name].iloc[0], other) for other in rows[name]):
                raise UserError(
                    f"{folder} holds two different results for image {image} ({name}): two processes or machines that "
                    "do not agree wrote to one run.  Start over with --fresh"
                )
