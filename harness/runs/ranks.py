"""Which share of the work a process has, as its launcher says in the environment; for ``--shard auto``.

Leases need none of this: it is for places where workers cannot see each other's files in time, and for equal workers.
"""

from collections.abc import Mapping

from ...methods import UserError

LAUNCHERS = (
    ("SLURM tasks", "SLURM_PROCID", "SLURM_NTASKS"),
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI", "PMI_RANK", "PMI_SIZE"),
    ("Kubernetes indexed job", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
)
"""Name, variable of the rank from 0, variable of their number.  Kubernetes sets the number only where the job's
template does."""


def shard_of(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """``"i/n"`` with ``0 <= i < n``, or ``"auto"``: what a SLURM array or a launcher of ``LAUNCHERS`` says.

    Raises ``UserError`` for anything else, when nothing is said, and when two say different things.
    """
    if text != "auto":
        return _checked("--shard", *_halves(text))
    found = {name: share for name, share in _said(environment) if share[1] > 1}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{name} {i}/{n}" for name, (i, n) in found.items())
        raise UserError(f"--shard auto finds shares that disagree: {told}.  Say which: --shard i/n")
    if not found:
        names = ", ".join(name for name, *_ in LAUNCHERS)
        raise UserError(f"--shard auto finds no share: no SLURM array of several, {names}.  Say it: --shard i/n")
    return next(iter(found.values()))


def _said(environment: Mapping[str, str]) -> list[tuple[str, tuple[int, int]]]:
    found = []
    array = {key: environment.get(f"SLURM_ARRAY_TASK_{key}", "") for key in ("ID", "MIN", "MAX", "COUNT", "STEP")}
    if array["ID"]:
        number, least, most, count = (_whole(f"SLURM_ARRAY_TASK_{k}", array[k]) for k in ("ID", "MIN", "MAX", "COUNT"))
        if most - least + 1 != count:  # ids 3 and 7 have a count of 2: which of how many is not known
            raise UserError(f"--shard auto: array ids {least} to {most} have gaps.  Say the share: --shard i/n")
        found.append(("SLURM array", _checked("SLURM_ARRAY_TASK_ID", number - least, count)))
    for name, rank, size in LAUNCHERS:
        if environment.get(rank) and environment.get(size):
            share = _whole(rank, environment[rank]), _whole(size, environment[size])
            found.append((name, _checked(rank, *share)))
    return found


def _halves(text: str) -> tuple[int, int]:
    index, _, number = text.partition("/")
    return _whole("--shard", index), _whole("--shard", number)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{name}: {text!r} is no whole number; a share is i/n, for example --shard 0/4, or auto")
    return int(text)


def _checked(name: str, index: int, number: int) -> tuple[int, int]:
    if not 0 <= index < number:
        raise UserError(f"{name}: there is no share {index} of {number}: they are 0/{number} to {number - 1}/{number}")
    return index, number
