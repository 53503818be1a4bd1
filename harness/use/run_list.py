"""Which runs a results folder holds and how each stands, from its files alone: no model is made."""

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from ...methods import UserError
from ..report.origin import read_origin
from ..runs.plan import Plan
from ..runs.provenance import source_hash
from ..runs.run import MANIFEST, Finished, Run

State = Literal["finished", "partial", "unfinished", "damaged"]


@dataclass(frozen=True)
class ListedRun:
    """A run folder.

    ``state``: "finished" holds all images, "partial" was merged over some, "unfinished" has images that were not
    merged, or none, "damaged" cannot be read, and ``problem`` says why.  ``miou`` is over the merged images, ``date``
    is when the last of them was done, or for an unfinished run when something was last written.
    ``older_code``: made by other code than this, so `bench run` with the same words begins another run.  ``origin`` is
    the bundle that it was imported from.
    """

    folder: Path
    state: State
    size_bytes: int
    date: str
    plan: Plan | None = None
    finished: Finished | None = None
    done: int = 0
    older_code: bool = False
    origin: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def miou(self) -> float | None:
        """mIoU in percent; None where no class can be averaged, or nothing is merged."""
        return None if self.finished is None else self.finished.summary["miou"]


def all_runs(results: Path) -> list[ListedRun]:
    """Every run folder below ``results``, by name, whatever its state."""
    return [_look_at(folder) for folder in run_folders(results)]


def run_folders(results: Path) -> list[Path]:
    """Folders below ``results/runs``; those that begin with a point are on their way in or out."""
    place = results / "runs"
    return sorted(p for p in place.iterdir() if p.is_dir() and p.name[0] != ".") if place.is_dir() else []


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(p.lstat().st_size for p in files if p.is_symlink() or p.is_file())


def _look_at(folder: Path) -> ListedRun:
    size = size_of(folder)
    try:
        run = Run(folder)
        plan, finished, done = run.plan(), None, 0
        if (folder / MANIFEST).exists():
            finished, done = run.finished(), len(run.done())
        else:
            done = len(run.survey().frame)
        origin = read_origin(folder)
    except UserError as error:
        return ListedRun(folder, "damaged", size, _last_written(folder), problem=str(error))
    return ListedRun(
        folder=folder,
        state=_state(finished, done),
        size_bytes=size,
        date=finished.manifest.finished if finished else _last_written(folder),
        plan=plan,
        finished=finished,
        done=max(done, finished.manifest.images if finished else 0),
        older_code=plan.identity["source_hash"] != source_hash(),
        origin=origin.name if origin else "",
    )


def _state(finished: Finished | None, done: int) -> State:
    if finished is None or done > finished.manifest.images:
        return "unfinished"
    return "finished" if finished.result.complete else "partial"


def _last_written(folder: Path) -> str:
    newest = max((p.lstat().st_mtime for p in folder.rglob("*") if p.is_file()), default=folder.stat().st_mtime)
    return datetime.fromtimestamp(newest, timezone.utc).isoformat(timespec="microseconds")
