"""SLURM, by submitit: workers as one job array; queued, requeued and ended by the cluster.

What is done stands in the parts, and which worker is alive in the queue and in the files that submitit writes.
Accounting (``sacct``) is never asked: many clusters have none.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...methods import UserError
from ..runs.storing import made_folder, store
from ..runs.worker_task import WorkerTask
from .door import Status

LEAST_MINUTES = 20
"""In shorter jobs submitit takes every warning signal for a time limit."""
_ALIVE = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESIZING")
_RUNNING = ("RUNNING", "STAGE_OUT", "SIGNALING", "STOPPED")
_ENDING = ("COMPLETING",)
_JOBS = "jobs.json"
_TIMES_OUT = 1000
"""A job may come to its time limit as often as it takes: what it finished is in the parts."""


class Submitted:
    """A worker as submitit pickles it: an importable class that holds text."""

    def __init__(self, task: str) -> None:
        self.task = task

    def __call__(self) -> str:
        """Do the task; what a user has to mend, or nothing."""
        from ...datasets import DataError
        from ..runs.worker import work

        try:
            work(WorkerTask.model_validate_json(self.task))
        except (UserError, DataError) as error:
            return str(error)
        return ""

    def checkpoint(self) -> Any:
        """Queue the same task again when time is up or the job is preempted."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    __submitit_checkpoint__ = checkpoint  # submitit asks whether the one is there, and calls the other


class Slurm:
    """Workers in a SLURM cluster; ``settings`` are ``#SBATCH --KEY=VALUE``.

    ``folder`` is on a disk that all nodes see: scripts, logs and the names of the jobs are kept there, so that a later
    process finds jobs that were left running.
    """

    poll_seconds = 5.0

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        check_here(folder)
        import submitit

        logging.getLogger("submitit").setLevel(logging.ERROR)
        self._folder = made_folder(folder.resolve())
        settings = dict(settings)
        minutes = minutes_of(settings.pop("time", "60"))
        self._executor = submitit.SlurmExecutor(self._folder, max_num_timeout=_TIMES_OUT)
        self._executor.update_parameters(
            time=max(minutes, LEAST_MINUTES),
            job_name="ovss-bench",
            additional_parameters={"requeue": True, **settings},
        )
        self._paths = partial(submitit.core.utils.JobPaths, self._folder)
        self._load = submitit.core.utils.pickle_load
        self._submitted: set[str] = set()
        if _queue() is None:
            raise UserError("--engine slurm: squeue does not answer; is the cluster up, and SLURM_CONF right?")

    def submit(self, tasks: Sequence[WorkerTask]) -> list[str]:
        """See ``Engine.submit``; all workers at these images that an earlier process left in the queue come first."""
        kept, todo = self._kept(), list(tasks)
        found: list[str] = []
        passes = {_pass_of(task) for task in tasks}
        for name in self._waiting([name for name in kept if name not in self._submitted]):
            if kept[name] in passes:
                found.append(name)
                same = next((task for task in todo if _pass_of(task) == kept[name]), None)
                if same is not None:
                    todo.remove(same)
        names = self._submit_new(todo) if todo else []
        self._keep(kept | {name: _pass_of(task) for name, task in zip(names, todo, strict=True)})
        self._submitted.update(found, names)
        return [*found, *names]

    def _submit_new(self, tasks: Sequence[WorkerTask]) -> list[str]:
        new = [Submitted(task.model_dump_json()) for task in tasks]
        try:
            jobs = self._executor.submit_array(new) if new[1:] else [self._executor.submit(new[0])]
        except Exception as error:  # submitit hands on whatever sbatch says
            raise UserError(f"sbatch refused: {error}") from error
        return [str(job.job_id) for job in jobs]

    def poll(self, names: Sequence[str]) -> dict[str, Status]:
        """See ``Engine.poll``."""
        queue = _queue()
        return {name: self._status(name, "RUNNING" if queue is None else queue.get(name, "")) for name in names}

    def cancel(self, names: Sequence[str]) -> None:
        """See ``Engine.cancel``; the cluster does it in its own time."""
        if names:
            _call("scancel", *names)
            self._keep({name: at for name, at in self._kept().items() if name not in names})

    def log_of(self, name: str) -> Path:
        """What a worker wrote to standard error."""
        return Path(self._paths(name, 0).stderr)

    def _status(self, name: str, state: str) -> Status:
        result = self._result_of(name)
        outcome, value = self._load(result) if result.is_file() else ("", None)
        if outcome == "success":
            return Status("refused", str(value)) if value else Status("done")
        if state in _ALIVE:  # with a failure written down, too: it was requeued
            return Status("waiting")
        if state in _RUNNING + _ENDING:
            return Status("running")
        return Status("failed", (not outcome and state) or f"see {self.log_of(name)}")

    def _kept(self) -> dict[str, str]:
        """Jobs that were submitted, and the pass that each is at."""
        with contextlib.suppress(OSError, ValueError):
            return {str(name): str(at) for name, at in json.loads((self._folder / _JOBS).read_bytes()).items()}
        return {}

    def _keep(self, jobs: Mapping[str, str]) -> None:
        store(self._folder / _JOBS, json.dumps(jobs).encode())

    def _waiting(self, names: Sequence[str]) -> list[str]:
        """Those that are in the queue and have not said that all is done."""
        queue = _queue() or {}
        there = {name: queue[name] for name in names if queue.get(name) in _ALIVE + _RUNNING}
        return [name for name, state in there.items() if self._status(name, state).state in ("waiting", "running")]

    def _result_of(self, name: str) -> Path:
        return Path(self._paths(name, 0).result_pickle)


def _pass_of(task: WorkerTask) -> str:
    """What workers must have in common to do the same; how many they are and how they load is no part of it."""
    return task.model_dump_json(include={"runs", "labels", "limit"})


def minutes_of(text: str) -> int:
    """A time limit as ``sbatch --time`` takes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; in minutes, rounded up."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise UserError(f"--slurm time={text} is no time limit: minutes, or [days-]hours:minutes:seconds")
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = ([0, *parts, 0] if len(parts) < 3 else parts)[:3]
    return int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)


def check_here(folder: Path) -> None:
    """Raise ``UserError`` unless jobs can be submitted from here, and other nodes see ``folder``.

    A folder for temporary files is on this machine's own disk.
    """
    if find_spec("submitit") is None:
        raise UserError("--engine slurm needs submitit: pip install 'ovss-bench[slurm]'")
    if shutil.which("sbatch") is None:
        raise UserError("--engine slurm needs the command sbatch, which is not here: run it on a login node")
    folder = folder.resolve()
    for local in {Path(tempfile.gettempdir()).resolve(), Path("/dev/shm")}:
        if folder.is_relative_to(local) and not os.environ.get("OVSS_SHARED_TMP"):
            raise UserError(
                f"{folder} is below {local}, which other nodes do not see: choose --results on a shared disk, or set "
                "OVSS_SHARED_TMP=1 if they do"
            )


def _queue() -> dict[str, str] | None:
    """State of every job of this user that has not left the queue; None while SLURM does not answer.

    It is not asked for single jobs: one that it has forgotten looks then as if it did not answer.
    """
    said = _call("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i %T")
    return None if said is None else dict(words for line in said.splitlines() if len(words := line.split()) == 2)


def _call(*command: str) -> str | None:
    """Output of a command of SLURM; None when it fails, or takes more than a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
