"""Runs: a plan, immutable parts, a manifest; one folder per run.

A run folder is named by what decides its numbers (method, weights, protocol, vocabulary, images and labels, code), so
the same command finds the same folder: it goes on where it stopped, and a finished run answers at once.

    plan.json        what is to be done: ``spec``, image ids, every hash   written first
    parts/*.parquet  per-image counts, written as the work goes on
    leases/ workers/ who does what, while several processes are at it
    counts.parquet   all parts merged and sorted                           the same bytes in every history
    metrics.json     metrics of counts.parquet, for other programs         likewise; never read back
    manifest.json    provenance, timing and memory                         written last

Every file carries a checksum.  What stands in the last three follows from the first two, so ``Run.merge`` makes them
again whenever one is absent or damaged.
"""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...datasets import clusters_of
from ...datasets.writing import clean_temporaries
from ...methods import UserError
from ..metrics.result import EvalResult
from . import parts
from .counts_file import CountsFile
from .manifest import Manifest, images_sha256, make_manifest, read_manifest
from .merging import write_counts
from .packing import pack
from .plan import Plan, read_plan
from .presence import living
from .storing import made_folder, sha256_of, store
from .survey import Survey, survey

PLAN, MANIFEST, METRICS, COUNTS = "plan.json", "manifest.json", "metrics.json", "counts.parquet"
ORIGIN = "origin.json"
"""Which bundle an imported run comes from."""


