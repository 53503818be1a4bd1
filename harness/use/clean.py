"""``find_litter`` and ``remove``: what a results folder can do without.

A run at which somebody works is left alone: its lock is held, or something in it was written a moment ago, since
workers on other machines hold no lock but touch a file while they live.
"""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...datasets.writing import left_temporaries
from ...methods import UserError
from ..runs.run import Run
from ..runs.sealed import digest_of
from .run_list import ListedRun, all_runs, run_folders, size_of

AT_WORK_SECONDS = 180
"""A run in which something was written so lately is left alone."""
PASSING = (".import-", ".clean-")
"""Beginnings of the names of folders on their way into ``results/runs``, or out of it."""
_LEFT_SECONDS = 3600
_CHANGING = ("source_hash", "method_source_hash", "method", "guide")
"""What of a run's identity changes with code and weights while the words of the command stay."""
Kind = Literal["temporary", "damaged part", "superseded run"]


@dataclass(frozen=True)
class Litter:
    """A file or folder that is not needed, and ``why``; ``images`` are the results that it holds."""

    kind: Kind
    path: Path
    size_bytes: int
    why: str
    images: int = 0

    @property
    def holds_results(self) -> bool:
        """Whether removing it takes results away."""
        return self.kind == "superseded run"


def find_litter(results: Path) -> list[Litter]:
    """Temporary files, parts that were set aside as damaged, and superseded runs.

    A run is superseded by one of the same words that was finished later over no fewer images, when only code and
    weights differ.  What the code that runs now made with the same weights is not: the same words may lead to it still.
    Imported runs neither supersede nor are superseded.
    """
    idle = [folder for folder in run_folders(results) if not is_at_work(folder)]
    return [*_temporaries(results, idle), *_damaged_parts(idle), *_superseded(all_runs(results), set(idle))]


def remove(litter: Litter) -> None:
    """Remove it; a run as a whole or not at all.

    Raises ``UserError`` when somebody has begun to work on the run since it was found, or it cannot be removed.
    """
    try:
        if litter.holds_results:
            _remove_run(litter.path)
        elif litter.path.is_dir():
            shutil.rmtree(litter.path)
        else:
            litter.path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{litter.path} could not be removed: {error.strerror or error}") from error


def is_at_work(folder: Path) -> bool:
    """Whether somebody works on a run: its lock is held, or something was written in ``AT_WORK_SECONDS``."""
    since = time.time() - AT_WORK_SECONDS
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.lstat().st_mtime > since:
                return True
    return _is_locked(folder / ".lock")


def _is_locked(path: Path) -> bool:
    with suppress(FileNotFoundError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove_run(folder: Path) -> None:
    """Out of the way by one rename, so that no half of it is ever taken for a run."""
    if is_at_work(folder):
        raise UserError(f"somebody works on {folder}: it stays")
    gone = folder.with_name(f"{PASSING[1]}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    with Run(folder).lock():
        folder.rename(gone)
    shutil.rmtree(gone)


def _temporaries(results: Path, idle: Iterable[Path]) -> list[Litter]:
    runs = results / "runs"
    inside = [below for folder in idle for below in (folder, *(p for p in folder.rglob("*") if p.is_dir()))]
    files = [path for folder in (results, runs, *inside) for path in left_temporaries(folder)]
    since = time.time() - _LEFT_SECONDS
    passing = [p for p in runs.glob(".*") if p.name.startswith(PASSING) and p.stat().st_mtime < since]
    return [
        Litter("temporary", path, size_of(path), "left by a process that is gone")
        for path in (*files, *sorted(passing))
    ]


def _damaged_parts(idle: Iterable[Path]) -> list[Litter]:
    found = [path for folder in idle for path in sorted(Run(folder).parts_folder.glob("damaged-*"))]
    return [Litter("damaged part", p, size_of(p), "its bytes do not fit its checksum") for p in found]


def _superseded(runs: Sequence[ListedRun], idle: set[Path]) -> list[Litter]:
    own = [run for run in runs if run.plan is not None and not run.origin]
    later: dict[str, ListedRun] = {}
    for run in own:
        words = _words(run)
        if run.finished is not None and (words not in later or run.date > later[words].date):
            later[words] = run
    found = []
    for run in own:
        by = later.get(_words(run))
        if run.folder in idle and by is not None and _supersedes(by, run):
            found.append(Litter("superseded run", run.folder, run.size_bytes, f"by {by.name}", run.done))
    return found


def _supersedes(later: ListedRun, earlier: ListedRun) -> bool:
    assert later.plan is not None and earlier.plan is not None
    other_weights = later.plan.identity["method"] != earlier.plan.identity["method"]
    newer = later.folder != earlier.folder and later.date > earlier.date and later.done >= earlier.done
    return newer and (earlier.older_code or other_weights)


def _words(run: ListedRun) -> str:
    """What was asked for, and everything of the identity that the words decide."""
    assert run.plan is not None
    identity: dict[str, Any] = {k: v for k, v in run.plan.identity.items() if k not in _CHANGING}
    return digest_of([run.plan.spec.model_dump(mode="json", exclude={"data_root", "device"}), identity])
