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

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from ...datasets.invalid import explain
from ...methods import UserError
from .part_rows import CELLS, COUNTS, check_rows
from .plan import SCHEMA, Plan
from .provenance import code_version, environment
from .scored import STAGES, Scored
from .storing import store

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
class Part:
    """A part that was read and judged."""

    path: Path
    table: pa.Table
    stamp: Stamp


def write_part(folder: Path, results: Sequence[ImageResult], stamp: Stamp) -> Path:
    """Write one part.  Raises ``UserError`` when the disk is full or not writable; nothing half-written stays."""
    rows = [
        {
            "image": r.id,
            "content": r.content,
            "pixels": r.scored.pixels,
            **_columns("", r.scored.counts, COUNTS),
            **_columns("boundary_", r.scored.boundary, COUNTS),
            **_columns("confusion_", r.scored.confusion, CELLS),
            **{f"{stage}_seconds": r.seconds[stage] for stage in STAGES},
            "wait_seconds": r.wait_seconds,
            "peak_bytes": r.peak_bytes,
            "warm": r.warm,
        }
        for r in results
    ]
    stamp = stamp.model_copy(update={"written": datetime.now(timezone.utc).isoformat(timespec="microseconds")})
    return store_part(folder, pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False), stamp)


def store_part(folder: Path, table: pa.Table, stamp: Stamp) -> Path:
    """Write rows that have the form of a part."""
    metadata = {**(table.schema.metadata or {}), _STAMP: stamp.model_dump_json().encode()}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    content = sink.getvalue()
    path = folder / f"part-{uuid.uuid4().hex}-{len(table)}-{_checksum(content)}.parquet"
    store(path, content)
    return path


def _columns(prefix: str, value: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {} if value is None else {f"{prefix}{name}": getattr(value, name) for name in names}


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def images_in(folder: Path) -> int:
    """How many images the parts of a folder hold, from their names alone."""
    return sum(rows_of(path) for path in folder.glob("part-*.parquet"))


def rows_of(path: Path) -> int:
    """How many rows a part has, by its name."""
    name = _NAME.fullmatch(path.name)
    return int(name["rows"]) if name else 0


def images_done(folder: Path) -> set[str]:
    """Images that some part holds.  Only their names are read, and nothing is checked: merging does that."""
    done: set[str] = set()
    for path in folder.glob("part-*.parquet"):
        with contextlib.suppress(FileNotFoundError, pa.ArrowException):  # packed away meanwhile; or damaged: not done
            done.update(pq.read_table(path, columns=["image"]).column("image").to_pylist())
    return done


def part_files(folder: Path) -> list[Path]:
    """The parts of a folder.  Raises ``UserError`` that names what is none."""
    found = sorted(folder.glob("part-*"))
    foreign = [p for p in found if not _NAME.fullmatch(p.name)]
    if foreign:
        raise UserError(
            f"{foreign[0]} is no part that ovss-bench wrote: a copy, a renamed file or another program's.  Move it out "
            "of the folder and run the same command again"
        )
    return found


def read_part(path: Path, plan: Plan) -> Part:
    """A part, its rows judged.  Raises ``UserError`` when it is damaged, of another run, or holds impossible rows."""
    table = read_table(path)
    try:
        stamp = Stamp.model_validate_json((table.schema.metadata or {})[_STAMP])
    except (KeyError, ValidationError) as error:
        raise _foreign(path, error) from error
    if stamp.plan != plan.digest:
        raise UserError(f"{path} belongs to another run ({stamp.plan[:10]}): move it out of the folder")
    check_rows(table, plan, path)
    return Part(path, table, stamp)


def read_table(path: Path) -> pa.Table:
    """The rows of a part, unjudged.  Raises ``UserError`` when its bytes do not fit its checksum."""
    content = _read_bytes(path)
    if not _is_whole(path, content):
        raise UserError(f"{path} is damaged: its bytes do not fit its checksum.  Run the same command again")
    try:
        return pq.read_table(pa.BufferReader(content))
    except pa.ArrowException as error:
        raise _foreign(path, error) from error


def _foreign(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is no part that ovss-bench wrote ({explain(error, 'stamp', '; ', '')}).  Move it out of the folder"
    )


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
    for path in part_files(folder):
        if not _is_whole(path, _read_bytes(path)):
            aside = path.with_name(f"damaged-{path.name}")
            path.rename(aside)
            logging.getLogger(__name__).warning("%s is damaged: its images are done again", aside)
