"""``export_runs``: runs as one file that tells nothing of the machine and the user but the hardware."""

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from ...methods import UserError
from ..runs.run import COUNTS, Finished, Run, find_run
from ..runs.sealed import seal
from ..runs.storing import store, stored_file
from .bundle import FILES, MOST_BYTES, RECORD, Bundle, Member
from .private import refuse_private, without_host, without_places

_STAMP = b"ovss"
_MADE = (1980, 1, 1, 0, 0, 0)
"""The date of every member: the same runs give the same bytes."""
_PLAIN_FILE = 0o100644 << 16


@dataclass(frozen=True)
class Exported:
    """A bundle that was written, and its runs."""

    path: Path
    size_bytes: int
    sha256: str
    runs: tuple[Finished, ...]


def export_runs(names: Sequence[str], output: Path, results: Path = Path("results")) -> Exported:
    """Write a bundle of finished runs (complete or partial), whole or not at all.

    Each run is written again from its plan and its parts, without places and names, merged, and compared: the counts
    have the same bytes as here.

    Raises ``UserError`` for a run that is not merged or not whole, one named twice, or one that cannot be told without
    naming the machine.
    """
    runs = [find_run(name, results) for name in names]
    found = tuple(run.finished() for run in runs)
    doubled = sorted({one.name for one in found if [o.name for o in found].count(one.name) > 1})
    if doubled:
        raise UserError(f"{', '.join(doubled)} is named twice: name each run once")
    with tempfile.TemporaryDirectory(prefix="ovss-export-") as folder:
        for one in found:
            _rewrite(one, Path(folder) / "runs" / one.name)
        _write(output, Path(folder), [one.name for one in found])
    content = output.read_bytes()
    return Exported(output, len(content), hashlib.sha256(content).hexdigest(), found)


def _rewrite(one: Finished, folder: Path) -> None:
    """The run once more in ``folder``, with what may be told of it."""
    if not one.run.is_merged():
        raise UserError(f"{one.folder} holds images that are not merged: finish it with `bench run`, then export it")
    cleaned = Run(folder)
    store(folder / FILES[0], without_places(one.plan).sealed())
    parts = sorted(one.run.parts_folder.glob("part-*.parquet"))
    for path in parts:
        _rewrite_part(path, cleaned.parts_folder, one.name)
    cleaned.merge()
    refuse_private(cleaned.manifest().model_dump(mode="json"), one.name)
    if (folder / COUNTS).read_bytes() != (one.folder / COUNTS).read_bytes():
        raise UserError(f"{one.folder} has changed while it was exported: run the same command again")


def _rewrite_part(path: Path, folder: Path, run: str) -> None:
    """A part with its stamp cleaned; its bytes as they are where nothing had to be."""
    content = path.read_bytes()
    table = pq.read_table(io.BytesIO(content))
    stamp = json.loads(table.schema.metadata[_STAMP])
    cleaned = without_host(stamp)
    refuse_private(cleaned, run)
    if cleaned != stamp:
        metadata = {**table.schema.metadata, _STAMP: json.dumps(cleaned).encode()}
        sink = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        content = sink.getvalue()
    start = path.name.rpartition("-")[0]
    store(folder / f"{start}-{hashlib.sha256(content).hexdigest()[:16]}.parquet", content)


def _write(output: Path, folder: Path, runs: Sequence[str]) -> None:
    files = {f"runs/{run}/{name}": folder / "runs" / run / name for run in runs for name in FILES}
    for run in runs:
        parts = (folder / "runs" / run / "parts").glob("part-*.parquet")
        files |= {f"runs/{run}/parts/{path.name}": path for path in parts}
    members = {name: _member(files[name]) for name in sorted(files)}
    if sum(member.size_bytes for member in members.values()) > MOST_BYTES:
        raise UserError(f"these runs have more than {MOST_BYTES >> 30} GiB together: export them in several bundles")
    record = Bundle(runs=tuple(runs), members=members)
    with stored_file(output) as file, zipfile.ZipFile(file, "w") as bundle:
        _add(bundle, RECORD, seal(record.model_dump(mode="json")))
        for name in members:
            _add(bundle, name, files[name].read_bytes())


def _member(path: Path) -> Member:
    content = path.read_bytes()
    return Member(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _add(bundle: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, _MADE)
    info.external_attr = _PLAIN_FILE
    info.compress_type = zipfile.ZIP_DEFLATED
    bundle.writestr(info, content)
