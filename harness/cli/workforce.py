"""Who works on a run, from the flags of ``bench run`` and ``bench suite``."""

from dataclasses import dataclass
from pathlib import Path

from ..engines.choose import Where
from ..engines.names import EngineName
from .name_value import texts_of


@dataclass(frozen=True)
class Workforce:
    """How many workers, and where; None: here, and nothing was said of it."""

    count: int
    where: Where | None


def workforce(
    device: str,
    results: Path,
    workers: int | None,
    engine: EngineName,
    gpus: str,
    slurm: list[str],
    ray: str,
    detach: bool,
) -> Workforce:
    """What the flags say.  Raises ``UserError`` for what does not go together or is not here."""
    where = Where(engine, gpus, texts_of(slurm, "--slurm"), ray, detach)
    where.check(device, results)
    return Workforce(workers or len(where.gpu_ids()) or 1, where if where != Where() else None)
