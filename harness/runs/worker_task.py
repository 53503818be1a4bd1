"""What a worker is told, and where the workers of one pass find each other; without torch."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from .loading import BY_DEVICE, Loading
from .presence import IMAGE_SECONDS, LEASE_SECONDS
from .run import Run
from .sealed import digest_of


class WorkerTask(BaseModel):
    """What a worker is told, as JSON, so that any engine can carry it.

    ``runs`` share their images; ``labels`` says for each where its label maps go.  ``limit``: only the first images.
    ``shard`` ``(i, n)``: every n-th image from the i-th, instead of leases.  ``workers``: how many are expected to be
    at it.  ``device`` and ``data_root``: instead of those of the plan.  ``threads``: of torch, 0 for its own choice.
    ``loading``: how images come to the model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: tuple[Path, ...]
    labels: tuple[Path | None, ...] = ()
    limit: int | None = None
    shard: tuple[int, int] | None = None
    workers: int = 1
    device: str | None = None
    data_root: Path | None = None
    threads: int = 0
    loading: Loading = BY_DEVICE
    lease_seconds: float = LEASE_SECONDS
    image_seconds: float = IMAGE_SECONDS


def pass_folder(runs: Sequence[Run], limit: int | None) -> Path:
    """Where the leases of a pass are: in the first of its runs, so that all who do the same share them."""
    ordered = sorted(((run.plan().digest, run) for run in runs), key=lambda pair: pair[0])
    return ordered[0][1].folder / "leases" / digest_of([*(digest for digest, _ in ordered), limit])[:12]


def threads_for(workers: int, environment: Mapping[str, str] = os.environ) -> int:
    """Threads for one of ``workers`` processes of this machine: its share of the cores that it may use.

    What a scheduler or the user says about cores comes before what the machine has.
    """
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        given = environment.get(name, "")
        if given.isdigit() and int(given):
            return max(1, int(given) // workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