class Run:
    """A run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts_folder = folder / "parts"

    @classmethod
    def at(cls, results: Path, plan: Plan) -> "Run":
        """The folder of ``plan`` below ``results``, whether it is there or not."""
        return cls(results / "runs" / plan.name)

    def begin(self, plan: Plan, fresh: bool = False) -> None:
        """Write the plan, and first delete what was done if ``fresh``.  To be called under the lock.

        The plan is written each time: paths of data and weights may have changed, its identity has not.

        Raises ``UserError`` when workers are at it, on this machine or another, whose work would be deleted.
        """
        at_it = living(self.folder)
        if not at_it:
            shutil.rmtree(self.folder / "leases", ignore_errors=True)  # images that were given up are tried again
        elif fresh:
            raise UserError(
                f"--fresh would delete what {len(at_it)} workers are writing to {self.folder} "
                f"({', '.join(sorted(at_it)[:3])}: machine, process): stop them, or wait for them"
            )
        if fresh:
            for name in (MANIFEST, METRICS, COUNTS, ORIGIN):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.parts_folder, ignore_errors=True)
        self._make_folders()
        for folder in (self.folder, self.parts_folder):
            clean_temporaries(folder)
        store(self.folder / PLAN, plan.sealed())
        parts.set_aside_damaged(self.parts_folder)
        pack(self.parts_folder, plan)

    def _make_folders(self) -> None:
        made_folder(self.parts_folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Refuse to begin or merge a run while another process of this machine does.

        A courtesy: workers take no lock, and what is correct does not depend on one.
        """
        self._make_folders()
        try:
            file = (self.folder / ".lock").open("a+")
        except OSError as error:
            raise UserError(f"run folder {self.folder} cannot be written: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = file.read().strip() or "another process"
                raise UserError(f"{who} is working on {self.folder}: wait for it, or stop it") from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M},")
            file.flush()
            yield
            file.truncate(0)

    def clear_up(self) -> None:
        """Remove what workers kept to share the images out, when none is at it any more."""
        if not living(self.folder):
            for name in ("leases", "workers"):
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def plan(self) -> Plan:
        """Raises ``UserError`` when the folder is no run or its plan is damaged."""
        if not (self.folder / PLAN).is_file():
            raise UserError(f"{self.folder} is not a run folder: it has no {PLAN}")
        return read_plan(self.folder / PLAN)

    def survey(self) -> Survey:
        """What was done so far, every part read and judged."""
        return survey(self.parts_folder, self.plan())

    def done(self) -> set[str]:
        """Images that some part holds; whether the parts agree is seen when they are merged."""
        return parts.images_done(self.parts_folder)

    def missing(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Images of ``wanted`` that no part holds yet."""
        done = self.done()
        return tuple(i for i in wanted if i not in done)

    def is_merged(self) -> bool:
        """Whether the summary files are whole and speak of every image in the parts."""
        try:
            manifest = self.manifest()
            counts, metrics = (_sha256(self.folder / name) for name in (COUNTS, METRICS))
        except (OSError, UserError):
            return False
        plan = self.plan()
        frame = survey(self.parts_folder, plan).frame
        return (
            manifest.plan == plan.digest
            and bool(len(frame))
            and manifest.images_sha256 == images_sha256(frame)
            and manifest.counts_sha256 == counts
            and manifest.metrics_sha256 == metrics
        )

    def answers(self, plan: Plan, wanted: tuple[str, ...]) -> bool:
        """Whether the run holds ``wanted`` and is merged, so that nothing has to be written."""
        try:
            return self.plan().digest == plan.digest and self.is_merged() and not self.missing(wanted)
        except UserError:
            return False  # what is damaged is told when it is worked on

    def merge(self, wanted: tuple[str, ...] = ()) -> None:
        """Write the summary files from the plan and the parts.

        Raises ``UserError`` when nothing is done yet, or an image of ``wanted`` is not.
        """
        missing = self.missing(wanted)
        if missing:
            raise UserError(
                f"{self.folder} lacks {len(missing)} of {len(wanted)} images, {missing[0]} for one: `bench worker "
                f"{self.folder}` does them.  --partial calls what is there a part"
            )
        plan = self.plan()
        found = survey(self.parts_folder, plan)
        if not found.stamps:
            raise UserError(f"nothing of run {self.folder} is done yet: `bench run` works on it")
        forget = (self.folder / MANIFEST).unlink  # an old one must never stand beside new counts
        counts = write_counts(self.folder / COUNTS, found, plan, lambda: forget(missing_ok=True))
        manifest = make_manifest(self.folder.name, plan, found, counts)
        del found  # of a million images it is large
        metrics = _json(_evaluated(CountsFile(self.folder / COUNTS, counts, len(plan.record.classes)), plan).summary())
        store(self.folder / METRICS, metrics)
        store(self.folder / MANIFEST, manifest.beside(metrics).sealed())

    def manifest(self) -> Manifest:
        """Raises ``UserError`` when the run was never finished, is damaged or of an older version."""
        return read_manifest(self.folder / MANIFEST)

    def finished(self, wanted: tuple[str, ...] | None = None) -> "Finished":
        """The run as it was merged, every file checked; its counts and result over ``wanted`` (default: all images).

        Raises ``UserError`` when a file is absent or damaged.
        """
        plan, manifest = self.plan(), self.manifest()
        counts = CountsFile(
            self.folder / COUNTS,
            manifest.counts_sha256 if manifest.plan == plan.digest else "",
            len(plan.record.classes),
        )
        return Finished(self, plan, manifest, counts, _evaluated(counts, plan, wanted))


@dataclass(frozen=True)
class Finished:
    """A merged run: the file with its counts, and ``result``, computed from them now."""

    run: Run
    plan: Plan
    manifest: Manifest
    counts: CountsFile
    result: EvalResult

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.run.folder.name

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.folder

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Counts per image, as a table in memory."""
        frame = self.counts.frame()
        return frame[frame["image"].isin(self.result.ids)].reset_index(drop=True)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Every metric, in percent, as JSON values."""
        return self.result.summary()


def list_runs(results: Path) -> list[Run]:
    """Finished (complete or partial) runs below ``results``, by name."""
    return [Run(p.parent) for p in sorted((results / "runs").glob(f"*/{MANIFEST}"))]


def find_run(name: str, results: Path = Path("results")) -> Run:
    """A run by its folder, its name, a unique beginning of it, or without the hash at its end (the newest such run).

    Raises ``UserError`` when none or several fit.
    """
    if (Path(name) / PLAN).is_file():
        return Run(Path(name))
    runs = list_runs(results)
    same = [r for r in runs if name in (r.folder.name, r.folder.name.rpartition("-")[0])]
    if same:
        return max(same, key=_date) if len(same) > 1 else same[0]
    fitting = [r for r in runs if r.folder.name.startswith(name)]
    if len(fitting) != 1:
        known = "\n".join(f"  {r.folder.name}" for r in (fitting or runs))
        reason = "several runs begin with" if fitting else "no run is named"
        raise UserError(f"{reason} {name!r} in {results / 'runs'}:\n{known or '  (there are no runs)'}")
    return fitting[0]


def _date(run: Run) -> str:
    """When a run was finished; one that cannot be read is older than all others."""
    try:
        return run.manifest().finished
    except UserError:
        return ""


def _evaluated(counts: CountsFile, plan: Plan, wanted: tuple[str, ...] | None = None) -> EvalResult:
    """The result over ``wanted`` (default: all images)."""
    ids, chosen = counts.ids, np.ones(len(counts.ids), bool)
    if wanted is not None:
        asked = set(wanted)
        chosen = np.array([i in asked for i in ids], bool)
        ids = tuple(i for i, is_wanted in zip(ids, chosen, strict=True) if is_wanted)
    return EvalResult(
        record=plan.record,
        ids=ids,
        counts=counts.counts().at(chosen),
        clusters=clusters_of(plan.record, ids),
        planned=plan.planned,
        averaging=plan.setting.averaging,
        boundary=counts.counts("boundary_").at(chosen) if plan.spec.boundary else None,
        confusion=counts.confusion(chosen) if plan.spec.confusion else None,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
