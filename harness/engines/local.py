"""Local: workers as processes of this machine, on its cores or one for each GPU.  Nothing here imports torch.

Where the platform has a fork server, it imports what is heavy once, and workers for the CPU start as copies of it.  The
server computes nothing and touches no GPU: CUDA and OpenMP do not survive a fork once they have begun to work.  A
worker for a GPU is a process of its own that sees no other GPU.
"""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from ..runs.presence import HUNG, forget
from ..runs.worker_task import WorkerTask
from .door import Status

_HEAVY = ["ovss.harness.runs.worker", "ovss.methods.models.clip_library"]
_KIND = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_stop: Any = None
"""In a worker: shared byte, 1 when another has failed or the user has interrupted.  It has no lock, so that a worker
which is killed while it reads blocks nobody."""


class Local:
    """Workers on this machine; ``gpus``: one worker sees one of these (ids or UUIDs), in turn; without, none is set."""

    poll_seconds = 0.5

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        self._gpus = gpus
        self._context: Any = multiprocessing.get_context("spawn") if gpus else worker_context()
        self._stop = self._context.RawValue("b", 0)
        self._workers: dict[str, _Worker] = {}
        self._started = 0

    def submit(self, tasks: Sequence[WorkerTask]) -> list[str]:
        """See ``Engine.submit``."""
        names = []
        for task in tasks:
            gpu = self._free_gpu()
            ours, theirs = self._context.Pipe(duplex=False)
            environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
            process = self._context.Process(
                target=_work, args=(task.model_dump_json(), theirs, self._stop, environment), daemon=False
            )
            with _environment(environment if gpu else {}):  # a spawned worker imports torch before any line of ours
                process.start()
            theirs.close()
            name = f"local-{self._started}"
            self._started += 1
            self._workers[name] = _Worker(task, process, ours, gpu)
            names.append(name)
        return names

    def poll(self, names: Sequence[str]) -> dict[str, Status]:
        """See ``Engine.poll``."""
        return {name: self._workers[name].status() for name in names}

    def cancel(self, names: Sequence[str]) -> None:
        """See ``Engine.cancel``."""
        self._stop.value = 1
        for name in names:
            self._workers[name].process.join()

    def _free_gpu(self) -> str:
        busy = [w.gpu for w in self._workers.values() if w.process.is_alive()]
        return min(self._gpus, key=busy.count, default="")


class _Worker:
    def __init__(self, task: WorkerTask, process: BaseProcess, said: Connection, gpu: str) -> None:
        self.task, self.process, self.said, self.gpu = task, process, said, gpu

    def status(self) -> Status:
        code = self.process.exitcode
        if code is None:
            return Status("running")
        try:
            said = self.said.recv() if self.said.poll() else ""
        except EOFError:  # it died before it could say anything
            said = ""
        if code == 0 and not said:
            return Status("done")
        if said:
            return Status("refused", said)
        for run in self.task.runs:
            assert self.process.pid is not None
            forget(run, self.process.pid)
        return Status("failed", "it hung" if code == HUNG else f"exit code {code}")


def _work(task: str, said: Connection, stop: Any, environment: Mapping[str, str]) -> None:
    """In a worker: do the task, and say what a user has to mend."""
    prepare(stop, environment)
    from ...datasets import DataError
    from ...methods import UserError
    from ..runs.worker import work

    try:
        work(WorkerTask.model_validate_json(task), stopped)
    except (UserError, DataError) as error:
        if os.environ.get("OVSS_DEBUG"):
            traceback.print_exc()
        said.send(str(error))
    except KeyboardInterrupt:  # the one who asked has it too, and tells
        pass


def worker_context() -> BaseContext:
    """How workers for the CPU are started."""
    context = multiprocessing.get_context(_KIND)
    context.set_forkserver_preload(_HEAVY)
    return context


def start_early() -> None:
    """Let the server import what workers need while this process does the same; to call it twice is harmless."""
    if worker_context().get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        ensure_running()


def prepare(stop: Any, environment: Mapping[str, str]) -> None:
    """Start a worker that ends when the process that asked for it is gone: a killed run must not go on behind its back.

    ``environment`` is that of the run; a server has the one of the moment when it was started.
    """
    global _stop
    _stop = stop
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def stopped() -> bool:
    """In a worker: whether it is to take no further image."""
    return bool(_stop.value)


def _end_with_parent() -> None:
    """The parent is who asked; ``os.getppid`` is the server."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
