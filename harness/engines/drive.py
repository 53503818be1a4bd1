"""Drive: keep workers at a pass until nothing is missing.  The only loop; it knows no engine."""

import time
from collections.abc import Callable, Sequence

from ...methods import UserError
from ..runs.leases import given_up
from ..runs.parts import images_in
from ..runs.run import Run
from ..runs.worker_task import WorkerTask, pass_folder
from .door import Engine

_FRUITLESS = 5
"""So many workers may die one after the other before one image is done or given up: an image that ends workers is
given up at the fourth."""


def drive(engine: Engine, task: WorkerTask, workers: int, advance: Callable[[int], None], detach: bool = False) -> None:
    """Do what is missing with ``workers`` workers of an engine; one that dies is replaced.

    ``detach``: leave them alone, by ``DetachedError``.

    Raises ``UserError`` of the first worker that refuses, when workers die without an image between them, and at the
    end for images that were given up; what was finished is kept in any case.
    """
    progress = _Progress(task, advance)
    names = engine.submit([task] * workers)
    if detach:
        raise DetachedError(names)
    try:
        _keep_at_it(engine, task, names, progress)
        progress.look()
    finally:
        engine.cancel(names)
    hopeless = given_up(progress.folder)
    if hopeless:
        raise UserError(
            f"{len(hopeless)} images ended every worker that began them, {hopeless[0]} for one, and are not scored.  "
            "What was finished is kept, and the run is incomplete: run the same command again to try them once more; "
            "`bench merge --partial` does without them"
        )


def _keep_at_it(engine: Engine, task: WorkerTask, names: list[str], progress: "_Progress") -> None:
    """Until all workers have ended, or nothing is left for those that still wait for a place; ``names`` is kept."""
    died = 0
    while names:
        time.sleep(engine.poll_seconds)
        died = 0 if progress.look() else died
        found = engine.poll(names)
        for name, status in found.items():
            if status.state in ("done", "failed", "refused"):
                names.remove(name)
            if status.state == "refused":
                raise UserError(status.said)
            if status.state == "failed" and not progress.is_over():
                died += 1
                if died == _FRUITLESS:
                    raise UserError(_why_dead(status.said))
                names += engine.submit([task])
        if all(name in found and found[name].state == "waiting" for name in names) and progress.is_over():
            return


class DetachedError(Exception):
    """Workers were started, and nobody waits for them; ``names`` are theirs."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = tuple(names)


class _Progress:
    def __init__(self, task: WorkerTask, advance: Callable[[int], None]) -> None:
        self._runs = [Run(folder) for folder in task.runs]
        self._limit, self._advance = task.limit, advance
        self.folder = pass_folder(self._runs, task.limit)
        self._stored, self._hopeless = self._count(), len(given_up(self.folder))

    def look(self) -> bool:
        """Tell how many more are done; whether any image was done or given up since the last look."""
        stored, hopeless = self._count(), len(given_up(self.folder))
        new = (stored, hopeless) != (self._stored, self._hopeless)
        self._advance(stored - self._stored)
        self._stored, self._hopeless = stored, hopeless
        return new

    def is_over(self) -> bool:
        """Whether every image was done or given up.  Parts are read only where their names say that it may be."""
        hopeless = set(given_up(self.folder))
        wanted = [run.plan().ids[: self._limit] for run in self._runs]
        if self._count() < sum(len(ids) - len(hopeless) for ids in wanted):
            return False
        return all(set(run.missing(ids)) <= hopeless for run, ids in zip(self._runs, wanted, strict=True))

    def _count(self) -> int:
        return sum(images_in(run.parts_folder) for run in self._runs)


def _why_dead(said: str) -> str:
    return (
        f"{_FRUITLESS} worker processes died one after the other ({said or 'out of memory, or killed'}).  What they "
        "had finished is kept: run the same command again, perhaps with fewer --workers"
    )
