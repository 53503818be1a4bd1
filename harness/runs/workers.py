"""Workers: processes that share their imports, and end when their run does.  Nothing here imports torch.

Where the platform has a fork server, it imports what is heavy once, and every worker starts as a copy of it.  The
server computes nothing and touches no GPU: CUDA and OpenMP do not survive a fork once they have begun to work.
"""

import multiprocessing
import os
import threading
from collections.abc import Mapping
from multiprocessing.context import BaseContext
from typing import Any

_HEAVY = [f"{__package__}.engine", "open_clip"]
_KIND = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_stop: Any = None
"""In a worker: shared byte, 1 when another has failed or the user has interrupted.  It has no lock, so that a worker
which is killed while it reads blocks nobody."""


def worker_context() -> BaseContext:
    """How workers are started."""
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
