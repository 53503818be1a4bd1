"""``plan``, ``worker`` and ``merge``: a run in three steps, for any number of machines."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...methods import UserError
from ..runs.leases import given_up
from ..runs.plan import RunSpec
from ..runs.run import PLAN, Finished, Run, find_run
from ..runs.worker_task import WorkerTask, pass_folder
from ..show.telling import Progress, Say, counting, unsaid, unseen
from .run import check_call, planned

if TYPE_CHECKING:
    from collections.abc import Callable


def plan_runs(
    pairs: Sequence[RunSpec],
    results: Path = Path("results"),
    fresh: bool = False,
    progress: Progress = unseen,
    say: Say = unsaid,
    allow_download: bool = False,
) -> list[Run]:
    """Check methods and data, and write the plan of each run: what workers need.  The runs of ``pairs``, in order."""
    asked = list(pairs)
    check_call(asked, None, 1)
    lanes, plans, _ = planned(asked, results, None, progress, say, allow_download)
    for lane, plan in zip(lanes, plans, strict=True):
        with lane.run.lock():
            lane.run.begin(plan, fresh)
    return [lane.run for lane in lanes]


def do_work(task: WorkerTask, stopped: "Callable[[], bool]", progress: Progress = unseen) -> list[str]:
    """Be a worker until nothing is missing; images that were given up."""
    from ..runs.worker import work

    progress("loading PyTorch", 0, 0)
    runs = [Run(folder) for folder in task.runs]
    total = sum(len(run.missing(wanted_of(run, task))) for run in runs)
    work(task, stopped, counting(progress, "this worker's images", total))
    return given_up(pass_folder(runs, task.limit))


def wanted_of(run: Run, task: WorkerTask) -> tuple[str, ...]:
    """Images of a run that a worker is to see to."""
    wanted = run.plan().ids[: task.limit]
    return wanted[task.shard[0] :: task.shard[1]] if task.shard else wanted


def merge_runs(runs: Sequence[Run], limit: int | None = None, partial: bool = False) -> list[Finished]:
    """Merge the parts of runs.

    Raises ``UserError`` when one of the first ``limit`` images (default: all) is missing, unless ``partial``.
    """
    found = []
    for run in runs:
        wanted = run.plan().ids[:limit]
        with run.lock():
            run.merge(() if partial else wanted)
            run.clear_up()
        found.append(run.finished(None if partial else wanted))
    return found


def planned_run(name: str, results: Path) -> Run:
    """A run that was planned, finished or not: by its folder or its name.  Raises ``UserError`` if there is none."""
    for folder in (Path(name), results / "runs" / name):
        if (folder / PLAN).is_file():
            return Run(folder.resolve())
    return Run(find_run(name, results).folder.resolve())


def check_shared(runs: Sequence[Run]) -> None:
    """Raise ``UserError`` unless the runs have the same images, so that a worker can do them in one pass."""
    first, *others = runs
    for other in others:
        if other.plan().ids != first.plan().ids:
            raise UserError(f"{first.folder} and {other.folder} do not have the same images: give each its own workers")
