"""Ray: workers as tasks of a cluster that is there, or of this machine.

Tasks, not actors: Ray starts a task again on another node when its node is lost, and what it had finished is in the
parts.
"""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...methods import UserError
from ..runs.worker_task import WorkerTask
from .door import Status

_RETRIES = 3
_ANSWER_SECONDS = 10.0


class Ray:
    """Workers in the cluster at ``address`` ("" for one on this machine); one GPU each if the device is one."""

    poll_seconds = 1.0

    def __init__(self, address: str = "") -> None:
        check_here()
        import ray

        self._ray: Any = ray
        self._ours = ExitStack()
        if not ray.is_initialized():
            _check_answers(address)
            # Ray tells of lost nodes on standard output, where nothing but results belongs.
            self._ours.enter_context(redirect_stdout(sys.stderr))
            self._ours.callback(ray.shutdown)
            try:
                ray.init(address=address or None, log_to_driver=False, logging_level="error")
            except (ConnectionError, RuntimeError, ValueError) as error:
                self._ours.close()
                raise UserError(f"Ray at {address or 'this machine'} cannot be used: {error}") from error
        self._tasks: dict[str, Any] = {}

    def submit(self, tasks: Sequence[WorkerTask]) -> list[str]:
        """See ``Engine.submit``; the names are known in this process only."""
        names = []
        for task in tasks:
            on_gpu = (task.device or "").startswith("cuda")
            remote = self._ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_retries=_RETRIES)(_work)
            name = f"ray-{len(self._tasks)}"
            self._tasks[name] = remote.remote(task.model_dump_json(), str(Path.cwd()))
            names.append(name)
        return names

    def poll(self, names: Sequence[str]) -> dict[str, Status]:
        """See ``Engine.poll``."""
        return {name: self._status(self._tasks[name]) for name in names}

    def cancel(self, names: Sequence[str]) -> None:
        """See ``Engine.cancel``; they are interrupted, write what is finished, and end.  Then Ray is left."""
        for name in names:
            self._ray.cancel(self._tasks[name])
        self._ray.wait([self._tasks[name] for name in names], num_returns=len(names), timeout=10) if names else None
        self._ours.close()

    def _status(self, task: Any) -> Status:
        ended, _ = self._ray.wait([task], timeout=0)
        if not ended:
            return Status("running")
        try:
            said = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return Status("failed", str(error).strip().splitlines()[0])
        return Status("refused", said) if said else Status("done")


def _check_answers(address: str) -> None:
    """Raise ``UserError`` if nobody listens at HOST:PORT: Ray itself tries for more than six minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", for example
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}") from error


def check_here() -> None:
    """Raise ``UserError`` unless Ray is installed."""
    if find_spec("ray") is None:
        raise UserError("--engine ray needs Ray: pip install 'ovss-bench[ray]'")


def _work(task: str, folder: str) -> str:
    """Do the task on a node, in the ``folder`` that names of files start from; what a user has to mend, or nothing."""
    from ovss.datasets import DataError
    from ovss.harness.runs.worker import work

    try:
        os.chdir(folder)
    except OSError as error:
        return f"{folder}, where the run was started, cannot be entered on {socket.gethostname()}: {error.strerror}"
    try:
        work(WorkerTask.model_validate_json(task))
    except (UserError, DataError) as error:
        return str(error)
    return ""
