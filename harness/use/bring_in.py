"""``import_runs``: runs of a bundle, every byte checked before any of them stands in the results folder."""

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ...datasets.invalid import explain
from ...methods import UserError
from ..report.origin import Origin
from ..runs.plan import Plan
from ..runs.run import COUNTS, ORIGIN, PLAN, Finished, Run
from ..runs.sealed import unseal
from ..runs.storing import made_folder, store
from .bundle import MEMBER, MOST_BYTES, MOST_JSON_BYTES, MOST_MEMBERS, RECORD, SCHEMA, Bundle, most_parquet_bytes
from .clean import PASSING

_STEP_BYTES = 1 << 20
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Imported:
    """A run of a bundle: put beside the others, or there already with the same counts."""

    finished: Finished
    state: Literal["imported", "already here"]


def import_runs(path: Path, results: Path = Path("results"), name: str = "") -> list[Imported]:
    """Put the runs of a bundle below ``results``, all of them or none; ``name`` is what tables call the bundle.

    A run that is here with the same counts stays as it is.

    Raises ``UserError`` for a file that is no bundle, one with anything in it that does not belong there or does not
    fit its checksum, a run that cannot be read as any run is, and a run that is here with other bytes.
    """
    try:
        with path.open("rb") as file:
            origin = Origin(bundle=name or path.stem, sha256=_sha256(file))
            with zipfile.ZipFile(file) as bundle, _staging(results) as staging:
                record = _record(bundle, path)
                _unpack(bundle, record, staging, path)
                return _put(record, staging, results, origin, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be imported: {error.filename or ''} {error.strerror or error}".strip()
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(
            f"{path} is no whole bundle ({error}): get it again, or write it with `bench export`"
        ) from error


@contextmanager
def _staging(results: Path) -> Iterator[Path]:
    """A folder beside the runs, gone at the end."""
    place = made_folder(results / "runs")
    folder = Path(tempfile.mkdtemp(prefix=PASSING[0], dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- the record, and what the archive lists


def _record(bundle: zipfile.ZipFile, path: Path) -> Bundle:
    """The record; the archive holds what it names and nothing else."""
    entries = bundle.infolist()
    if len(entries) > MOST_MEMBERS:
        raise UserError(f"{path} has {len(entries)} members, more than the {MOST_MEMBERS} that are read")
    for entry in entries:
        _check_entry(entry, path)
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names) or RECORD not in names:
        fault = f"has no {RECORD}" if RECORD not in names else "has two members of one name"
        raise UserError(f"{path} {fault}: it is no file that `bench export` wrote")
    value = unseal(bundle.read(RECORD), path / RECORD)
    if value.get("schema_version") != SCHEMA:
        raise UserError(
            f"{path} has schema version {value.get('schema_version')}, this version of ovss-bench reads {SCHEMA}"
        )
    try:
        record = Bundle.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path} has a record that is not understood:\n{explain(error, RECORD)}") from error
    _check_record(record, {e.filename: e.file_size for e in entries if e.filename != RECORD}, path)
    return record


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or entry.is_dir():
        raise UserError(f"{path} holds {entry.filename!r}, which is a link or no plain file: a bundle has none")
    if entry.filename != RECORD and not MEMBER.fullmatch(entry.filename):
        raise UserError(f"{path} holds {entry.filename!r}, which is no file of a run: nothing of it was unpacked")
    if entry.flag_bits & 1 or entry.compress_type not in _PACKED:
        raise UserError(f"{path} holds {entry.filename!r} encrypted or packed in a way that bundles are not")
    if entry.filename.endswith(".json") and entry.file_size > MOST_JSON_BYTES:
        raise UserError(f"{path} holds {entry.filename!r} of more than {MOST_JSON_BYTES >> 20} MiB: it is not unpacked")


def _check_record(record: Bundle, sizes: dict[str, int], path: Path) -> None:
    if sum(sizes.values()) > MOST_BYTES:
        raise UserError(f"{path} would unpack to more than {MOST_BYTES >> 30} GiB: it is not unpacked")
    if {name: member.size_bytes for name, member in record.members.items()} != sizes:
        raise UserError(f"{path} does not hold what its {RECORD} says: members or their sizes differ")
    if {MEMBER.fullmatch(name)["run"] for name in sizes} != set(record.runs):  # type: ignore[index]  # checked above
        raise UserError(f"{path} does not hold the runs that its {RECORD} names")


# ---- bytes


def _unpack(bundle: zipfile.ZipFile, record: Bundle, staging: Path, path: Path) -> None:
    """Every member to its place in ``staging``: plans first, since they bound the other files."""
    for run in record.runs:
        mine = [name for name in record.members if name.startswith(f"runs/{run}/")]
        plan_name = f"runs/{run}/{PLAN}"
        if plan_name not in mine:
            raise UserError(f"{path} has no plan of run {run}")
        for name in sorted(mine, key=lambda name: name != plan_name):
            entry, target = bundle.getinfo(name), staging / name.removeprefix("runs/")
            if name.endswith(".parquet"):
                _check_size(entry.file_size, Run(staging / run).plan(), f"{path}: {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            content = bundle.read(entry)  # never more than the size that was checked
            if hashlib.sha256(content).hexdigest() != record.members[name].sha256:
                raise UserError(f"{path} is damaged: {name} does not fit its checksum.  Get it again")
            target.write_bytes(content)
        _check_unpacked(staging / run)


def _check_size(size: int, plan: Plan, what: str) -> None:
    most = most_parquet_bytes(plan)
    if size > most:
        raise UserError(f"{what} has {size} bytes, more than the {most} that rows of its plan can take")


def _check_unpacked(folder: Path) -> None:
    """Parquet packs too: rows and sizes that its files state stay within the plan, before any is read."""
    plan = Run(folder).plan()
    for path in sorted(folder.rglob("*.parquet")):
        try:
            stated = pq.read_metadata(path)
        except pa.ArrowException as error:
            raise UserError(f"{path.name} of run {folder.name} is no parquet file: {error}") from error
        if stated.num_rows > len(plan.ids):
            raise UserError(f"{path.name} of run {folder.name} has {stated.num_rows} rows for {len(plan.ids)} images")
        size = sum(stated.row_group(k).total_byte_size for k in range(stated.num_row_groups))
        _check_size(size, plan, f"{path.name} of run {folder.name}, unpacked,")


# ---- runs


def _put(record: Bundle, staging: Path, results: Path, origin: Origin, path: Path) -> list[Imported]:
    """Check every run, then move all of them; what was moved goes back when one cannot be."""
    for run in record.runs:
        try:
            _check_run(Run(staging / run))
        except UserError as error:
            raise UserError(f"nothing was imported from {path}, its run {run} is not whole: {error}") from error
    known = {run: _is_here(run, staging, results) for run in record.runs}
    moved: list[Path] = []
    try:
        for run in record.runs:
            if not known[run]:
                store(staging / run / ORIGIN, origin.sealed())
                os.rename(staging / run, results / "runs" / run)  # noqa: PTH104  one call that a test can let fail
                moved.append(results / "runs" / run)
    except BaseException:
        for folder in moved:
            folder.rename(staging / folder.name)
        raise
    found = {run: Run(results / "runs" / run).finished() for run in record.runs}
    return [Imported(found[run], "already here" if known[run] else "imported") for run in record.runs]


def _check_run(run: Run) -> None:
    """A run that reads as any run does, and whose plan is what its identity says."""
    plan = run.plan()
    if plan.name != run.folder.name:
        raise UserError(f"it has the plan of {plan.name}")
    dataset, protocol = plan.identity["dataset"], plan.identity["protocol"]
    ids, content = ("\n".join(texts).encode() for texts in (plan.ids, plan.digests))
    stated = (dataset["hash"], dataset["images_sha256"], dataset["content_sha256"], protocol["hash"])
    is_so = (
        plan.record.hash,
        hashlib.sha256(ids).hexdigest(),
        hashlib.sha256(content).hexdigest() if content else None,
        plan.setting.hash,
    )
    if stated != is_so:
        raise UserError("its plan is not the one that its identity names")
    if not run.is_merged():
        raise UserError("its summary does not fit its parts")
    run.finished()


def _is_here(run: str, staging: Path, results: Path) -> bool:
    """Whether the run is here with the same counts.  Raises ``UserError`` when it is here with others."""
    here = results / "runs" / run
    if not here.exists():
        return False
    try:
        same = (here / COUNTS).read_bytes() == (staging / run / COUNTS).read_bytes() and bool(Run(here).finished())
    except (OSError, UserError):
        same = False
    if not same:
        raise UserError(
            f"{here} is there with other bytes than the bundle has, so nothing was imported.  Look at both: import "
            "into another folder with --results, then `bench compare`"
        )
    return True


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while step := file.read(_STEP_BYTES):
        digest.update(step)
    file.seek(0)
    return digest.hexdigest()
